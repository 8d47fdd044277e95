//! Who gets which endpoint identity: indexes come back late, each time as another generation.

use std::collections::VecDeque;

use dataplane_common::{EndpointId, Live};

use super::grace::Grace;

const IN_USE: u16 = 1 << 15;
/// Where the views start: bits of [`Live`], none while the index is not in use.
const VIEWS_SHIFT: u32 = 12;
const VIEWS: u16 = 3 << VIEWS_SHIFT;
const GENERATION: u16 = (1 << VIEWS_SHIFT) - 1;
/// Indexes wait in a queue at least this long before one is used again, while fresh ones remain:
/// a generation then repeats after 4 million changes at the earliest.
const QUEUE_MIN: usize = 1024;

/// The allocator of identities, both families.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    max: usize,
    used: usize,
    /// By index: generation given last, whether it is in use, and in which views.
    state: Vec<u16>,
    recycled: VecDeque<u32>,
    grace: Grace<u32>,
}

impl Ids {
    /// Identities for a `LIVE` map of `max` entries; index 0 is nobody's.
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max: max.min(EndpointId::INDEX_MAX) as usize,
            used: 1,
            state: vec![0],
            recycled: VecDeque::new(),
            grace: Grace::default(),
        }
    }

    /// Indexes altogether, and those which are not free (index 0 and those which rest count).
    pub(crate) fn fill(&self) -> (usize, usize) {
        (self.used, self.max)
    }

    /// How many can be taken.
    pub(crate) fn available(&self) -> usize {
        self.max - self.used
    }

    /// Takes an identity that takes flows in these views.
    pub(crate) fn take(&mut self, views: u32) -> Option<EndpointId> {
        let fresh = self.state.len() < self.max;
        let index = if fresh && self.recycled.len() < QUEUE_MIN {
            self.state.push(IN_USE);
            #[expect(clippy::cast_possible_truncation, reason = "at most INDEX_MAX entries")]
            let index = (self.state.len() - 1) as u32;
            index
        } else {
            let index = self.recycled.pop_front()?;
            let state = &mut self.state[index as usize];
            *state = (*state + 1) & GENERATION | IN_USE;
            index
        };
        self.used += 1;
        self.set_views(index, views);
        Some(EndpointId::from_bits(self.live(index).id))
    }

    /// An index in use takes flows in these views from now on.
    pub(crate) fn set_views(&mut self, index: u32, views: u32) {
        let state = &mut self.state[index as usize];
        *state = *state & !VIEWS | bits(views);
    }

    /// Gives an identity back; it takes no new flows from now on.
    pub(crate) fn release(&mut self, id: EndpointId) {
        self.state[id.index() as usize] &= GENERATION;
        self.grace.release(id.index());
    }

    /// What `LIVE[index]` should hold.
    pub(crate) fn live(&self, index: u32) -> Live {
        match self.state.get(index as usize) {
            Some(state) if state & IN_USE != 0 => Live {
                id: EndpointId::new(index, u32::from(state & GENERATION)).to_bits(),
                views: u32::from(state & VIEWS) >> VIEWS_SHIFT,
            },
            Some(_) | None => Live::default(),
        }
    }

    /// See [`Grace::applied`].
    pub(crate) fn applied(&mut self, now_ms: u64) {
        self.grace.applied(now_ms);
    }

    /// Frees what has rested; says whether that was anything.
    pub(crate) fn reclaim(&mut self, now_ms: u64) -> bool {
        let ready = self.grace.ready(now_ms);
        self.used -= ready.len();
        self.recycled.extend(&ready);
        !ready.is_empty()
    }

    /// Whether identities rest or wait for that.
    pub(crate) fn is_resting(&self) -> bool {
        !self.grace.is_empty()
    }

    /// Takes exactly this identity, found in a map with these views. After the last of these calls
    /// comes [`Self::observed`].
    pub(crate) fn reserve(&mut self, id: EndpointId, views: u32) -> bool {
        if !self.raise(id) || self.live(id.index()).id != 0 {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "12 bits")]
        let generation = id.generation() as u16;
        self.state[id.index() as usize] = generation | IN_USE | bits(views);
        self.used += 1;
        true
    }

    /// A flow remembers this identity, so an older generation of its index must not come back.
    pub(crate) fn raise(&mut self, id: EndpointId) -> bool {
        let index = id.index() as usize;
        if index == 0 || index >= self.max {
            return false;
        }
        if self.state.len() <= index {
            self.state.resize(index + 1, 0);
        }
        #[expect(clippy::cast_possible_truncation, reason = "12 bits")]
        let generation = id.generation() as u16;
        let state = &mut self.state[index];
        if *state & IN_USE == 0 {
            *state = generation.max(*state);
        }
        true
    }

    /// Ends a series of [`Self::reserve`] and [`Self::raise`].
    pub(crate) fn observed(&mut self) {
        #[expect(clippy::cast_possible_truncation, reason = "at most INDEX_MAX entries")]
        let len = self.state.len() as u32;
        let resting = self.grace.all();
        let is_free = |index: &u32| self.live(*index).id == 0 && !resting.contains(index);
        self.recycled = (1..len).filter(is_free).collect();
    }
}

/// Views as they stand in the state of an index.
#[expect(clippy::cast_possible_truncation, reason = "two bits")]
const fn bits(views: u32) -> u16 {
    ((views & (Live::CLUSTER | Live::LOCAL)) << VIEWS_SHIFT) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_as_another_generation() {
        let mut ids = Ids::new(3);
        let (first, second) = (ids.take(Live::CLUSTER).unwrap(), ids.take(Live::LOCAL).unwrap());
        assert!(ids.take(Live::CLUSTER).is_none());
        assert_eq!(ids.live(first.index()), Live { id: first.to_bits(), views: Live::CLUSTER });
        ids.set_views(first.index(), Live::LOCAL);
        assert_eq!(ids.live(first.index()), Live { id: first.to_bits(), views: Live::LOCAL });
        ids.release(first);
        assert_eq!(ids.live(first.index()), Live::default());
        ids.applied(0);
        assert!(ids.take(Live::CLUSTER).is_none(), "it rests");
        ids.reclaim(super::super::grace::GRACE_MS);
        let again = ids.take(Live::CLUSTER).unwrap();
        assert_eq!((again.index(), again.generation()), (first.index(), first.generation() + 1));
        assert_ne!(again, second);
    }

    #[test]
    fn a_generation_that_a_flow_remembers_does_not_come_back_after_a_restart() {
        let mut ids = Ids::new(3);
        let remembered = EndpointId::new(2, 7);
        assert!(ids.reserve(EndpointId::new(1, 4095), Live::CLUSTER));
        assert!(ids.raise(remembered));
        ids.observed();
        assert_eq!(ids.take(Live::CLUSTER).unwrap(), EndpointId::new(2, 8));
        assert_eq!(ids.available(), 0);
    }
}
