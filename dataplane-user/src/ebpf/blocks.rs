//! Which slots of an endpoint array are free: best fit, neighbours join, lowest base settles ties.

use std::collections::{BTreeMap, BTreeSet};

use super::grace::Grace;

/// A contiguous part of an endpoint array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Block {
    /// The first slot.
    pub(crate) base: u32,
    /// How many slots.
    pub(crate) len: u32,
}

impl Block {
    /// The block of a service without endpoints.
    pub(crate) const EMPTY: Self = Self { base: 0, len: 0 };
}

/// The allocator of one endpoint array.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    max: u32,
    free: u32,
    by_base: BTreeMap<u32, u32>,
    by_len: BTreeSet<(u32, u32)>,
    grace: Grace<Block>,
}

impl Blocks {
    /// An array of `max` free slots.
    pub(crate) fn new(max: u32) -> Self {
        let mut blocks = Self {
            max,
            free: 0,
            by_base: BTreeMap::new(),
            by_len: BTreeSet::new(),
            grace: Grace::default(),
        };
        blocks.insert(Block { base: 0, len: max });
        blocks
    }

    /// Slots that are not free; those which rest count.
    pub(crate) fn used(&self) -> u32 {
        self.max - self.free
    }

    /// Slots altogether.
    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    /// Takes `len` slots; an empty block needs none.
    pub(crate) fn take(&mut self, len: u32) -> Option<Block> {
        if len == 0 {
            return Some(Block::EMPTY);
        }
        let &(found_len, base) = self.by_len.range((len, 0)..).next()?;
        self.remove(Block { base, len: found_len });
        self.insert(Block { base: base + len, len: found_len - len });
        Some(Block { base, len })
    }

    /// Takes exactly these slots, if all of them are free.
    pub(crate) fn reserve(&mut self, block: Block) -> bool {
        let Some(end) = block.base.checked_add(block.len) else { return false };
        let Some((&base, &len)) = self.by_base.range(..=block.base).next_back() else {
            return block.len == 0;
        };
        if block.len == 0 || base + len < end {
            return block.len == 0;
        }
        self.remove(Block { base, len });
        self.insert(Block { base, len: block.base - base });
        self.insert(Block { base: end, len: base + len - end });
        true
    }

    /// Gives a block back; it can be taken again after it has rested.
    pub(crate) fn release(&mut self, block: Block) {
        if block.len > 0 {
            self.grace.release(block);
        }
    }

    /// See [`Grace::applied`].
    pub(crate) fn applied(&mut self, now_ms: u64) {
        self.grace.applied(now_ms);
    }

    /// Frees what has rested; says whether that was anything.
    pub(crate) fn reclaim(&mut self, now_ms: u64) -> bool {
        let ready = self.grace.ready(now_ms);
        for block in &ready {
            self.insert(*block);
        }
        !ready.is_empty()
    }

    /// Whether blocks rest or wait for that.
    pub(crate) fn is_resting(&self) -> bool {
        !self.grace.is_empty()
    }

    fn remove(&mut self, block: Block) {
        self.by_base.remove(&block.base);
        self.by_len.remove(&(block.len, block.base));
        self.free -= block.len;
    }

    fn insert(&mut self, mut block: Block) {
        if block.len == 0 {
            return;
        }
        if let Some((&base, &len)) = self.by_base.range(..block.base).next_back()
            && base + len == block.base
        {
            self.remove(Block { base, len });
            block = Block { base, len: len + block.len };
        }
        if let Some(&len) = self.by_base.get(&(block.base + block.len)) {
            self.remove(Block { base: block.base + block.len, len });
            block.len += len;
        }
        self.by_base.insert(block.base, block.len);
        self.by_len.insert((block.len, block.base));
        self.free += block.len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_released_block_is_taken_again_only_after_the_maps_changed_and_it_has_rested() {
        let mut blocks = Blocks::new(4);
        let block = blocks.take(4).unwrap();
        blocks.release(block);
        assert!(!blocks.reclaim(u64::MAX / 2), "the maps still name it");
        blocks.applied(1_000);
        assert!(!blocks.reclaim(1_500), "it has not rested yet");
        assert!(blocks.take(1).is_none());
        assert!(blocks.reclaim(1_000 + super::super::grace::GRACE_MS));
        assert_eq!(blocks.take(4), Some(block));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_everything_comes_back(
            steps in prop::collection::vec((any::<bool>(), 1u32..9), 1..200)
        ) {
            let mut blocks = Blocks::new(64);
            let mut held: Vec<Block> = Vec::new();
            for (now, (take, len)) in steps.into_iter().enumerate() {
                let now = now as u64 * super::super::grace::GRACE_MS;
                if take {
                    if let Some(block) = blocks.take(len) {
                        for other in &held {
                            prop_assert!(block.base + block.len <= other.base
                                || other.base + other.len <= block.base);
                        }
                        prop_assert!(block.base + block.len <= 64);
                        held.push(block);
                    }
                } else if !held.is_empty() {
                    blocks.release(held.remove(len as usize % held.len()));
                }
                blocks.applied(now);
                blocks.reclaim(now);
            }
            for block in held.drain(..) {
                blocks.release(block);
            }
            blocks.applied(0);
            blocks.reclaim(u64::MAX);
            prop_assert_eq!(blocks.used(), 0);
            let whole = blocks.take(64);
            prop_assert_eq!(whole, Some(Block { base: 0, len: 64 }));
        }

        #[test]
        fn what_was_reserved_is_not_taken(base in 0u32..60, len in 1u32..5) {
            let mut blocks = Blocks::new(64);
            let (first, again) = (Block { base, len }, Block { base, len: 1 });
            prop_assert!(blocks.reserve(first));
            prop_assert!(!blocks.reserve(again));
            while let Some(block) = blocks.take(1) {
                prop_assert!(block.base < base || block.base >= base + len);
            }
            prop_assert_eq!(blocks.used(), 64);
        }
    }
}
