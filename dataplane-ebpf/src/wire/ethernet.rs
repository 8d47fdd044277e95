//! The Ethernet header (IEEE 802.3), without VLAN tags.

/// Its length in bytes, and so where the IP header starts.
pub const LEN: usize = 14;
/// EtherType of IPv4.
pub const IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6.
pub const IPV6: [u8; 2] = [0x86, 0xdd];

/// View of a header.
#[derive(Debug)]
pub struct Ethernet<'a>(pub &'a mut [u8; LEN]);

impl Ethernet<'_> {
    /// What the frame carries.
    #[inline(always)]
    pub const fn ethertype(&self) -> [u8; 2] {
        [self.0[12], self.0[13]]
    }

    /// Set both MAC addresses.
    #[inline(always)]
    pub fn set_macs(&mut self, dst: [u8; 6], src: [u8; 6]) {
        super::set_field(self.0, 0, &dst);
        super::set_field(self.0, 6, &src);
    }

    /// Send the frame back to where it came from.
    #[inline(always)]
    pub fn swap_macs(&mut self) {
        let (dst, src) = (super::field(self.0, 0), super::field(self.0, 6));
        self.set_macs(src, dst);
    }
}
