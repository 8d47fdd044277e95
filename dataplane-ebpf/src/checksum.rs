//! The Internet checksum, changed in place when a field changes (RFC 1624, equation 3).
//!
//! Sums are taken over words in the machine's order: the one's complement sum does not care
//! (RFC 1071, section 2 B), and the kernel's helpers expect it so.

/// A one's complement sum of differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing yet.
    pub const ZERO: Self = Self(0);

    /// With four more bytes.
    #[inline(always)]
    pub const fn add32(self, bytes: [u8; 4]) -> Self {
        Self(self.0 + u32::from_ne_bytes(bytes) as u64)
    }

    /// With two more bytes.
    #[inline(always)]
    pub const fn add16(self, bytes: [u8; 2]) -> Self {
        Self(self.0 + u16::from_ne_bytes(bytes) as u64)
    }

    /// With four bytes that become four others.
    #[inline(always)]
    pub const fn replace32(self, old: [u8; 4], new: [u8; 4]) -> Self {
        Self(self.0 + !u32::from_ne_bytes(old) as u64 + u32::from_ne_bytes(new) as u64)
    }

    /// With two bytes that become two others.
    #[inline(always)]
    pub const fn replace16(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_ne_bytes(old) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// With all of `bytes`, whose length is a multiple of four.
    #[inline(always)]
    pub const fn add<const N: usize>(self, bytes: &[u8; N]) -> Self {
        let (words, _) = bytes.as_chunks::<4>();
        let (mut sum, mut at) = (self, 0);
        while at < words.len() {
            sum = sum.add32(words[at]);
            at += 1;
        }
        sum
    }

    /// With `old` replaced by `new`, whose length is a multiple of four.
    #[inline(always)]
    pub const fn replace<const N: usize>(self, old: &[u8; N], new: &[u8; N]) -> Self {
        let (old, _) = old.as_chunks::<4>();
        let (new, _) = new.as_chunks::<4>();
        let (mut sum, mut at) = (self, 0);
        while at < old.len() && at < new.len() {
            sum = sum.replace32(old[at], new[at]);
            at += 1;
        }
        sum
    }

    /// With all that is in `other`.
    #[inline(always)]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// Folded into 32 bits, as the kernel's `__wsum`.
    #[inline(always)]
    pub const fn fold32(self) -> u32 {
        // Both halves added to each other: the lower sum carries into the upper one, as it has to.
        (self.0.wrapping_add(self.0.rotate_left(32)) >> 32) as u32
    }

    /// Folded into the two bytes of a field.
    #[inline(always)]
    pub const fn folded(self) -> [u8; 2] {
        fold16(self.fold32()).to_ne_bytes()
    }

    /// The checksum field of a header whose other bytes are summed here.
    #[inline(always)]
    pub const fn finish(self) -> [u8; 2] {
        (!fold16(self.fold32())).to_ne_bytes()
    }
}

/// What a rewrite means for a TCP or UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Of the addresses, which the checksum covers through the pseudo header.
    pub addresses: Sum,
    /// Of the ports; `None` when they stay.
    pub ports: Option<Sum>,
    /// UDP: a checksum of zero means that there is none (RFC 768).
    pub optional: bool,
    /// IPv6: no header checksum makes up for the change of addresses.
    pub v6: bool,
}

impl Change {
    /// Of addresses and ports.
    #[inline(always)]
    pub const fn total(&self) -> Sum {
        match self.ports {
            Some(ports) => self.addresses.plus(ports),
            None => self.addresses,
        }
    }
}

/// The stored checksum after `change`.
#[inline(always)]
pub const fn apply(stored: [u8; 2], change: &Change) -> [u8; 2] {
    let sum = change.total().0;
    // The upper half is the kernel's: with it a sum of zero cannot come out of the fold.
    let fresh = Sum(sum + !(u16::from_ne_bytes(stored) as u32) as u64).finish();
    match fresh {
        [0, 0] if change.optional => [0xff, 0xff],
        _ => fresh,
    }
}

/// The IPv4 header checksum after the addresses changed and the hop limit went down by `hops`.
#[inline(always)]
pub const fn header(stored: [u8; 2], addresses: Sum, hops: bool) -> [u8; 2] {
    let mut sum = addresses.0 + !(u16::from_ne_bytes(stored) as u32) as u64;
    if hops {
        // TTL is the upper byte of its word: one less.
        sum += !u16::from_ne_bytes([1, 0]) as u64;
    }
    Sum(sum).finish()
}

#[inline(always)]
const fn fold16(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as it stands there: sum all 16-bit words, fold, complement.
    fn reference(bytes: &[u8]) -> [u8; 2] {
        let mut sum: u32 =
            bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!u16::try_from(sum).unwrap()).to_be_bytes()
    }

    proptest! {
        #[test]
        fn a_replaced_field_leaves_the_checksum_that_a_full_sum_gives(
            mut bytes: [u8; 24], addr: [u8; 4], port: [u8; 2],
        ) {
            bytes[0] |= 1; // All-zero data has two representations of zero.
            let stored = reference(&bytes);
            let change = Change {
                addresses: Sum::ZERO.replace32([bytes[4], bytes[5], bytes[6], bytes[7]], addr),
                ports: Some(Sum::ZERO.replace16([bytes[8], bytes[9]], port)),
                optional: false,
                v6: false,
            };
            bytes[4..8].copy_from_slice(&addr);
            bytes[8..10].copy_from_slice(&port);
            prop_assert_eq!(apply(stored, &change), reference(&bytes));
        }

        #[test]
        fn a_lower_hop_limit_leaves_the_header_checksum_that_a_full_sum_gives(
            mut bytes: [u8; 20], addr: [u8; 4],
        ) {
            bytes[0] = 0x45;
            bytes[8] |= 1;
            bytes[10..12].copy_from_slice(&[0, 0]);
            let stored = reference(&bytes);
            let sum = Sum::ZERO.replace32([bytes[16], bytes[17], bytes[18], bytes[19]], addr);
            bytes[16..20].copy_from_slice(&addr);
            bytes[8] -= 1;
            prop_assert_eq!(header(stored, sum, true), reference(&bytes));
        }

        #[test]
        fn a_whole_sum_is_that_of_the_rfc(bytes: [u8; 40]) {
            prop_assert_eq!(Sum::ZERO.add(&bytes).finish(), reference(&bytes));
        }
    }

    #[test]
    fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
        // The complement of the change itself: the sum becomes zero.
        let addresses = Sum::ZERO.replace32([0, 0, 0, 0], [0x12, 0x34, 0, 0]);
        let change = Change { addresses, ports: None, optional: true, v6: false };
        assert_eq!(apply([0x12, 0x34], &change), [0xff, 0xff]);
        assert_eq!(apply([0x12, 0x34], &Change { optional: false, ..change }), [0, 0]);
    }
}
