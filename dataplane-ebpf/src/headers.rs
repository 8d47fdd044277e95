//! From bytes to addresses, ports and protocol, or the reason why a packet is not for us.

use dataplane_common::{Reason, SCTP, TCP, Tuple, UDP, V4, V6};

use crate::{
    packet::Packet,
    wire::{
        ethernet::{self, Ethernet},
        ipv4::Ipv4,
        ipv6::{self, Ipv6},
        sctp,
        tcp::{self, Tcp},
        udp::{self, Ports},
    },
};

/// Where the IP header starts.
pub const L3: usize = ethernet::LEN;

/// Covers every place where a transport header can start: behind four extension headers of 2048
/// bytes each.
const L4_MASK: usize = 0x3fff;

/// What a whole TCP, UDP or SCTP packet says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<const N: usize> {
    /// Both ends.
    pub tuple: Tuple<N>,
    /// [`TCP`], [`UDP`] or [`SCTP`].
    pub protocol: u8,
    /// TCP's flags; for SCTP those that mean the same (see [`sctp::as_tcp_flags`]); 0 for UDP.
    pub tcp_flags: u8,
    /// Remaining hops.
    pub hops: u8,
    /// Where the transport header starts.
    pub l4: usize,
    /// Bytes from there to the packet's end, by the IP header's length field: the frame may go on.
    pub l4_len: u16,
}

impl<const N: usize> Headers<N> {
    /// Headers whose constants the verifier cannot tell apart.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "unpacks what was packed")]
    fn new<P: Packet + ?Sized>(
        packet: &mut P,
        tuple: Tuple<N>,
        [protocol, tcp_flags, hops]: [u8; 3],
        l4: usize,
        l4_len: usize,
    ) -> Self {
        let packed = u64::from(u32::from_ne_bytes([protocol, tcp_flags, hops, 0])) << 32;
        let packed = packet.forget(packed | (l4_len as u64) << 16 | l4 as u64);
        let [protocol, tcp_flags, hops, _] = ((packed >> 32) as u32).to_ne_bytes();
        let (l4, l4_len) = (packed as usize & L4_MASK, (packed >> 16) as u16);
        Self { tuple, protocol, tcp_flags, hops, l4, l4_len }
    }

    /// Destination port, in the machine's order.
    #[inline(always)]
    pub const fn dst_port(&self) -> u16 {
        u16::from_be_bytes(self.tuple.dst_port)
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The frame's IP family, or the reason why it has none.
#[inline(always)]
pub fn family<P: Packet + ?Sized>(packet: &mut P) -> Result<Family, Reason> {
    match Ethernet(packet.window(0).ok_or(Reason::Short)?).ethertype() {
        ethernet::IPV4 => Ok(Family::V4),
        ethernet::IPV6 => Ok(Family::V6),
        _ => Err(Reason::NotIp),
    }
}

/// Read the headers of an IPv4 packet. The bytes stay as they are.
#[inline(always)]
pub fn parse4<P: Packet + ?Sized>(packet: &mut P) -> Result<Headers<V4>, Reason> {
    let ip = Ipv4(packet.window(L3).ok_or(Reason::Short)?);
    let header_len = ip.header_len().ok_or(Reason::Malformed)?;
    if ip.is_fragment() {
        return Err(Reason::Fragment);
    }
    let payload_len = ip.total_len().checked_sub(header_len).ok_or(Reason::Malformed)?;
    let (src, dst, protocol, hops) = (ip.src(), ip.dst(), ip.protocol(), ip.ttl());
    let l4 = L3 + header_len;
    let (ports, tcp_flags) = parse_l4(packet, protocol, l4, payload_len)?;
    let (src_port, dst_port) = udp::split(ports);
    let tuple = Tuple { src, dst, src_port, dst_port };
    Ok(Headers::new(packet, tuple, [protocol, tcp_flags, hops], l4, payload_len))
}

/// Read the headers of an IPv6 packet. The bytes stay as they are.
#[inline(always)]
pub fn parse6<P: Packet + ?Sized>(packet: &mut P) -> Result<Headers<V6>, Reason> {
    let ip = Ipv6(packet.window(L3).ok_or(Reason::Short)?);
    if !ip.is_version_6() {
        return Err(Reason::Malformed);
    }
    let (src, dst, next, hops) = (ip.src(), ip.dst(), ip.next_header(), ip.hop_limit());
    let payload_len = ip.payload_len();
    let (protocol, extensions_len) = match next {
        TCP | UDP | SCTP => (next, 0),
        _ => skip_extensions(packet, L3 + ipv6::LEN, next)?,
    };
    let payload_len = payload_len.checked_sub(extensions_len).ok_or(Reason::Malformed)?;
    let l4 = L3 + ipv6::LEN + extensions_len;
    let (ports, tcp_flags) = parse_l4(packet, protocol, l4, payload_len)?;
    let (src_port, dst_port) = udp::split(ports);
    let tuple = Tuple { src, dst, src_port, dst_port };
    Ok(Headers::new(packet, tuple, [protocol, tcp_flags, hops], l4, payload_len))
}

/// Protocol behind the extension headers that start at `start`, and their length in bytes.
#[inline(always)]
pub(crate) fn skip_extensions<P: Packet + ?Sized>(
    packet: &mut P,
    start: usize,
    next: u8,
) -> Result<(u8, usize), Reason> {
    let (mut next, mut len) = (next, 0);
    for _ in 0..ipv6::EXTENSIONS_MAX {
        match next {
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::DESTINATION => {}
            ipv6::FRAGMENT => return Err(Reason::Fragment),
            TCP | UDP | SCTP => return Ok((next, len)),
            _ => return Err(Reason::NotTransport),
        }
        let [following, units]: [u8; 2] = *packet.window(start + len).ok_or(Reason::Short)?;
        next = following;
        len += (usize::from(units) + 1) * 8;
    }
    match next {
        TCP | UDP | SCTP => Ok((next, len)),
        _ => Err(Reason::Malformed),
    }
}

/// Ports, and flags in TCP's terms; the header must be there as a whole, in the packet and by its
/// length field. The first chunk of an SCTP packet need not be in sight: then it is one of data, which
/// the stack has yet to cut into packets.
#[inline(always)]
fn parse_l4<P: Packet + ?Sized>(
    packet: &mut P,
    protocol: u8,
    l4: usize,
    payload_len: usize,
) -> Result<(u32, u8), Reason> {
    match protocol {
        TCP => {
            let header: &mut [u8; tcp::LEN] = packet.window(l4).ok_or(Reason::Short)?;
            if payload_len < tcp::LEN {
                return Err(Reason::Malformed);
            }
            let flags = Tcp(header).flags();
            Ok((ports(header), flags))
        }
        UDP => {
            let header: &mut [u8; udp::LEN] = packet.window(l4).ok_or(Reason::Short)?;
            if payload_len < udp::LEN {
                return Err(Reason::Malformed);
            }
            Ok((ports(header), 0))
        }
        SCTP => {
            let header: &mut [u8; sctp::LEN] = packet.window(l4).ok_or(Reason::Short)?;
            let both = ports(header);
            if payload_len < sctp::LEN {
                return Err(Reason::Malformed);
            }
            if payload_len < sctp::LEN + sctp::CHUNK_LEN {
                return Ok((both, 0));
            }
            let chunk: Option<&mut [u8; sctp::CHUNK_LEN]> = packet.window(l4 + sctp::LEN);
            Ok((both, chunk.map_or(0, |[chunk, ..]| sctp::as_tcp_flags(*chunk))))
        }
        _ => Err(Reason::NotTransport),
    }
}

#[inline(always)]
fn ports(header: &mut [u8]) -> u32 {
    header.first_chunk_mut().map_or(0, |ports| Ports(ports).both())
}

#[cfg(test)]
mod tests;
