//! Packets for unit tests, with checksums by other implementations than the library's.

use std::{vec, vec::Vec};

use dataplane_common::{SCTP, TCP, Tuple, UDP, V4};

/// CRC-32C, by an implementation of somebody else's.
pub(crate) const CRC32C: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI);

/// A whole packet.
#[derive(Clone, Debug)]
pub(crate) struct Sample<const N: usize> {
    pub(crate) tuple: Tuple<N>,
    pub(crate) protocol: u8,
    /// TCP's flags.
    pub(crate) tcp_flags: u8,
    pub(crate) hops: u8,
    /// IPv4 options, or one IPv6 extension header (its first byte is filled in).
    pub(crate) extra: Vec<u8>,
    /// What follows the TCP, UDP or SCTP header.
    pub(crate) payload: Vec<u8>,
    /// What follows the packet in the frame.
    pub(crate) padding: Vec<u8>,
    /// Leave the transport's checksum at zero.
    pub(crate) no_checksum: bool,
}

/// Destination options of IPv6.
const EXTENSION: u8 = 60;

impl<const N: usize> Sample<N> {
    pub(crate) fn new(protocol: u8, payload: &[u8]) -> Self {
        let tuple = Tuple { src: [9; N], dst: [7; N], src_port: [156, 64], dst_port: [0, 80] };
        Self {
            tuple,
            protocol,
            tcp_flags: 0x10,
            hops: 64,
            extra: Vec::new(),
            payload: payload.to_vec(),
            padding: Vec::new(),
            no_checksum: false,
        }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let addresses = [self.tuple.src, self.tuple.dst].concat();
        let len = |len: usize| u16::try_from(len).unwrap().to_be_bytes();
        if N == V4 {
            let header_len = 20 + self.extra.len();
            let [l0, l1] = len(header_len + transport.len());
            let first = 0x40 | u8::try_from(header_len / 4).unwrap();
            let mut header = vec![first, 0, l0, l1, 0, 1, 0x40, 0, self.hops, self.protocol, 0, 0];
            header.extend(addresses);
            header.extend(&self.extra);
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            frame.extend([8, 0]);
            frame.extend(header);
        } else {
            let [l0, l1] = len(self.extra.len() + transport.len());
            let next = if self.extra.is_empty() { self.protocol } else { EXTENSION };
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, l0, l1, next, self.hops]);
            frame.extend(addresses);
            if let Some((_, options)) = self.extra.split_first() {
                frame.push(self.protocol);
                frame.extend(options);
            }
        }
        frame.extend(transport);
        frame.extend(&self.padding);
        frame
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [self.tuple.src_port, self.tuple.dst_port].concat();
        match self.protocol {
            TCP => bytes.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, self.tcp_flags, 1, 1, 0, 0, 0, 0]),
            UDP => {
                let len = u16::try_from(8 + self.payload.len()).unwrap();
                bytes.extend(len.to_be_bytes());
                bytes.extend([0, 0]);
            }
            SCTP => bytes.extend([0, 0, 0, 5, 0, 0, 0, 0]),
            _ => {}
        }
        bytes.extend(&self.payload);
        if self.no_checksum {
            return bytes;
        }
        match self.protocol {
            TCP => {
                let sum = self.sum(&bytes);
                bytes[16..18].copy_from_slice(&sum);
            }
            UDP => {
                let sum = match self.sum(&bytes) {
                    [0, 0] => [0xff, 0xff],
                    sum => sum,
                };
                bytes[6..8].copy_from_slice(&sum);
            }
            SCTP => {
                let crc = CRC32C.checksum(&bytes).to_le_bytes();
                bytes[8..12].copy_from_slice(&crc);
            }
            _ => {}
        }
        bytes
    }

    /// The checksum of TCP and UDP, pseudo header included.
    fn sum(&self, transport: &[u8]) -> [u8; 2] {
        let mut covered = [self.tuple.src, self.tuple.dst].concat();
        covered.extend([0, self.protocol]);
        covered.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
        covered.extend(transport);
        checksum(&covered)
    }
}

/// RFC 1071 as it stands there: sum all 16-bit words, fold, complement.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}
