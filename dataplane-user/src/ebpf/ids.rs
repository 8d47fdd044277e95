//! Who gets which endpoint identity: indexes come back late, each time as another generation.

use std::collections::VecDeque;

use dataplane_common::EndpointId;

use super::grace::Grace;

const IN_USE: u16 = 1 << 15;
const GENERATION: u16 = (1 << 12) - 1;
/// Indexes wait in a queue at least this long before one is used again, while fresh ones remain:
/// a generation then repeats after 4 million changes at the earliest.
const QUEUE_MIN: usize = 1024;

/// The allocator of identities, both families.
#[derive(Clone, Debug)]
pub(crate) struct Ids {
    max: usize,
    used: usize,
    /// By index: generation given last, and whether it is in use.
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

    /// Takes an identity.
    pub(crate) fn take(&mut self) -> Option<EndpointId> {
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
        Some(EndpointId::from_bits(self.live(index)))
    }

    /// Gives an identity back; it takes no new flows from now on.
    pub(crate) fn release(&mut self, id: EndpointId) {
        self.state[id.index() as usize] &= GENERATION;
        self.grace.release(id.index());
    }

    /// What `LIVE[index]` should hold.
    pub(crate) fn live(&self, index: u32) -> u32 {
        match self.state.get(index as usize) {
            Some(state) if state & IN_USE != 0 => {
                EndpointId::new(index, u32::from(state & GENERATION)).to_bits()
            }
            Some(_) | None => 0,
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

    /// Takes exactly this identity, found in a map. After the last of these calls comes
    /// [`Self::observed`].
    pub(crate) fn reserve(&mut self, id: EndpointId) -> bool {
        if !self.raise(id) || self.live(id.index()) != 0 {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "12 bits")]
        let generation = id.generation() as u16;
        self.state[id.index() as usize] = generation | IN_USE;
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
        let is_free = |index: &u32| self.live(*index) == 0 && !resting.contains(index);
        self.recycled = (1..len).filter(is_free).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_comes_back_as_another_generation() {
        let mut ids = Ids::new(3);
        let (first, second) = (ids.take().unwrap(), ids.take().unwrap());
        assert!(ids.take().is_none());
        assert_eq!(ids.live(first.index()), first.to_bits());
        ids.release(first);
        assert_eq!(ids.live(first.index()), 0);
        ids.applied(0);
        assert!(ids.take().is_none(), "it rests");
        ids.reclaim(super::super::grace::GRACE_MS);
        let again = ids.take().unwrap();
        assert_eq!((again.index(), again.generation()), (first.index(), first.generation() + 1));
        assert_ne!(again, second);
    }

    #[test]
    fn a_generation_that_a_flow_remembers_does_not_come_back_after_a_restart() {
        let mut ids = Ids::new(3);
        let remembered = EndpointId::new(2, 7);
        assert!(ids.reserve(EndpointId::new(1, 4095)));
        assert!(ids.raise(remembered));
        ids.observed();
        assert_eq!(ids.take().unwrap(), EndpointId::new(2, 8));
        assert_eq!(ids.available(), 0);
    }
}
