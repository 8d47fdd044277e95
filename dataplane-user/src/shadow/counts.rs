//! How often backends agreed, and how often not.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::Finding;

/// Counts since the start, shared between who compares and who shows them.
#[derive(Clone, Debug, Default)]
pub struct Counts(Arc<[AtomicU64; Finding::ALL.len()]>);

impl Counts {
    /// One more; how many there were before.
    pub fn add(&self, finding: Finding) -> u64 {
        Finding::ALL
            .iter()
            .zip(self.0.iter())
            .find(|(of, _)| **of == finding)
            .map_or(0, |(_, count)| count.fetch_add(1, Ordering::Relaxed))
    }

    /// All of them.
    pub fn rows(&self) -> impl Iterator<Item = (Finding, u64)> {
        Finding::ALL
            .iter()
            .zip(self.0.iter())
            .map(|(of, count)| (*of, count.load(Ordering::Relaxed)))
    }

    /// One of them.
    pub fn get(&self, finding: Finding) -> u64 {
        self.rows().find(|(of, _)| *of == finding).map_or(0, |(_, count)| count)
    }
}
