//! Which frontend has which firewall mark.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    server::Virtual,
    treatment::{MARKS, MARKS_MASK, mark},
};

/// Marks that are given away, and those that were and may be again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    by_frontend: BTreeMap<Virtual, u32>,
    free: BTreeSet<u16>,
    /// The first number that nobody ever had. Number 0 stays unused.
    next: u32,
}

impl Marks {
    /// The mark of a frontend.
    pub(super) fn of(&self, wanted: Virtual) -> Option<u32> {
        self.by_frontend.get(&wanted).copied()
    }

    /// The mark of a frontend, now if not before; `None` when all 65,535 are given away.
    pub(super) fn take(&mut self, wanted: Virtual) -> Option<u32> {
        if let Some(mark) = self.of(wanted) {
            return Some(mark);
        }
        let number = if let Some(number) = self.free.pop_first() {
            number
        } else {
            let number = u16::try_from(self.next.max(1)).ok()?;
            self.next = u32::from(number) + 1;
            number
        };
        self.by_frontend.insert(wanted, mark(number));
        Some(mark(number))
    }

    /// Remembers a mark that the kernel has for a frontend.
    pub(super) fn keep(&mut self, wanted: Virtual, mark: u32) {
        let number = mark & !MARKS_MASK;
        let is_ours = mark & MARKS_MASK == MARKS && number != 0;
        if !is_ours || self.by_frontend.values().any(|taken| *taken == mark) {
            return;
        }
        let below = (self.next.max(1)..number).filter_map(|free| u16::try_from(free).ok());
        self.free.extend(below);
        if let Ok(number) = u16::try_from(number) {
            self.free.remove(&number);
        }
        self.next = self.next.max(number + 1);
        self.by_frontend.insert(wanted, mark);
    }

    /// Frees the mark of a frontend.
    pub(super) fn give_back(&mut self, wanted: Virtual) {
        if let Some(mark) = self.by_frontend.remove(&wanted)
            && let Ok(number) = u16::try_from(mark & !MARKS_MASK)
        {
            self.free.insert(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::model::Protocol;

    fn wanted(port: u16) -> Virtual {
        let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
        Virtual { address, protocol: Protocol::Tcp, port }
    }

    #[test]
    fn marks_stay_and_are_used_again_once_given_back() {
        let mut marks = Marks::default();
        let first = marks.take(wanted(1)).unwrap();
        let second = marks.take(wanted(2)).unwrap();
        assert_ne!(first, second);
        assert_eq!(marks.take(wanted(1)), Some(first));
        marks.give_back(wanted(1));
        assert_eq!(marks.take(wanted(3)), Some(first));
    }

    #[test]
    fn marks_that_the_kernel_has_are_not_given_to_others() {
        let mut marks = Marks::default();
        marks.keep(wanted(9), mark(3));
        marks.keep(wanted(8), 0x4000);
        let taken: BTreeSet<u32> = (1..=3).map(|port| marks.take(wanted(port)).unwrap()).collect();
        assert_eq!(taken, [mark(1), mark(2), mark(4)].into());
        assert_eq!(marks.take(wanted(9)), Some(mark(3)));
    }

    #[test]
    fn there_are_65535_marks() {
        let mut marks = Marks::default();
        let taken = (1..=u16::MAX).filter(|port| marks.take(wanted(*port)).is_some()).count();
        assert_eq!(taken, 65_535);
        let other = Virtual { protocol: Protocol::Udp, ..wanted(1) };
        assert_eq!(marks.take(other), None);
    }
}
