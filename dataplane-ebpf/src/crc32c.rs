//! The checksum of SCTP, CRC-32C (RFC 9260, appendix A), changed in place when the ports change.
//!
//! A CRC is linear: when bits of a packet change, its CRC changes by the CRC of these bits alone,
//! whatever the other bytes are. So nothing behind the ports is read. What a change of the first
//! four bytes becomes at the packet's end is a product of polynomials over GF(2), change · x^(8 ·
//! length), which comes out of tables, one hexadecimal digit of the length at a time.

/// The polynomial of Castagnoli; as in all numbers here, the highest bit is the coefficient of x⁰.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x⁰.
const ONE: u32 = 1 << 31;
/// x⁸: one byte more.
const BYTE: u32 = 1 << 23;

/// Products of one polynomial with every number: for each of its nibbles, lowest first, and each
/// value of it.
type Products = [[u32; 16]; 8];

/// Products with x^(8 · value · 16^digit): for each digit of a length, lowest first, and each value
/// of it.
static SHIFTS: [[Products; 16]; 4] = shifts();

/// What a change of the first four bytes does to the CRC of a packet of `len` bytes, less than 2¹⁶.
///
/// The bytes are read as one little-endian number; the change is the exclusive or of old and new.
/// It is a function of its own in the kernel too: only SCTP pays for its instructions.
#[inline(never)]
#[must_use]
pub fn shift(change: u32, len: u32) -> u32 {
    let mut change = change;
    for (digit, products) in (0..).zip(&SHIFTS) {
        let products = &products[(len >> (4 * digit) & 0xf) as usize];
        let mut product = 0;
        for (nibble, values) in (0..).zip(products) {
            product ^= values[(change >> (4 * nibble) & 0xf) as usize];
        }
        change = product;
    }
    change
}

#[expect(clippy::large_stack_arrays, reason = "the compiler runs it")]
const fn shifts() -> [[Products; 16]; 4] {
    let mut shifts = [[[[0; 16]; 8]; 16]; 4];
    let mut unit = BYTE;
    let mut digit = 0;
    while digit < 4 {
        let mut power = ONE;
        let mut value = 0;
        while value < 16 {
            shifts[digit][value] = products(power);
            power = times(power, unit);
            value += 1;
        }
        unit = power;
        digit += 1;
    }
    shifts
}

const fn products(factor: u32) -> Products {
    let mut products = [[0; 16]; 8];
    let (mut nibble, mut shift) = (0, 0);
    while nibble < 8 {
        // Each bit doubles the values that are there.
        let mut known = 1;
        while known < 16 {
            let product = times(factor, 1 << shift);
            let mut value = 0;
            while value < known {
                products[nibble][known + value] = products[nibble][value] ^ product;
                value += 1;
            }
            known *= 2;
            shift += 1;
        }
        nibble += 1;
    }
    products
}

/// The product modulo [`POLYNOMIAL`].
const fn times(a: u32, b: u32) -> u32 {
    let (mut a, mut b, mut product) = (a, b, 0);
    while a != 0 {
        if a & ONE != 0 {
            product ^= b;
        }
        a <<= 1;
        b = if b & 1 == 0 { b >> 1 } else { b >> 1 ^ POLYNOMIAL };
    }
    product
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::samples::CRC32C;

    proptest! {
        #[test]
        fn a_change_of_the_first_bytes_gives_the_crc_of_a_full_computation(
            mut packet in prop::collection::vec(any::<u8>(), 4..2000),
            new: [u8; 4],
        ) {
            let old = *packet.first_chunk().unwrap();
            let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            let before = CRC32C.checksum(&packet);
            packet[..4].copy_from_slice(&new);
            let len = u32::try_from(packet.len()).unwrap();
            prop_assert_eq!(before ^ shift(change, len), CRC32C.checksum(&packet));
        }
    }

    #[test]
    fn every_digit_of_a_length_counts() {
        let lengths: Vec<u32> = (0..16).flat_map(|bit| [(1 << bit) - 1, 1 << bit]).collect();
        for len in lengths.into_iter().filter(|len| *len >= 4) {
            let mut packet = std::vec![0xa5; len as usize];
            let before = CRC32C.checksum(&packet);
            packet[2] ^= 0x80;
            let change = 0x0080_0000;
            assert_eq!(before ^ shift(change, len), CRC32C.checksum(&packet), "{len} bytes");
        }
    }

    #[test]
    fn a_change_of_nothing_changes_nothing() {
        for len in [0, 12, 1500, 65_535] {
            assert_eq!(shift(0, len), 0);
        }
    }
}
