//! What the two families do differently with an address.

use dataplane_common::{V4, V6, mapped, unmapped};

/// An address of one family.
pub trait Ip: Copy {
    /// Whether it means this host (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    fn is_loopback(&self) -> bool;

    /// The address in 16 bytes; IPv4 as `::ffff:a.b.c.d`.
    fn widened(&self) -> [u8; V6];

    /// What [`Self::widened`] was made from; `None` for an address of the other family.
    fn narrowed(wide: &[u8; V6]) -> Option<Self>;
}

impl Ip for [u8; V4] {
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self[0] == 127
    }

    #[inline(always)]
    fn widened(&self) -> [u8; V6] {
        mapped(*self)
    }

    #[inline(always)]
    fn narrowed(wide: &[u8; V6]) -> Option<Self> {
        unmapped(*wide)
    }
}

impl Ip for [u8; V6] {
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        *self == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    }

    #[inline(always)]
    fn widened(&self) -> [u8; V6] {
        *self
    }

    #[inline(always)]
    fn narrowed(wide: &[u8; V6]) -> Option<Self> {
        Some(*wide)
    }
}
