//! The TCP header (RFC 9293).

use super::field;

/// Length of a header without options, in bytes.
pub const LEN: usize = 20;
/// Where its checksum stands.
pub const CHECKSUM: usize = 16;

/// The sender has finished.
pub const FIN: u8 = 0x01;
/// Open a connection.
pub const SYN: u8 = 0x02;
/// The connection is refused or gone.
pub const RST: u8 = 0x04;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// View of the header's fixed part.
#[derive(Debug)]
pub struct Tcp<'a>(pub &'a mut [u8; LEN]);

impl Tcp<'_> {
    /// Sequence number, in network order.
    #[inline(always)]
    pub fn sequence(&self) -> [u8; 4] {
        field(self.0, 4)
    }

    /// Acknowledgement number, in network order.
    #[inline(always)]
    pub fn acknowledgement(&self) -> [u8; 4] {
        field(self.0, 8)
    }

    /// Length of the whole header in bytes, options included, as the header claims.
    #[inline(always)]
    pub const fn header_len(&self) -> usize {
        (self.0[12] >> 4) as usize * 4
    }

    /// Bits [`FIN`] to [`ACK`].
    #[inline(always)]
    pub const fn flags(&self) -> u8 {
        self.0[13]
    }
}
