//! Which clients the load balancer frontends of each service port serve, in one family.

use std::collections::BTreeMap;

use dataplane_common::SourceKey;

/// What `SOURCES4` or `SOURCES6` should hold.
#[derive(Clone, Debug)]
pub(crate) struct Sources<const N: usize> {
    max: usize,
    used: usize,
    /// By number of the service port, sorted; only ports with ranges are here.
    by_service: BTreeMap<u32, Box<[SourceKey<N>]>>,
    /// Entries that may differ from the kernel's.
    pub(crate) dirty: Vec<SourceKey<N>>,
}

impl<const N: usize> Sources<N> {
    /// No ranges yet, for a map of this size.
    pub(crate) fn new(max: u32) -> Self {
        Self { max: max as usize, used: 0, by_service: BTreeMap::new(), dirty: Vec::new() }
    }

    /// Ranges in the map, and how many it can hold.
    pub(crate) fn fill(&self) -> (usize, usize) {
        (self.used, self.max)
    }

    /// Whether this entry should be in the map.
    pub(crate) fn holds(&self, source: &SourceKey<N>) -> bool {
        self.of(source.service()).binary_search(source).is_ok()
    }

    /// Whether a client is in one of the ranges of its service port.
    pub(crate) fn serves(&self, client: &SourceKey<N>) -> bool {
        let same_bits = |range: &SourceKey<N>| {
            let bit = |addr: [u8; N], at: u32| addr[at as usize / 8] >> (7 - at % 8) & 1;
            (0..range.prefix_len()).all(|at| bit(range.addr(), at) == bit(client.addr(), at))
        };
        self.of(client.service()).iter().any(same_bits)
    }

    /// The ranges of a service port.
    fn of(&self, service: u32) -> &[SourceKey<N>] {
        self.by_service.get(&service).map_or(&[], |ranges| ranges)
    }

    /// The service port now has these ranges, which are sorted. Those that find no room are left
    /// out: who is in none of the others is not served. Says whether there was room for all.
    pub(crate) fn set(&mut self, service: u32, mut ranges: Vec<SourceKey<N>>) -> bool {
        if ranges.is_empty() && !self.by_service.contains_key(&service) {
            return true;
        }
        let before = self.by_service.remove(&service).unwrap_or_default();
        self.used -= before.len();
        let room = self.max - self.used;
        let fits = ranges.len() <= room;
        ranges.truncate(room);
        let gone = before.iter().filter(|range| ranges.binary_search(range).is_err());
        self.dirty.extend(gone);
        self.dirty.extend(ranges.iter().filter(|range| before.binary_search(range).is_err()));
        self.used += ranges.len();
        if !ranges.is_empty() {
            self.by_service.insert(service, ranges.into());
        }
        fits
    }

    /// The map was found to hold these ranges for a service port.
    pub(crate) fn found(&mut self, service: u32, mut ranges: Vec<SourceKey<N>>) {
        ranges.sort_unstable();
        self.used += ranges.len();
        self.by_service.insert(service, ranges.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(service: u32, last: u8) -> SourceKey<4> {
        SourceKey::range(service, [10, 0, 0, last], 32)
    }

    #[test]
    fn ranges_without_room_are_left_out_and_what_changes_is_marked() {
        let mut sources = Sources::new(3);
        assert!(sources.set(2, vec![range(2, 1), range(2, 2)]));
        assert!(!sources.set(4, vec![range(4, 1), range(4, 2)]));
        assert_eq!(sources.fill(), (3, 3));
        assert!(sources.holds(&range(4, 1)) && !sources.holds(&range(4, 2)));
        sources.dirty.clear();
        assert!(sources.set(2, vec![range(2, 2)]));
        assert_eq!(sources.dirty, [range(2, 1)]);
        assert!(sources.set(4, vec![range(4, 1), range(4, 2)]));
        assert_eq!(sources.dirty, [range(2, 1), range(4, 2)]);
        assert!(sources.set(4, Vec::new()));
        assert_eq!(sources.fill(), (1, 3));
    }
}
