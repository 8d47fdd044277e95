//! Which bits of the gate are set, and for how many frontends.

use std::collections::BTreeSet;

use ahash::AHashMap;
use dataplane_common::gate::{WORDS, bit};

/// The gate as it should stand in the kernel. Both families share it.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    words: Vec<u64>,
    /// Bits with more than one frontend: how many more. Most bits have one.
    more: AHashMap<u32, u32>,
    /// Bits without a frontend; flows may still need them.
    stale: BTreeSet<u32>,
    /// Words that may differ from the kernel's.
    pub(crate) dirty: Vec<u32>,
}

/// Number of the bit of an address, over the whole gate.
pub(crate) fn number<const N: usize>(addr: &[u8; N]) -> u32 {
    let (word, mask) = bit(addr);
    word * u64::BITS + mask.trailing_zeros()
}

impl Gate {
    /// A gate without a bit.
    pub(crate) fn new() -> Self {
        Self {
            words: vec![0; WORDS as usize],
            more: AHashMap::new(),
            stale: BTreeSet::new(),
            dirty: Vec::new(),
        }
    }

    /// What the kernel's word `index` should be.
    pub(crate) fn word(&self, index: u32) -> u64 {
        self.words.get(index as usize).copied().unwrap_or(0)
    }

    /// One frontend more has this address. The all-zero address is no one's, see the map's text.
    pub(crate) fn add<const N: usize>(&mut self, addr: &[u8; N]) {
        if *addr == [0; N] {
            return;
        }
        let number = number(addr);
        let word = &mut self.words[(number / u64::BITS) as usize];
        let mask = 1 << (number % u64::BITS);
        if *word & mask == 0 {
            *word |= mask;
            self.dirty.push(number / u64::BITS);
        } else if !self.stale.remove(&number) {
            *self.more.entry(number).or_insert(0) += 1;
        }
    }

    /// One frontend less. Its bit stays until [`Self::clear_stale`].
    pub(crate) fn remove<const N: usize>(&mut self, addr: &[u8; N]) {
        if *addr == [0; N] {
            return;
        }
        let number = number(addr);
        match self.more.get_mut(&number) {
            Some(1) => drop(self.more.remove(&number)),
            Some(more) => *more -= 1,
            None => drop(self.stale.insert(number)),
        }
    }

    /// Clears the bits that neither a frontend nor one of the `needed` bits keeps.
    pub(crate) fn clear_stale(&mut self, needed: &BTreeSet<u32>) {
        let gone: Vec<u32> = self.stale.difference(needed).copied().collect();
        for number in gone {
            self.stale.remove(&number);
            self.words[(number / u64::BITS) as usize] &= !(1 << (number % u64::BITS));
            self.dirty.push(number / u64::BITS);
        }
    }

    /// Whether some bit has no frontend.
    pub(crate) fn has_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// The kernel's word as found; to be called before the first frontend is added.
    pub(crate) fn found(&mut self, index: u32, word: u64) {
        let Some(ours) = self.words.get_mut(index as usize) else { return };
        *ours = word;
        for bit in (0..u64::BITS).filter(|bit| word & (1 << bit) != 0) {
            self.stale.insert(index * u64::BITS + bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_stays_while_a_frontend_or_a_flow_needs_it() {
        let mut gate = Gate::new();
        let addr = [10, 0, 0, 1];
        let (word, mask) = bit(&addr);
        gate.add(&addr);
        gate.add(&addr);
        gate.remove(&addr);
        gate.clear_stale(&BTreeSet::new());
        assert_eq!(gate.word(word) & mask, mask, "one frontend is left");
        gate.remove(&addr);
        assert_eq!(gate.word(word) & mask, mask, "nobody has looked at the flows yet");
        gate.clear_stale(&BTreeSet::from([number(&addr)]));
        assert_eq!(gate.word(word) & mask, mask, "a flow needs it");
        gate.clear_stale(&BTreeSet::new());
        assert_eq!(gate.word(word), 0);
    }
}
