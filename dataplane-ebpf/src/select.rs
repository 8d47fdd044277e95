//! Which endpoint of a frontend a flow gets.

use dataplane_common::{Slots, Tuple, gate};

/// Hash of both ends: the same flow always gets the same number, on every node.
#[inline(always)]
pub const fn hash<const N: usize>(tuple: &Tuple<N>, protocol: u8) -> u32 {
    let [a, b] = tuple.src_port;
    let [c, d] = tuple.dst_port;
    let ports = u32::from_be_bytes([a, b, c, d]);
    let ends = gate::hash(&tuple.src) ^ gate::hash(&tuple.dst).rotate_left(16);
    mix(ends ^ mix(ports.wrapping_add(protocol as u32)))
}

/// Slot of the endpoint that `hash` selects among these, or `None` when there are none.
///
/// The upper half of a product instead of a remainder: no division, and no bias worth the name.
#[inline(always)]
pub const fn slot(slots: &Slots, hash: u32) -> Option<u32> {
    if slots.count == 0 {
        return None;
    }
    let within = (hash as u64 * slots.count as u64) >> 32;
    Some(slots.base.wrapping_add(within as u32))
}

/// Spread every bit of `word` over all others (the finaliser of Murmur hash 3, 32 bits).
#[inline(always)]
pub const fn mix(word: u32) -> u32 {
    let word = (word ^ (word >> 16)).wrapping_mul(0x85eb_ca6b);
    let word = (word ^ (word >> 13)).wrapping_mul(0xc2b2_ae35);
    word ^ (word >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_spread_over_all_endpoints_within_five_percent_of_their_share() {
        let slots = Slots { base: 100, count: 7 };
        let mut hits = [0u32; 7];
        for client in 0..20_000u16 {
            let tuple = Tuple {
                src: [10, 244, client.to_be_bytes()[0] & 3, client.to_be_bytes()[1]],
                dst: [10, 96, 0, 1],
                src_port: (32_768 + client).to_be_bytes(),
                dst_port: 80u16.to_be_bytes(),
            };
            let slot = slot(&slots, hash(&tuple, 6)).unwrap();
            hits[usize::try_from(slot - 100).unwrap()] += 1;
        }
        for count in hits {
            let share = f64::from(count) / (20_000.0 / 7.0);
            assert!((0.95..1.05).contains(&share), "{hits:?}");
        }
    }

    #[test]
    fn a_frontend_without_endpoints_selects_none() {
        let slots = Slots { base: 5, count: 0 };
        assert_eq!(slot(&slots, u32::MAX), None);
    }

    #[test]
    fn the_greatest_hash_selects_the_last_endpoint() {
        let slots = Slots { base: 5, count: 3 };
        assert_eq!(slot(&slots, u32::MAX), Some(7));
        assert_eq!(slot(&slots, 0), Some(5));
    }
}
