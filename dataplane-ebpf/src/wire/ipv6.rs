//! The IPv6 header and its extension headers (RFC 8200).

use super::{field, set_field};

/// Length of the fixed header in bytes.
pub const LEN: usize = 40;
/// Extension headers that we follow before we call a packet malformed.
pub const EXTENSIONS_MAX: usize = 4;

/// Hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Routing.
pub const ROUTING: u8 = 43;
/// Fragment.
pub const FRAGMENT: u8 = 44;
/// Destination options.
pub const DESTINATION: u8 = 60;

/// View of the fixed header.
#[derive(Debug)]
pub struct Ipv6<'a>(pub &'a mut [u8; LEN]);

impl Ipv6<'_> {
    /// Whether the version is 6.
    #[inline(always)]
    pub const fn is_version_6(&self) -> bool {
        self.0[0] >> 4 == 6
    }

    /// Length of all that follows this header, in bytes.
    #[inline(always)]
    pub const fn payload_len(&self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// What follows this header.
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        self.0[6]
    }

    /// Remaining hops.
    #[inline(always)]
    pub const fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[inline(always)]
    pub fn src(&self) -> [u8; 16] {
        field(self.0, 8)
    }

    /// Destination address.
    #[inline(always)]
    pub fn dst(&self) -> [u8; 16] {
        field(self.0, 24)
    }

    /// Write the remaining hops.
    #[inline(always)]
    pub const fn set_hop_limit(&mut self, hops: u8) {
        self.0[7] = hops;
    }

    /// Write both addresses.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: &[u8; 16], dst: &[u8; 16]) {
        set_field(self.0, 8, src);
        set_field(self.0, 24, dst);
    }
}
