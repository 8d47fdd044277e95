//! Packets whose checksum somebody has yet to finish.
//!
//! The kernel and virtual machines send packets to their own host with no more than the pseudo
//! header in the checksum field (`CHECKSUM_PARTIAL`); whoever needs the rest computes it. TC sees
//! which packets these are, generic XDP does not, and would change such a field the wrong way round.

use dataplane_common::{SCTP, TCP};

use crate::{
    answer::pseudo_header,
    headers::{self, Family, Headers},
    packet::Packet,
    wire::{sctp, tcp, udp},
};

/// Whether a packet of this family looks as if its checksum were unfinished. One finished packet in
/// 65,536 does too.
#[inline(always)]
pub fn is_unfinished<P: Packet + ?Sized>(packet: &mut P, family: Family) -> bool {
    match family {
        Family::V4 => headers::parse4(packet).is_ok_and(|headers| looks_so(packet, &headers)),
        Family::V6 => headers::parse6(packet).is_ok_and(|headers| looks_so(packet, &headers)),
    }
}

#[inline(always)]
fn looks_so<P: Packet + ?Sized, const N: usize>(packet: &mut P, headers: &Headers<N>) -> bool {
    if headers.protocol == SCTP {
        // No pseudo header (RFC 9260, section 6.8).
        return packet.window(headers.l4 + sctp::CHECKSUM).is_some_and(|crc| *crc == [0; 4]);
    }
    let at = if headers.protocol == TCP { tcp::CHECKSUM } else { udp::CHECKSUM };
    let [a, b] = pseudo_header(&headers.tuple, headers.protocol, headers.l4_len).finish();
    packet.window(headers.l4 + at).is_some_and(|stored| *stored == [!a, !b])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Frame;

    #[test]
    fn a_checksum_over_the_pseudo_header_alone_is_unfinished() {
        // UDP of 9 bytes from 10.0.0.1 to 10.0.0.2: 0x0a00 + 1 + 0x0a00 + 2 + 17 + 9 = 0x141d.
        let mut frame = std::vec![0; 14];
        frame.extend([0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 80, 0, 9, 0x14, 0x1d, 0xaa]);
        assert!(is_unfinished(&mut Frame(frame.clone()), Family::V4));
        // With ports, length and payload: 0x141d + 7 + 80 + 9 + 0xaa00 = 0xbe7d, complemented.
        frame[40..42].copy_from_slice(&(!0xbe7d_u16).to_be_bytes());
        assert!(!is_unfinished(&mut Frame(frame), Family::V4));
    }
}
