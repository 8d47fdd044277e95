//! What one of our tables holds in the kernel, and how it differs from a program.

use std::{collections::BTreeMap, thread, time::Duration};

use ahash::AHashMap;

use super::{
    dump::{SeenChain, SeenHeld, SeenSet},
    edits::{Edits, SetId, Value},
    expression::Verdict,
    half::{Half, Seen, Target, read_frontend},
    object::{Chain, Table},
    socket::{Netfilter, NftablesError},
    treatment::{Place, Treatment},
};

/// What a table holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) chains: BTreeMap<String, SeenChain>,
    sets: BTreeMap<String, SeenSet>,
    /// Only of sets that look as they should.
    pub(super) elements: BTreeMap<SetId, AHashMap<Vec<u8>, Value>>,
}

/// How a table differs from a program.
#[derive(Debug)]
pub(super) enum Difference {
    /// In elements and in chains that pick.
    Edits(Edits),
    /// In its shape; in so many places.
    Shape(usize),
}

/// So often elements are read while their set is rehashed.
const READS_MAX: usize = 50;
/// About what that takes.
const REHASH: Duration = Duration::from_millis(20);
/// What a verdict that should not be there counts as.
const OTHER_VERDICT: u8 = 0xff;

impl Image {
    /// Reads a table; `None` when it is not there.
    pub(super) fn read<const N: usize>(
        kernel: &mut Netfilter,
        table: &Table,
        half: &Half<N>,
    ) -> Result<Option<Self>, NftablesError> {
        if !kernel.tables(table.family)?.contains(&table.name) {
            return Ok(None);
        }
        let mut image = Self { chains: kernel.chains(table)?, ..Self::default() };
        image.sets = kernel.sets(table)?;
        let wanted = half.layout.sets();
        for id in SetId::ALL {
            let set = wanted.iter().find(|set| set.name == id.name());
            let is_as_wanted =
                set.zip(image.sets.get(id.name())).is_some_and(|(set, seen)| seen.is(set));
            if is_as_wanted {
                image.elements.insert(id, read_elements(kernel, table, id)?);
            }
        }
        Ok(Some(image))
    }

    /// How a program differs from this.
    pub(super) fn difference<const N: usize>(&self, half: &Half<N>) -> Difference {
        let shape = self.shape(half);
        if shape > 0 {
            return Difference::Shape(shape);
        }
        let mut edits = Edits::default();
        let fixed = half.layout.chains();
        for name in half.chains.keys().filter(|name| !self.chains.contains_key(&***name)) {
            edits.chain(name, true);
        }
        let is_fixed = |name: &str| fixed.iter().any(|chain| chain.name == name);
        for name in self.chains.keys().filter(|name| !half.chains.contains_key(name.as_str())) {
            if !is_fixed(name) {
                edits.chain(&name.clone().into(), false);
            }
        }
        for (id, elements) in &self.elements {
            let mut found = 0;
            half.for_each(*id, |key, value| match elements.get(key) {
                Some(seen) if seen == value => found += 1,
                Some(seen) => {
                    found += 1;
                    let (before, after) = (Some(seen.clone()), Some(value.to_vec()));
                    edits.element(*id, key.to_vec(), before, after);
                }
                None => edits.element(*id, key.to_vec(), None, Some(value.to_vec())),
            });
            if found == elements.len() {
                continue;
            }
            for (key, seen) in elements {
                if half.value(*id, key).is_none() {
                    edits.element(*id, key.clone(), Some(seen.clone()), None);
                }
            }
        }
        Difference::Edits(edits)
    }

    /// In how many places the shape of the table is wrong.
    fn shape<const N: usize>(&self, half: &Half<N>) -> usize {
        let wanted = half.layout.sets();
        let is_wrong =
            |set: &&super::object::Set| !self.sets.get(&*set.name).is_some_and(|seen| seen.is(set));
        let sets = wanted.iter().filter(is_wrong).count();
        let is_foreign = |name: &&String| !wanted.iter().any(|set| set.name == **name);
        let foreign = self.sets.keys().filter(is_foreign).count();
        let fixed = half.layout.chains();
        let missing = fixed.iter().filter(|chain| !self.chains.contains_key(&*chain.name)).count();
        let is_changed = |(name, seen): &(&String, &SeenChain)| {
            half.chains.get(name.as_str()).is_some_and(|chain| !is_as(seen, chain))
        };
        let changed = self.chains.iter().filter(is_changed).count();
        sets + foreign + missing + changed
    }

    /// Numbers of service ports by frontend, and the order of endpoints.
    pub(super) fn seen<const N: usize>(&self) -> Seen<N> {
        let mut seen = Seen::default();
        let word = |bytes: &[u8], at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
        };
        for (key, value) in self.elements.get(&SetId::Services).into_iter().flatten() {
            let slot = word(value, 4).and_then(Half::<N>::slot_of);
            if let Some(((slot, _), frontend)) = slot.zip(read_frontend(key)) {
                // A number that no program of ours has given is not taken over.
                if slot < SLOTS_MAX {
                    seen.slots.insert(frontend, slot);
                }
            }
        }
        let mut views: AHashMap<u32, BTreeMap<u32, Target<N>>> = AHashMap::new();
        for (key, value) in self.elements.get(&SetId::Endpoints).into_iter().flatten() {
            let target = read_target(value);
            if let (Some(view), Some(index), Some(target)) = (word(key, 0), word(key, 4), target) {
                views.entry(view).or_default().insert(index, target);
            }
        }
        for (view, targets) in views {
            let mut targets: Vec<Target<N>> = targets.into_values().collect();
            let mut once = ahash::AHashSet::new();
            targets.retain(|target| once.insert(*target));
            seen.views.insert(view, targets);
        }
        seen
    }
}

/// More service ports than fit in memory.
const SLOTS_MAX: u32 = 1 << 22;

fn read_target<const N: usize>(value: &[u8]) -> Option<Target<N>> {
    let addr = *value.get(4..)?.first_chunk::<N>()?;
    let port = u16::from_be_bytes(*value.get(4 + N..)?.first_chunk()?);
    Some(Target { addr, port })
}

/// Whether a chain in the kernel is this one.
fn is_as(seen: &SeenChain, chain: &Chain) -> bool {
    let seat = chain.seat.map(|seat| (seat.kind.name(), seat.hook as u32, seat.priority));
    let seen_seat =
        seen.seat.as_ref().map(|(kind, hook, priority)| (kind.as_str(), *hook, *priority));
    let same = |(seen, rule): (&Vec<Option<_>>, &Vec<_>)| {
        seen.len() == rule.len()
            && seen.iter().zip(rule).all(|(seen, step)| seen.as_ref() == Some(step))
    };
    seat == seen_seat
        && seen.rules.len() == chain.rules.len()
        && seen.rules.iter().zip(&chain.rules).all(same)
}

/// Reads the elements of a set, each once.
///
/// A set that has just grown is rehashed in the background, and the kernel tells its elements by their
/// place: whoever reads meanwhile gets some twice and others not at all. So an element that comes twice
/// means that the reading does not count.
fn read_elements(
    kernel: &mut Netfilter,
    table: &Table,
    id: SetId,
) -> Result<AHashMap<Vec<u8>, Value>, NftablesError> {
    type Told = (usize, AHashMap<Vec<u8>, Value>);
    for _ in 0..READS_MAX {
        let (told, all) =
            kernel.elements(table, id.name(), |all: &mut Told, key, until, held| {
                let value = match held {
                    SeenHeld::Nothing => Vec::new(),
                    SeenHeld::Data(data) => data,
                    SeenHeld::Verdict(verdict) => {
                        if verdict == wanted_verdict(id, key) {
                            Vec::new()
                        } else {
                            vec![OTHER_VERDICT]
                        }
                    }
                };
                all.0 += 1;
                all.1.insert([key, until.unwrap_or(&[])].concat(), value);
            })?;
        if told == all.len() {
            return Ok(all);
        }
        thread::sleep(REHASH);
    }
    Err(NftablesError::Busy { what: "elements" })
}

/// The verdict that follows from a key.
pub(super) fn wanted_verdict(id: SetId, key: &[u8]) -> Option<Verdict> {
    let place = if id == SetId::NodePlans { Place::Node } else { Place::Address };
    let treatment = Treatment::of(u32::from_ne_bytes(key.try_into().ok()?))?;
    Some(Verdict::Goto(treatment.chain(place)))
}
