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
        let [d0, d1, d2, d3, d4, d5] = dst;
        let [s0, s1, s2, s3, s4, s5] = src;
        let [_, _, _, _, _, _, _, _, _, _, _, _, t0, t1] = *self.0;
        *self.0 = [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1];
    }

    /// Send the frame back to where it came from.
    #[inline(always)]
    pub fn swap_macs(&mut self) {
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *self.0;
        self.set_macs([s0, s1, s2, s3, s4, s5], [d0, d1, d2, d3, d4, d5]);
    }
}
