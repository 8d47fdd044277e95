//! Which slots of the endpoint arrays frontends lead to.

use std::collections::BTreeMap;

use dataplane_common::{Frontend, Slots};

/// Slots from the first to (not including) the second; the second by the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Blocks(BTreeMap<u32, u32>);

/// What a frontend leads to, for any client.
pub(super) fn reach(frontend: &Frontend) -> Blocks {
    let mut blocks = Blocks::default();
    for slots in [frontend.inside, frontend.outside] {
        blocks.add(slots);
    }
    blocks
}

impl Blocks {
    /// Takes slots in; those that were there already count once.
    pub(super) fn add(&mut self, slots: Slots) {
        let (mut first, mut end) = (slots.base, slots.base.saturating_add(slots.count));
        if first == end {
            return;
        }
        while let Some((other, other_end)) = self.meeting(first, end) {
            self.0.remove(&other);
            (first, end) = (first.min(other), end.max(other_end));
        }
        self.0.insert(first, end);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|(first, end)| (end - first) as usize).sum()
    }

    /// All of them, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().flat_map(|(first, end)| *first..*end)
    }

    /// The last block that has a slot of these, or ends where they begin.
    fn meeting(&self, first: u32, end: u32) -> Option<(u32, u32)> {
        let (other, other_end) = self.0.range(..=end).next_back()?;
        (*other_end >= first).then_some((*other, *other_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_overlap_or_touch_count_once() {
        let mut blocks = Blocks::default();
        for (base, count) in [(10, 5), (0, 3), (14, 2), (3, 0), (16, 1), (8, 4)] {
            blocks.add(Slots { base, count });
        }
        assert_eq!(blocks.iter().collect::<Vec<_>>(), [0, 1, 2, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        assert_eq!(blocks.len(), 12);
    }

    #[test]
    fn a_frontend_reaches_what_either_kind_of_client_does() {
        let frontend = Frontend {
            inside: Slots { base: 4, count: 2 },
            outside: Slots { base: 5, count: 3 },
            ..Frontend::default()
        };
        assert_eq!(reach(&frontend).iter().collect::<Vec<_>>(), [4, 5, 6, 7]);
        assert_eq!(reach(&Frontend::default()).len(), 0);
    }
}
