//! Reads a program back from live maps, so that a new process goes on where the last one ended.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    Affinity, AffinityKey, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Live, Peer,
    PeerKey, Slots, SourceKey, names,
};

use super::{
    blocks::Block,
    change::hosts,
    half::{Half, Port},
    maps::{MapError, MapWriter},
    owners::{Owner, is_marker, set_owner},
    program::{Program, Shared},
    shape::Shape,
};

/// Entries of `LIVE` that are not empty.
type Lives = BTreeMap<u32, Live>;

impl Program {
    /// What the maps hold. Its service ports have no names yet; [`Program::compile`] finds them by
    /// their frontends. Whatever contradicts itself (a crash between two writes) is marked to be
    /// written again.
    pub fn observe(maps: &mut impl MapWriter) -> Result<Self, MapError> {
        let mut program = Self::new(maps.limits()?);
        for (word, value) in maps.filled::<u64>(names::GATE)? {
            program.shared.gate.found(word, value);
        }
        let lives: Lives = maps.filled(names::LIVE)?.into_iter().collect();
        let shared = &mut program.shared;
        let in_maps = [names::FRONTENDS4, names::ENDPOINTS4, names::SOURCES4];
        observe_half(&mut program.v4, shared, &lives, InMaps::read(maps, in_maps)?);
        let in_maps = [names::FRONTENDS6, names::ENDPOINTS6, names::SOURCES6];
        observe_half(&mut program.v6, shared, &lives, InMaps::read(maps, in_maps)?);
        for live in lives.values() {
            let id = EndpointId::from_bits(live.id);
            if shared.ids.live(id.index()).id == live.id {
                continue;
            }
            shared.mark_live(id);
            // Nobody's: it is cleared, and not used again before that.
            if shared.ids.reserve(id, 0) {
                shared.ids.release(id);
            }
        }
        for id in ids_in(&program.v4).into_iter().chain(ids_in(&program.v6)) {
            if lives.get(&id.index()).map(|live| live.id) != Some(id.to_bits()) {
                shared.mark_live(id);
            }
        }
        remember::<4>(shared, maps, names::FLOWS4)?;
        remember::<16>(shared, maps, names::FLOWS6)?;
        for (_, peer) in maps.entries::<PeerKey, Peer>(names::PEERS)? {
            shared.ids.raise(EndpointId::from_bits(peer.endpoint));
        }
        for (_, affinity) in maps.entries::<AffinityKey, Affinity>(names::AFFINITY)? {
            shared.ids.raise(EndpointId::from_bits(affinity.endpoint));
        }
        shared.ids.observed();
        Ok(program)
    }
}

/// What the maps of one family hold.
struct InMaps<const N: usize> {
    frontends: Vec<(FrontendKey<N>, Frontend)>,
    endpoints: Vec<Endpoint<N>>,
    sources: Vec<SourceKey<N>>,
}

impl<const N: usize> InMaps<N> {
    fn read(
        maps: &mut impl MapWriter,
        [frontends, endpoints, sources]: [&'static str; 3],
    ) -> Result<Self, MapError> {
        let filled: Vec<(u32, Endpoint<N>)> = maps.filled(endpoints)?;
        let len = filled.last().map_or(0, |(index, _)| *index as usize + 1);
        let mut array = vec![Endpoint::new([0; N], 0, 0, EndpointId::NONE); len];
        for (index, endpoint) in filled {
            array[index as usize] = endpoint;
        }
        let sources: Vec<(SourceKey<N>, u32)> = maps.entries(sources)?;
        Ok(Self {
            frontends: maps.entries(frontends)?,
            endpoints: array,
            sources: sources.into_iter().map(|(source, _)| source).collect(),
        })
    }
}

/// Identities that flows hold must not come back.
fn remember<const N: usize>(
    shared: &mut Shared,
    maps: &mut impl MapWriter,
    map: &'static str,
) -> Result<(), MapError> {
    for (_, flow) in maps.entries::<FlowKey<N>, Flow<N>>(map)? {
        shared.ids.raise(EndpointId::from_bits(flow.endpoint));
    }
    Ok(())
}

fn ids_in<const N: usize>(half: &Half<N>) -> Vec<EndpointId> {
    let ports = half.ports.iter().flatten();
    ports.flat_map(|port| half.slice(port.shape.block)).map(Endpoint::id).collect()
}

fn observe_half<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    lives: &Lives,
    found: InMaps<N>,
) {
    let mut by_service: BTreeMap<u32, Vec<(FrontendKey<N>, Frontend)>> = BTreeMap::new();
    let mut markers = BTreeMap::new();
    for (key, frontend) in found.frontends {
        if is_marker(&key) {
            markers.insert(key, frontend);
        } else {
            by_service.entry(frontend.service).or_default().push((key, frontend));
        }
    }
    for (number, mut frontends) in by_service {
        frontends.sort_unstable();
        let shape = observe_shape(half, shared, lives, &frontends, &found.endpoints);
        let keys = frontends.iter().map(|(key, _)| *key).collect();
        let port = Port { key: None, frontends: keys, shape };
        let slot = half.slot_of(number).filter(|&slot| half.insert_at(slot, port.clone()));
        let slot = slot.unwrap_or_else(|| half.insert(port));
        let affinities = frontends.iter().map(|(_, frontend)| frontend.affinity_s);
        half.set_affinity(slot, affinities.max().unwrap_or(0));
        let dirty = half.frontends_dirty.len();
        for (key, frontend) in &frontends {
            set_owner(half, shared, *key, Some(Owner { slot, flags: frontend.flags }));
        }
        // They are there already, unless they say something else; so is a marker that was found.
        let mut marked = half.frontends_dirty.split_off(dirty);
        marked.retain(|key| is_marker(key) && !markers.contains_key(key));
        half.frontends_dirty.extend(marked);
        let differs = |(key, frontend): &&(_, Frontend)| half.frontend(key) != Some(*frontend);
        let differing: Vec<_> = frontends.iter().filter(differs).map(|(key, _)| *key).collect();
        half.frontends_dirty.extend(differing);
    }
    for (key, frontend) in markers {
        if half.frontend(&key) != Some(frontend) {
            half.frontends_dirty.push(key);
        }
    }
    observe_sources(half, found.sources);
}

/// Ranges of ports that are there are theirs; others are nobody's.
fn observe_sources<const N: usize>(half: &mut Half<N>, sources: Vec<SourceKey<N>>) {
    let mut by_service: BTreeMap<u32, Vec<SourceKey<N>>> = BTreeMap::new();
    for source in sources {
        by_service.entry(source.service()).or_default().push(source);
    }
    for (number, ranges) in by_service {
        if half.slot_of(number).is_some_and(|slot| half.port(slot).is_some()) {
            half.sources.found(number, ranges);
        } else {
            half.sources.dirty.extend(ranges);
        }
    }
}

/// How the frontends of a port say that its endpoints lie, if those are sound. Slots that frontends
/// name beside that are not used again before these frontends are written.
fn observe_shape<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    lives: &Lives,
    frontends: &[(FrontendKey<N>, Frontend)],
    array: &[Endpoint<N>],
) -> Shape {
    let (mut cluster, mut local) = (BTreeSet::new(), BTreeSet::new());
    for (_, frontend) in frontends {
        let is_local = |bit| frontend.flags & bit != 0;
        for (slots, is_local) in [
            (frontend.inside, is_local(Frontend::LOCAL_INSIDE)),
            (frontend.outside, is_local(Frontend::LOCAL_OUTSIDE)),
        ] {
            if slots.count > 0 {
                if is_local { &mut local } else { &mut cluster }.insert(slots);
            }
        }
    }
    let none = Slots::default();
    let mut kept = Shape::EMPTY;
    let candidates = |of: &BTreeSet<Slots>| of.iter().copied().chain([none]).collect::<Vec<_>>();
    'found: for cluster in candidates(&cluster) {
        for local in candidates(&local) {
            let Some(shape) = joined(cluster, local) else { continue };
            if half.blocks.reserve(shape.block) {
                if keep(half, shared, lives, &shape, array) {
                    kept = shape;
                    break 'found;
                }
                half.blocks.release(shape.block);
            }
        }
    }
    for slots in cluster.into_iter().chain(local) {
        // What is not free is kept, or rests already, or is another port's.
        for base in slots.base..slots.base.saturating_add(slots.count).min(half.blocks.max()) {
            if half.blocks.reserve(Block { base, len: 1 }) {
                half.blocks.release(Block { base, len: 1 });
            }
        }
    }
    kept
}

/// The shape of a block with these views, if there is one.
fn joined(cluster: Slots, local: Slots) -> Option<Shape> {
    let shape = |base, end: u32, cluster, local| {
        let block = Block { base, len: end.checked_sub(base)? };
        Some(Shape { block, cluster, local })
    };
    let end = |slots: Slots| slots.base.checked_add(slots.count);
    match (cluster.count, local.count) {
        (0, 0) => None,
        (count, 0) => shape(cluster.base, end(cluster)?, count, count),
        (0, _) => shape(local.base, end(local)?, 0, 0),
        (count, _) => {
            let offset = local.base.checked_sub(cluster.base)?;
            let fits = offset <= count && end(local)? >= end(cluster)?;
            fits.then(|| shape(cluster.base, end(local)?, count, offset))?
        }
    }
}

/// Takes the endpoints of a block with their identities, or nothing when one of them is no good.
fn keep<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    lives: &Lives,
    shape: &Shape,
    array: &[Endpoint<N>],
) -> bool {
    let Block { base, len } = shape.block;
    let Some(endpoints) = array.get(base as usize..(base + len) as usize) else { return false };
    let views = |id: EndpointId| {
        let live = lives.get(&id.index()).filter(|live| live.id == id.to_bits());
        live.map_or(0, |live| live.views)
    };
    for (at, endpoint) in endpoints.iter().enumerate() {
        if !shared.ids.reserve(endpoint.id(), views(endpoint.id())) {
            for before in &endpoints[..at] {
                shared.ids.release(before.id());
                shared.mark_live(before.id());
            }
            return false;
        }
    }
    shared.hosts += hosts(endpoints);
    half.write(shape.block, endpoints);
    // It is there already.
    half.blocks_dirty.pop();
    true
}
