//! Which clients a frontend serves.

/// Key of the longest-prefix tries `SOURCES4` and `SOURCES6`; the value is a `u32`, always 1.
///
/// A client is served if its address is inside one of the prefixes of the service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceKey<const N: usize> {
    /// Bits that count, the 32 of `service` included.
    prefix_len: u32,
    service: u32,
    addr: [u8; N],
}

impl<const N: usize> SourceKey<N> {
    /// The clients whose first `prefix_len` bits (at most `8 * N`) are those of `addr`.
    #[inline(always)]
    pub const fn range(service: u32, addr: [u8; N], prefix_len: u32) -> Self {
        Self { prefix_len: 32 + prefix_len, service, addr }
    }

    /// One client, to look it up.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "4 or 16 bytes")]
    pub const fn client(service: u32, addr: [u8; N]) -> Self {
        Self::range(service, addr, 8 * N as u32)
    }

    /// Number of the service port, as in [`crate::Frontend`].
    #[inline(always)]
    pub const fn service(&self) -> u32 {
        self.service
    }

    /// The address.
    #[inline(always)]
    pub const fn addr(&self) -> [u8; N] {
        self.addr
    }

    /// Bits of the address that count.
    #[inline(always)]
    pub const fn prefix_len(&self) -> u32 {
        self.prefix_len - 32
    }
}

const _: () = assert!(size_of::<SourceKey<4>>() == 12 && align_of::<SourceKey<4>>() == 4);
const _: () = assert!(size_of::<SourceKey<16>>() == 24 && align_of::<SourceKey<16>>() == 4);
