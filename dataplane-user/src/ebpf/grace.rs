//! What was given back rests until no reader in the kernel can still hold it.

use std::collections::VecDeque;

/// How long something rests after the maps stopped naming it. A program run lasts microseconds;
/// this is long enough even for one that was preempted.
pub(crate) const GRACE_MS: u64 = 2_000;

/// Things on their way back to an allocator: released, then resting, then ready.
#[derive(Clone, Debug)]
pub(crate) struct Grace<T> {
    released: Vec<T>,
    resting: VecDeque<(u64, Vec<T>)>,
}

impl<T> Default for Grace<T> {
    fn default() -> Self {
        Self { released: Vec::new(), resting: VecDeque::new() }
    }
}

impl<T> Grace<T> {
    /// The program no longer names `thing`; the maps still may.
    pub(crate) fn release(&mut self, thing: T) {
        self.released.push(thing);
    }

    /// At `now_ms` the maps hold what the program says: what was released begins to rest.
    pub(crate) fn applied(&mut self, now_ms: u64) {
        if !self.released.is_empty() {
            self.resting.push_back((now_ms, std::mem::take(&mut self.released)));
        }
    }

    /// What has rested long enough.
    pub(crate) fn ready(&mut self, now_ms: u64) -> Vec<T> {
        let mut ready = Vec::new();
        while let Some((since, _)) = self.resting.front()
            && since + GRACE_MS <= now_ms
        {
            ready.extend(self.resting.pop_front().into_iter().flat_map(|(_, things)| things));
        }
        ready
    }

    /// Everything that is still on its way.
    pub(crate) fn all(&self) -> std::collections::BTreeSet<T>
    where
        T: Copy + Ord,
    {
        self.resting.iter().flat_map(|(_, things)| things).chain(&self.released).copied().collect()
    }

    /// Whether anything is still on its way.
    pub(crate) fn is_empty(&self) -> bool {
        self.released.is_empty() && self.resting.is_empty()
    }
}
