//! ICMP errors with right checksums about frames that were built or captured.

use dataplane_ebpf::{checksum::Sum, wire::ethernet};

use crate::frame::MACS;

/// The error of this type and code from `src` to `dst` that quotes `quoted`, a packet from its IP
/// header on.
pub fn error<const N: usize>(
    [kind, code]: [u8; 2],
    src: [u8; N],
    dst: [u8; N],
    quoted: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0, 0, 0, 5, 20];
    message.extend(quoted);
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX).to_be_bytes();
    let start =
        if N == 4 { Sum::ZERO } else { Sum::ZERO.add(&src).add(&dst).add16([0, 58]).add16(len) };
    let sum = sum(start, &message);
    message[2..4].copy_from_slice(&sum);
    let mut frame: Vec<u8> = MACS.concat();
    if N == 4 {
        frame.extend(ethernet::IPV4);
        let [l0, l1] = u16::try_from(20 + message.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut header = vec![0x45, 0xc0, l0, l1, 0, 1, 0, 0, 64, 1, 0, 0];
        header.extend(src);
        header.extend(dst);
        let checksum = self::sum(Sum::ZERO, &header);
        header[10..12].copy_from_slice(&checksum);
        frame.extend(header);
    } else {
        frame.extend(ethernet::IPV6);
        frame.extend([0x60, 0, 0, 0, len[0], len[1], 58, 64]);
        frame.extend(src);
        frame.extend(dst);
    }
    frame.extend(message);
    frame
}

fn sum(start: Sum, bytes: &[u8]) -> [u8; 2] {
    let pairs = bytes.chunks(2).map(|pair| [pair[0], *pair.get(1).unwrap_or(&0)]);
    pairs.fold(start, Sum::add16).finish()
}
