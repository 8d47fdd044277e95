//! What the kernel and the tools of this node can do, and which backends follow from that.
//!
//! Features are found by trying them, never by version numbers. Nothing is attached to a device or a
//! cgroup of the node: programs are only loaded, and rules are made in a network namespace that ends
//! with the probe.

pub mod choose;
pub mod feature;
pub mod table;

mod bpf;
mod iptables;
mod ipvs;
mod isolated;
mod kernel;
mod memory;
mod nftables;
mod system;
pub mod tools;

use std::collections::BTreeMap;

pub use choose::{Choice, choose};
pub use feature::Feature;

/// What became of one try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It works; how, where there is something to say.
    Found(String),
    /// It does not: why, in words.
    Missing(String),
    /// It could not be tried: why, in words.
    Untried(String),
}

impl Answer {
    /// It works, and there is nothing to add.
    pub const fn yes() -> Self {
        Self::Found(String::new())
    }

    /// Whether it works.
    pub const fn is_found(&self) -> bool {
        matches!(self, Self::Found(_))
    }

    /// What there is to say about it.
    pub fn detail(&self) -> &str {
        let (Self::Found(text) | Self::Missing(text) | Self::Untried(text)) = self;
        text
    }
}

impl<E: std::error::Error> From<Result<(), E>> for Answer {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::yes(),
            Err(error) => Self::Missing(sentence(&error)),
        }
    }
}

/// An error and its causes in one line.
fn sentence(error: &dyn std::error::Error) -> String {
    crate::ebpf::attach::chain(error)
}

/// Every feature that was asked about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes(BTreeMap<Feature, Answer>);

impl Probes {
    /// Notes what became of a try.
    pub fn set(&mut self, feature: Feature, answer: Answer) {
        self.0.insert(feature, answer);
    }

    /// What became of it; `None` if nobody tried.
    pub fn answer(&self, feature: Feature) -> Option<&Answer> {
        self.0.get(&feature)
    }

    /// Whether it was found.
    pub fn has(&self, feature: Feature) -> bool {
        self.answer(feature).is_some_and(Answer::is_found)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Feature, &Answer)> {
        self.0.iter().map(|(feature, answer)| (*feature, answer))
    }
}

impl FromIterator<(Feature, Answer)> for Probes {
    fn from_iter<T: IntoIterator<Item = (Feature, Answer)>>(found: T) -> Self {
        Self(found.into_iter().collect())
    }
}

/// Tries everything; takes a second or less, and may load kernel modules that a backend would load.
pub fn run() -> Probes {
    let mut probes = Probes::default();
    probes.set(Feature::Root, system::root());
    if !probes.has(Feature::Root) {
        for &feature in Feature::ALL {
            if feature != Feature::Root {
                probes.set(feature, Answer::Untried("it takes root to try".to_owned()));
            }
        }
        return probes;
    }
    bpf::run(&mut probes);
    system::run(&mut probes);
    isolated::run(&mut probes);
    probes
}

#[cfg(test)]
mod tests;
