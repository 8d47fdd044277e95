//! What the configuration keeps for a while after nothing needs it any more.

use std::time::{Duration, Instant};

use crate::{backend::Needs, ebpf::flows};

/// So long may a flow be silent that began while something was needed.
const GRACE: Duration = flows::SILENCE_MAX;

/// Needs that end one grace after they were last needed: flows outlive the frontend or the endpoint
/// that made the configuration wider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    needed: Needs,
    offered: Needs,
    /// When the present needs became less than the held ones, or less than they were before.
    less_since: Option<Instant>,
}

impl Held {
    /// What the configuration of an earlier process had, at its end.
    pub fn left_behind(held: Needs, now: Instant) -> Self {
        let less_since = (held != Needs::default()).then_some(now);
        Self { needed: Needs::default(), offered: held, less_since }
    }

    /// Takes in what is needed now. Whether the configuration has to be written.
    pub fn set(&mut self, needed: Needs, now: Instant) -> bool {
        if needed.or(&self.needed) != needed {
            self.less_since = Some(now);
        }
        self.needed = needed;
        let held = self.offered.or(&self.needed);
        if held == self.needed {
            self.less_since = None;
        }
        let is_news = held != self.offered;
        self.offered = held;
        is_news
    }

    /// When to call [`Self::expire`].
    pub fn expires(&self) -> Option<Instant> {
        self.less_since.map(|since| since + GRACE)
    }

    /// Lets go of what was not needed for one grace. Whether the configuration has to be written.
    pub fn expire(&mut self, now: Instant) -> bool {
        if self.expires().is_none_or(|at| now < at) {
            return false;
        }
        self.less_since = None;
        self.offered = self.needed.clone();
        true
    }

    /// What the configuration has to offer.
    pub fn needs(&self) -> &Needs {
        &self.offered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needs(nic_replies: bool, host_ports: Option<std::ops::RangeInclusive<u16>>) -> Needs {
        Needs { nic_replies, host_ports }
    }

    #[test]
    fn what_is_needed_is_there_at_once_and_stays_for_one_grace_after_its_last_use() {
        let start = Instant::now();
        let mut held = Held::default();
        assert!(held.set(needs(true, Some(80..=80)), start));
        assert_eq!(held.expires(), None);
        let later = start + GRACE / 2;
        assert!(!held.set(needs(false, Some(80..=80)), later));
        assert!(held.needs().nic_replies);
        // Another use begins and ends within the grace.
        assert!(!held.set(needs(true, Some(80..=80)), later + GRACE / 2));
        let last = later + GRACE;
        assert!(!held.set(needs(false, None), last));
        assert!(!held.expire(last + GRACE / 2));
        assert_eq!(held.needs(), &needs(true, Some(80..=80)));
        assert!(held.expire(last + GRACE));
        assert_eq!((held.needs(), held.expires()), (&Needs::default(), None));
    }

    #[test]
    fn ranges_of_host_ports_are_held_together() {
        let start = Instant::now();
        let mut held = Held::default();
        assert!(held.set(needs(false, Some(80..=80)), start));
        assert!(held.set(needs(false, Some(443..=8080)), start));
        assert_eq!(held.needs().host_ports, Some(80..=8080));
        assert!(held.expire(start + GRACE));
        assert_eq!(held.needs().host_ports, Some(443..=8080));
    }

    #[test]
    fn flows_of_an_earlier_process_are_served_on() {
        let start = Instant::now();
        let mut held = Held::left_behind(needs(true, None), start);
        assert!(!held.set(Needs::default(), start));
        assert!(held.needs().nic_replies);
        assert!(held.expire(start + GRACE));
        assert_eq!(Held::left_behind(Needs::default(), start), Held::default());
    }
}
