//! One copy of what many objects share: names, and lists of ports.

use std::{borrow::Borrow, hash::Hash, sync::Arc};

/// Below this many values nothing is ever swept.
const SWEEP_MIN: usize = 1024;

/// Values that are stored once. Those nobody holds any more go when the set has doubled.
#[derive(Debug)]
pub(super) struct Shared<T: ?Sized> {
    set: std::collections::HashSet<Arc<T>, ahash::RandomState>,
    sweep_at: usize,
}

/// Strings that are stored once.
pub(super) type Names = Shared<str>;

impl<T: ?Sized + Hash + Eq> Shared<T> {
    pub(super) fn new() -> Self {
        Self { set: std::collections::HashSet::default(), sweep_at: SWEEP_MIN }
    }

    pub(super) fn get<'value>(&mut self, value: &'value T) -> Arc<T>
    where
        Arc<T>: From<&'value T> + Borrow<T>,
    {
        if let Some(known) = self.set.get(value) {
            return known.clone();
        }
        if self.set.len() >= self.sweep_at {
            self.set.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.set.len() * 2).max(SWEEP_MIN);
        }
        let new: Arc<T> = value.into();
        self.set.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_string() {
        let mut names = Names::new();
        let first = names.get("kube-system");
        assert!(Arc::ptr_eq(&first, &names.get("kube-system")));
    }

    #[test]
    fn names_that_nobody_holds_do_not_pile_up() {
        let mut names = Names::new();
        let held = names.get("held");
        for number in 0..SWEEP_MIN * 10 {
            names.get(&format!("namespace-{number}"));
        }
        assert!(names.set.len() <= SWEEP_MIN + 1);
        assert!(Arc::ptr_eq(&held, &names.get("held")));
    }
}
