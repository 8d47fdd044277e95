//! What the two families do differently with an address.

use dataplane_common::{V4, V6, mapped, unmapped};

use crate::packet::Packet;

/// An address of one family.
pub trait Ip: Copy {
    /// Whether it means this host (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    fn is_loopback(&self) -> bool;

    /// The address in 16 bytes; IPv4 as `::ffff:a.b.c.d`.
    fn widened(&self) -> [u8; V6];

    /// What [`Self::widened`] was made from; `None` for an address of the other family.
    fn narrowed(wide: &[u8; V6]) -> Option<Self>;

    /// The address, as bytes of which the verifier knows nothing (see [`Packet::forget`]), and which
    /// the compiler moves eight at a time wherever they came from.
    fn forgotten<P: Packet + ?Sized>(&self, packet: &mut P) -> Self;
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

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the address was made from 32 bits")]
    fn forgotten<P: Packet + ?Sized>(&self, packet: &mut P) -> Self {
        (packet.forget(u64::from(u32::from_ne_bytes(*self))) as u32).to_ne_bytes()
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

    #[inline(always)]
    fn forgotten<P: Packet + ?Sized>(&self, packet: &mut P) -> Self {
        let [first, second] = halves(self).map(|half| packet.forget(half).to_ne_bytes());
        let mut addr = [0; V6];
        addr[..8].copy_from_slice(&first);
        addr[8..].copy_from_slice(&second);
        addr
    }
}

#[inline(always)]
fn halves(addr: &[u8; V6]) -> [u64; 2] {
    let (halves, _) = addr.as_chunks::<8>();
    [u64::from_ne_bytes(halves[0]), u64::from_ne_bytes(halves[1])]
}
