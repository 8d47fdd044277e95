//! The IPv4 header (RFC 791).

use super::{field, set_field};

/// Length of a header without options, in bytes.
pub const LEN: usize = 20;
/// Version 4, five words.
pub const VERSION_LEN: u8 = 0x45;

/// View of the header's fixed part.
#[derive(Debug)]
pub struct Ipv4<'a>(pub &'a mut [u8; LEN]);

impl Ipv4<'_> {
    /// Length of the whole header in bytes, options included; `None` when it cannot be one.
    #[inline(always)]
    pub const fn header_len(&self) -> Option<usize> {
        let len = (self.0[0] & 0x0f) as usize * 4;
        if self.0[0] >> 4 == 4 && len >= LEN { Some(len) } else { None }
    }

    /// Length of header and payload in bytes.
    #[inline(always)]
    pub const fn total_len(&self) -> usize {
        u16::from_be_bytes([self.0[2], self.0[3]]) as usize
    }

    /// Whether this is part of a larger packet: more fragments follow, or an offset.
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        self.0[6] & 0x3f != 0 || self.0[7] != 0
    }

    /// Whether this is a whole packet or the start of one: only these carry ports.
    #[inline(always)]
    pub const fn is_first_fragment(&self) -> bool {
        u16::from_be_bytes([self.0[6], self.0[7]]) << 3 == 0
    }

    /// Remaining hops.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        self.0[8]
    }

    /// IANA protocol number of the payload.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.0[9]
    }

    /// The header checksum.
    #[inline(always)]
    pub fn checksum(&self) -> [u8; 2] {
        field(self.0, 10)
    }

    /// Source address.
    #[inline(always)]
    pub fn src(&self) -> [u8; 4] {
        field(self.0, 12)
    }

    /// Destination address.
    #[inline(always)]
    pub fn dst(&self) -> [u8; 4] {
        field(self.0, 16)
    }

    /// Write the remaining hops.
    #[inline(always)]
    pub const fn set_ttl(&mut self, ttl: u8) {
        self.0[8] = ttl;
    }

    /// Write the header checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, sum: [u8; 2]) {
        set_field(self.0, 10, &sum);
    }

    /// Write both addresses.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: &[u8; 4], dst: &[u8; 4]) {
        set_field(self.0, 12, src);
        set_field(self.0, 16, dst);
    }
}
