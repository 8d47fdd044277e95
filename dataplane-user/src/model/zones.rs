//! Zones by number, since every endpoint names one of a few.

use std::{collections::HashMap, num::NonZeroU16, sync::Arc};

/// A zone. Its two bytes need no alignment, so that endpoints stay small.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ZoneId([u8; 2]);

/// Every zone that was ever named. A cluster has a few, so none is forgotten.
#[derive(Debug, Default)]
pub(super) struct Zones {
    ids: HashMap<Arc<str>, NonZeroU16, ahash::RandomState>,
}

impl ZoneId {
    /// No zone.
    pub(super) const NONE: Self = Self([0; 2]);

    /// Whether it is a zone, and this one.
    pub(super) fn is(self, other: Self) -> bool {
        self != Self::NONE && self == other
    }
}

impl std::fmt::Debug for ZoneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "zone {}", u16::from_ne_bytes(self.0))
    }
}

impl Zones {
    /// The number of a zone; nothing if there are [`u16::MAX`] others. An empty name is no zone.
    pub(super) fn get(&mut self, name: &str) -> Option<ZoneId> {
        if name.is_empty() {
            return Some(ZoneId::NONE);
        }
        let known = self.ids.get(name).copied();
        let id =
            known.or_else(|| u16::try_from(self.ids.len() + 1).ok().and_then(NonZeroU16::new))?;
        if known.is_none() {
            self.ids.insert(name.into(), id);
        }
        Some(ZoneId(id.get().to_ne_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_are_one_zone_and_no_name_is_none() {
        let mut zones = Zones::default();
        let (a, b) = (zones.get("a").unwrap(), zones.get("b").unwrap());
        assert!(a.is(zones.get("a").unwrap()) && !a.is(b));
        let none = zones.get("").unwrap();
        assert!(!none.is(none) && !none.is(a));
    }

    #[test]
    fn zones_have_a_limit() {
        let mut zones = Zones::default();
        let given = (0..=u16::MAX).filter(|number| zones.get(&number.to_string()).is_some());
        assert_eq!(given.count(), usize::from(u16::MAX));
        assert!(zones.get("0").is_some(), "those that are known stay");
    }
}
