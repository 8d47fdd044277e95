//! Packets that mean something, with damage as an input asks for it, and a second opinion on checksums.

use crc::{CRC_32_ISCSI, Crc};
use dataplane_common::{SCTP, TCP, UDP};
use dataplane_ebpf::headers::L3;

use crate::{bytes::Bytes, world};

/// The checksum of SCTP.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);
/// Bytes that one packet may have changed.
const CHANGES_MAX: u8 = 8;

/// A packet of the kind asked for; the input then says which bytes are others, and where it ends.
pub(crate) fn frame(kind: u8, bytes: &mut Bytes<'_>) -> Vec<u8> {
    let protocol = match kind & 0x21 {
        0 => TCP,
        1 => UDP,
        _ => SCTP,
    };
    let is_v6 = kind & 2 != 0;
    let how = bytes.take().unwrap_or_default();
    let (src_port, dst_port) = (0x8000 | u16::from(how >> 4), world::PORTS[usize::from(how & 3)]);
    let flags = bytes.take().unwrap_or(0x02);
    let l4 = transport(protocol, src_port, dst_port, flags, usize::from(how & 0x0c));
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let to = usize::from(kind >> 2 & 3);
    if is_v6 {
        frame.extend([0x86, 0xdd]);
        frame.extend(header6(&l4, protocol, &world::CLIENT6, &world::FRONTENDS6[to]));
    } else {
        frame.extend([0x08, 0x00]);
        frame.extend(header4(&l4, protocol, world::CLIENT4, world::FRONTENDS4[to]));
    }
    frame.extend(l4);
    set_checksums(&mut frame);
    damage(&mut frame, bytes);
    frame
}

fn damage(frame: &mut Vec<u8>, bytes: &mut Bytes<'_>) {
    let how = bytes.take().unwrap_or_default();
    for _ in 0..how % (CHANGES_MAX + 1) {
        let (Some(at), Some(value)) = (bytes.take(), bytes.take()) else { break };
        if let Some(byte) = frame.get_mut(usize::from(at)) {
            *byte = value;
        }
    }
    if how & 0x80 != 0 {
        frame.truncate(usize::from(bytes.take().unwrap_or(u8::MAX)));
    }
    if how & 0x40 != 0 {
        set_checksums(frame);
    }
}

/// The packet with its ends exchanged, as an answer has them.
pub(crate) fn reversed(frame: &[u8]) -> Vec<u8> {
    let mut back = frame.to_vec();
    let Some(ip) = Ip::of(frame) else { return back };
    let (addr, len) = ip.addresses;
    for at in 0..len {
        back.swap(addr + at, addr + len + at);
    }
    back.swap(ip.l4, ip.l4 + 2);
    back.swap(ip.l4 + 1, ip.l4 + 3);
    back
}

/// An error about `packet`, of which it quotes as much as the input says, and then damage.
pub(crate) fn error(packet: &[u8], bytes: &mut Bytes<'_>) -> Vec<u8> {
    let Some(ip) = Ip::of(packet) else { return packet.to_vec() };
    let is_v4 = ip.header4.is_some();
    let how = bytes.take().unwrap_or_default();
    let min = ip.l4 + 8;
    let len = (min + usize::from(bytes.take().unwrap_or_default())).min(packet.len());
    let kind = if is_v4 { [3, 11, 12, 8] } else { [1, 2, 3, 128] }[usize::from(how & 3)];
    let mut l4 = vec![kind, 4, 0, 0, 0, 0, 5, 20];
    l4.extend(&packet[L3..len]);
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    let (addr, addr_len) = ip.addresses;
    // From the packet's destination or somebody on the way.
    let from = if how & 4 == 0 { addr + addr_len } else { addr };
    let (src, dst) = (&packet[from..from + addr_len], &packet[addr..addr + addr_len]);
    if is_v4 {
        let (Ok(src), Ok(dst)) = (src.try_into(), dst.try_into()) else { return frame };
        frame.extend([0x08, 0x00]);
        frame.extend(header4(&l4, 1, src, dst));
    } else {
        let (Ok(src), Ok(dst)) = (src.try_into(), dst.try_into()) else { return frame };
        frame.extend([0x86, 0xdd]);
        frame.extend(header6(&l4, 58, src, dst));
    }
    frame.extend(l4);
    set_checksums(&mut frame);
    damage(&mut frame, bytes);
    frame
}

/// Whether the packet that a whole error quotes has the ends of `packet`.
pub(crate) fn quotes(error: &[u8], packet: &[u8]) -> bool {
    let (Some(outer), Some(ip)) = (Ip::of(error), Ip::of(packet)) else { return false };
    let moved = outer.l4 + 8 - L3;
    let (addr, len) = ip.addresses;
    let same =
        |at: usize, len: usize| error.get(at + moved..at + moved + len) == packet.get(at..at + len);
    let protocol = L3 + if ip.header4.is_some() { 9 } else { 6 };
    same(protocol, 1) && same(addr, 2 * len) && same(ip.l4, 4)
}

fn transport(protocol: u8, src: u16, dst: u16, flags: u8, payload: usize) -> Vec<u8> {
    let mut l4 = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    if protocol == TCP {
        l4.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else if protocol == UDP {
        let len = u16::try_from(8 + payload).unwrap_or(8);
        l4.extend(len.to_be_bytes());
        l4.extend([0, 0]);
    } else {
        // The flags are the type of the first chunk, if there is one.
        l4.extend([0, 0, 0, 1, 0, 0, 0, 0]);
        if payload > 0 {
            l4.extend([flags, 0, 0, u8::try_from(4 + payload).unwrap_or(4)]);
        }
    }
    l4.resize(l4.len() + payload, 0xa5);
    l4
}

fn header4(l4: &[u8], protocol: u8, src: [u8; 4], dst: [u8; 4]) -> Vec<u8> {
    let len = u16::try_from(20 + l4.len()).unwrap_or(20).to_be_bytes();
    let fixed = [0x45, 0, len[0], len[1], 0, 1, 0x40, 0, 64, protocol, 0, 0];
    [&fixed[..], &src, &dst].concat()
}

fn header6(l4: &[u8], protocol: u8, src: &[u8; 16], dst: &[u8; 16]) -> Vec<u8> {
    let len = u16::try_from(l4.len()).unwrap_or(0).to_be_bytes();
    let fixed = [0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    [&fixed[..], src, dst].concat()
}

/// Where things stand in a whole packet of ours. Written for this crate alone, from the RFCs, so
/// that the library is not asked about itself.
struct Ip {
    /// Header of IPv4, whose checksum is its own.
    header4: Option<usize>,
    /// Offset of the source address, and length of an address.
    addresses: (usize, usize),
    protocol: u8,
    /// Where the transport header starts and where the packet ends.
    l4: usize,
    end: usize,
}

impl Ip {
    fn of(frame: &[u8]) -> Option<Self> {
        let len = |at: usize| {
            Some(usize::from(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?])))
        };
        let version = frame.get(L3)? >> 4;
        let ip = match (len(12)?, version) {
            (0x0800, 4) => {
                let header = usize::from(frame[L3] & 15) * 4;
                let addresses = (L3 + 12, 4);
                let (protocol, l4) = (*frame.get(L3 + 9)?, L3 + header);
                let fragment = len(L3 + 6)? & 0x3fff != 0;
                let end = L3 + len(L3 + 2)?;
                (header >= 20 && !fragment).then_some(Self {
                    header4: Some(header),
                    addresses,
                    protocol,
                    l4,
                    end,
                })?
            }
            (0x86dd, 6) => {
                let (mut next, mut l4) = (*frame.get(L3 + 6)?, L3 + 40);
                while matches!(next, 0 | 43 | 60) {
                    let units = usize::from(*frame.get(l4 + 1)?);
                    next = *frame.get(l4)?;
                    l4 += (units + 1) * 8;
                }
                let addresses = (L3 + 8, 16);
                let end = L3 + 40 + len(L3 + 4)?;
                Self { header4: None, addresses, protocol: next, l4, end }
            }
            _ => return None,
        };
        let min = match ip.protocol {
            TCP => 20,
            UDP | 1 | 58 => 8,
            SCTP => 12,
            _ => return None,
        };
        (ip.end <= frame.len() && ip.l4 + min <= ip.end).then_some(ip)
    }

    /// Where the transport's checksum stands.
    fn checksum(&self) -> usize {
        self.l4
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                SCTP => 8,
                _ => 2,
            }
    }

    /// Sum over what the transport's checksum covers, the checksum itself included.
    fn sum(&self, frame: &[u8]) -> u16 {
        let mut covered = Vec::new();
        if self.protocol != 1 {
            let (addr, len) = self.addresses;
            covered.extend(&frame[addr..addr + 2 * len]);
            let length = u16::try_from(self.end - self.l4).unwrap_or(0).to_be_bytes();
            covered.extend([0, self.protocol, length[0], length[1]]);
        }
        covered.extend(&frame[self.l4..self.end]);
        sum(&covered)
    }
}

/// The checksum that belongs into a whole SCTP packet.
fn crc(packet: &[u8]) -> [u8; 4] {
    let mut packet = packet.to_vec();
    packet[8..12].fill(0);
    CRC32C.checksum(&packet).to_le_bytes()
}

/// Whether this is a whole packet whose checksums are all right; a UDP packet may have none on IPv4,
/// and an SCTP packet anywhere.
pub(crate) fn checksums_are_right(frame: &[u8]) -> bool {
    let Some(ip) = Ip::of(frame) else { return false };
    let header = ip.header4.is_none_or(|len| sum(&frame[L3..L3 + len]) == 0xffff);
    let none = frame[ip.checksum()..ip.checksum() + 2] == [0, 0];
    let transport = match ip.protocol {
        SCTP => {
            let stored = &frame[ip.l4 + 8..ip.l4 + 12];
            stored == [0; 4] || stored == crc(&frame[ip.l4..ip.end])
        }
        UDP if none => ip.header4.is_some(),
        _ => ip.sum(frame) == 0xffff,
    };
    header && transport
}

fn set_checksums(frame: &mut [u8]) {
    let Some(ip) = Ip::of(frame) else { return };
    if let Some(len) = ip.header4 {
        frame[L3 + 10..L3 + 12].fill(0);
        let checksum = !sum(&frame[L3..L3 + len]);
        frame[L3 + 10..L3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    let at = ip.checksum();
    if ip.protocol == SCTP {
        let crc = crc(&frame[ip.l4..ip.end]);
        frame[at..at + 4].copy_from_slice(&crc);
        return;
    }
    frame[at..at + 2].fill(0);
    let checksum = match !ip.sum(frame) {
        // A UDP checksum of 0 would say that there is none (RFC 768).
        0 if ip.protocol == UDP => 0xffff,
        checksum => checksum,
    };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The ones' complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_without_damage_have_right_checksums() {
        for kind in (0..16).chain(32..48) {
            let frame = frame(kind, &mut Bytes(&[0, 2, 0]));
            assert!(checksums_are_right(&frame), "{kind}: {frame:02x?}");
            let mut wrong = frame.clone();
            *wrong.last_mut().unwrap() ^= 1;
            assert!(!checksums_are_right(&wrong), "{kind}");
        }
    }
}
