//! Frames with right lengths and checksums, built from what a test or a measurement wants to say.

use crc::{CRC_32_ISCSI, Crc};
use dataplane_common::{SCTP, TCP, Tuple};
use dataplane_ebpf::{checksum::Sum, wire::ethernet};

/// MAC addresses of built frames: destination, then source.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];

/// The checksum of SCTP, by an implementation that is not the packet library's.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// What a frame carries.
#[derive(Clone, Debug)]
pub struct Spec<const N: usize> {
    /// Both ends.
    pub tuple: Tuple<N>,
    /// The IANA protocol number of TCP, UDP or SCTP.
    pub protocol: u8,
    /// TCP's flags, or the type of SCTP's chunk.
    pub tcp_flags: u8,
    /// Remaining hops.
    pub hops: u8,
    /// IPv4 options or IPv6 extension headers, with their length a multiple of 4 or 8.
    pub extra: Vec<u8>,
    /// The next-header number that introduces `extra`; IPv6 only.
    pub extra_kind: u8,
    /// The payload. SCTP has it in one chunk, or without a payload no chunk.
    pub payload: Vec<u8>,
    /// UDP and SCTP: leave the checksum out.
    pub no_checksum: bool,
}

impl<const N: usize> Spec<N> {
    /// A packet with 64 hops and 18 bytes of payload.
    pub fn new(tuple: Tuple<N>, protocol: u8, tcp_flags: u8) -> Self {
        Self {
            tuple,
            protocol,
            tcp_flags,
            hops: 64,
            extra: Vec::new(),
            extra_kind: 60,
            payload: (0..18).collect(),
            no_checksum: false,
        }
    }

    /// The frame's bytes.
    pub fn build(&self) -> Vec<u8> {
        let segment = self.segment();
        let mut frame: Vec<u8> = MACS.concat();
        if N == 4 {
            frame.extend(ethernet::IPV4);
            frame.extend(self.header4(segment.len()));
        } else {
            frame.extend(ethernet::IPV6);
            frame.extend(self.header6(segment.len()));
        }
        frame.extend(segment);
        frame
    }

    fn segment(&self) -> Vec<u8> {
        if self.protocol == SCTP {
            return self.sctp();
        }
        let mut segment = [self.tuple.src_port, self.tuple.dst_port].concat();
        let checksum_at = if self.protocol == TCP {
            segment.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, self.tcp_flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            segment.extend(length(8 + self.payload.len()));
            segment.extend([0, 0]);
            6
        };
        segment.extend(&self.payload);
        let pseudo = Sum::ZERO
            .add(&self.tuple.src)
            .add(&self.tuple.dst)
            .add16(u16::from(self.protocol).to_be_bytes())
            .add16(length(segment.len()));
        let sum = match sum(pseudo, &segment).finish() {
            [0, 0] if self.protocol != TCP => [0xff, 0xff],
            sum => sum,
        };
        if self.protocol == TCP || !self.no_checksum {
            segment[checksum_at..checksum_at + 2].copy_from_slice(&sum);
        }
        segment
    }

    fn sctp(&self) -> Vec<u8> {
        let mut packet = [self.tuple.src_port, self.tuple.dst_port].concat();
        packet.extend([0, 0, 0, 5, 0, 0, 0, 0]);
        if !self.payload.is_empty() {
            packet.extend([self.tcp_flags, 0]);
            packet.extend(length(4 + self.payload.len()));
            packet.extend(&self.payload);
        }
        if !self.no_checksum {
            let crc = CRC32C.checksum(&packet).to_le_bytes();
            packet[8..12].copy_from_slice(&crc);
        }
        packet
    }

    fn header4(&self, segment_len: usize) -> Vec<u8> {
        let header_len = 20 + self.extra.len();
        let words = u8::try_from(header_len / 4).unwrap_or(15).min(15);
        let [l0, l1] = length(header_len + segment_len);
        let mut header =
            vec![0x40 | words, 0, l0, l1, 0, 1, 0x40, 0, self.hops, self.protocol, 0, 0];
        header.extend(self.tuple.src);
        header.extend(self.tuple.dst);
        header.extend(&self.extra);
        let sum = sum(Sum::ZERO, &header).finish();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn header6(&self, segment_len: usize) -> Vec<u8> {
        let [l0, l1] = length(self.extra.len() + segment_len);
        let next = if self.extra.is_empty() { self.protocol } else { self.extra_kind };
        let mut header = vec![0x60, 0, 0, 0, l0, l1, next, self.hops];
        header.extend(self.tuple.src);
        header.extend(self.tuple.dst);
        header.extend(&self.extra);
        header
    }
}

fn length(len: usize) -> [u8; 2] {
    u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes()
}

fn sum(start: Sum, bytes: &[u8]) -> Sum {
    bytes.chunks(2).fold(start, |sum, pair| match *pair {
        [a, b] => sum.add16([a, b]),
        _ => sum.add16([pair[0], 0]),
    })
}
