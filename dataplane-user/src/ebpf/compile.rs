//! From desired service ports to a program: one port's change, or the whole table. Pure.

use dataplane_common::{Endpoint, EndpointId, FrontendKey, names};

use super::{
    blocks::Block,
    half::{Claim, Half, Owner, Port, address},
    program::{Departed, Program, Shared},
    wanted::{claims, wanted_endpoints},
};
use crate::model::{Family, PortKey, PortState, Protocol};

/// What the node should do; the table of the model.
pub trait Desired {
    /// Every service port, sorted.
    fn keys(&self) -> impl Iterator<Item = PortKey>;
    /// What to do for one of them.
    fn port(&self, key: &PortKey) -> Option<PortState>;
}

/// A service port found no room; its last good state, if it had one, stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot fit port '{}' of service {}/{} into map {map}: it holds {max} entries at most",
    key.port, key.namespace, key.service
)]
pub struct CapacityError {
    /// The port.
    pub key: PortKey,
    /// The map that is full.
    pub map: &'static str,
    /// How many entries the map holds.
    pub max: u32,
}

impl Program {
    /// Makes the program right for one service port; `None` when it is gone. Costs O(change).
    ///
    /// An error is also kept in [`Program::left_out`] and tried again by [`Program::retry`].
    pub fn change(
        &mut self,
        key: &PortKey,
        state: Option<&PortState>,
    ) -> Result<(), CapacityError> {
        let result = match key.family {
            Family::V4 => change(&mut self.v4, &mut self.shared, key, state),
            Family::V6 => change(&mut self.v6, &mut self.shared, key, state),
        };
        match &result {
            Ok(()) => self.left_out.remove(key),
            Err(error) => self.left_out.insert(key.clone(), error.clone()),
        };
        result
    }

    /// Makes the program right for the whole table. What it held before (also without names, as
    /// found in the maps) only decides which numbers, identities and blocks are kept, and who
    /// stays when there is no room for all.
    pub fn compile(&mut self, desired: &impl Desired) {
        let mut fresh = Vec::new();
        let mut wanted = Vec::new();
        // Into empty maps there is nothing to find again, and every state is asked for once.
        let empty = self.v4.ports.is_empty() && self.v6.ports.is_empty();
        for key in desired.keys() {
            if empty {
                fresh.push(key);
                continue;
            }
            let Some(state) = desired.port(&key) else { continue };
            let known = match key.family {
                Family::V4 => adopt(&mut self.v4, &key, &state),
                Family::V6 => adopt(&mut self.v6, &key, &state),
            };
            if known { wanted.push((key, state)) } else { fresh.push(key) }
        }
        let left: Vec<PortKey> = self.left_out.keys().cloned().collect();
        for key in left.iter().filter(|key| desired.port(key).is_none()) {
            self.left_out.remove(key);
        }
        drop_others(&mut self.v4, &mut self.shared, &wanted);
        drop_others(&mut self.v6, &mut self.shared, &wanted);
        for (key, state) in &wanted {
            // The error is kept in `left_out`.
            let _ = self.change(key, Some(state));
        }
        drop(wanted);
        let of = |family| fresh.iter().filter(|key| key.family == family).count();
        self.v4.expect(of(Family::V4));
        self.v6.expect(of(Family::V6));
        for key in fresh {
            let _ = self.change(&key, desired.port(&key).as_ref());
        }
    }

    /// Tries again those who found no room. Says how many found it now.
    pub fn retry(&mut self, desired: &impl Desired) -> usize {
        let before = self.left_out.len();
        for key in self.left_out.keys().cloned().collect::<Vec<_>>() {
            let room = match key.family {
                Family::V4 => self.v4.frontends_room() > 0 || self.v4.find(&key).is_some(),
                Family::V6 => self.v6.frontends_room() > 0 || self.v6.find(&key).is_some(),
            };
            if room {
                let _ = self.change(&key, desired.port(&key).as_ref());
            }
        }
        before - self.left_out.len()
    }
}

/// Finds the port by name, or names the one found in the maps under one of its frontends.
fn adopt<const N: usize>(half: &mut Half<N>, key: &PortKey, state: &PortState) -> bool {
    if half.find(key).is_some() {
        return true;
    }
    let nameless = claims(state).into_iter().find_map(|claim| {
        let owner = half.frontends.get(&claim.key)?;
        half.port(owner.slot)?.key.is_none().then_some(owner.slot)
    });
    if let Some(slot) = nameless {
        half.name(slot, key);
    }
    nameless.is_some()
}

/// Drops every port that is not in `wanted`, which is sorted.
fn drop_others<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    wanted: &[(PortKey, PortState)],
) {
    let is_wanted = |port: &Port<N>| {
        port.key.as_ref().is_some_and(|key| wanted.binary_search_by(|(k, _)| k.cmp(key)).is_ok())
    };
    let others: Vec<u32> = (0u32..)
        .zip(&half.ports)
        .filter(|(_, port)| port.as_ref().is_some_and(|port| !is_wanted(port)))
        .map(|(slot, _)| slot)
        .collect();
    for slot in others {
        drop_port(half, shared, slot);
    }
}

fn change<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: &PortKey,
    state: Option<&PortState>,
) -> Result<(), CapacityError> {
    let seen = half.find(key);
    let claims = state.map(claims).unwrap_or_default();
    let Some(state) = state.filter(|_| !claims.is_empty()) else {
        if let Some(slot) = seen {
            drop_port(half, shared, slot);
        }
        return Ok(());
    };
    let full = |map, max| Err(CapacityError { key: key.clone(), map, max });
    let old = seen.and_then(|slot| half.port(slot));
    let freed = old.map_or(0, |port| {
        let leaves = |claim: &&Claim<N>| {
            half.frontends.get(&claim.key).is_some_and(|owner| Some(owner.slot) == seen)
                && !half.contested.contains_key(&claim.key)
                && !claims.iter().any(|wanted| wanted.key == claim.key)
        };
        port.claims.iter().filter(leaves).count()
    });
    let added = claims.iter().filter(|claim| !half.frontends.contains_key(&claim.key)).count();
    if added > half.frontends_room() + freed {
        return full(pick::<N>(names::FRONTENDS4, names::FRONTENDS6), half.frontends_max());
    }
    let old_block = old.map_or(Block::EMPTY, |port| port.block);
    let protocol = state.frontends.first().map_or(Protocol::Tcp, |frontend| frontend.protocol);
    let block = match place(half, shared, old_block, state, protocol) {
        Ok(block) => block,
        Err((map, max)) => return full(map, max),
    };
    let slot = seen.unwrap_or_else(|| {
        let nobody = Port { key: None, claims: Box::default(), block: Block::EMPTY };
        let slot = half.insert(nobody);
        half.name(slot, key);
        slot
    });
    let Some(port) = half.port_mut(slot) else { return Ok(()) };
    port.block = block;
    let seen_claims = std::mem::replace(&mut port.claims, claims.clone().into_boxed_slice());
    for claim in seen_claims.iter().filter(|seen| !claims.iter().any(|new| new.key == seen.key)) {
        give_up(half, shared, key, slot, claim.key);
    }
    let moved = block != old_block;
    for claim in &claims {
        claim_frontend(half, shared, key, Owner { slot, flags: claim.flags }, claim.key, moved);
    }
    Ok(())
}

/// Finds identities and a block for the endpoints of `state`, and gives back the old ones.
fn place<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    old_block: Block,
    state: &PortState,
    protocol: Protocol,
) -> Result<Block, (&'static str, u32)> {
    let mut old: Vec<Endpoint<N>> = half.slice(old_block).to_vec();
    let mut wanted = wanted_endpoints::<N>(state);
    let same = |(old, new): (&Endpoint<N>, &Endpoint<N>)| {
        (old.addr(), old.port(), old.flags()) == (new.addr(), new.port(), new.flags())
    };
    if old.len() == wanted.len() && old.iter().zip(&wanted).all(same) {
        return Ok(old_block);
    }
    let name = |endpoint: &Endpoint<N>| (endpoint.addr(), endpoint.port());
    old.sort_by_key(name);
    let mut new_count = 0;
    for endpoint in &mut wanted {
        match old.binary_search_by_key(&name(endpoint), name) {
            Ok(at) => {
                let (addr, port) = name(endpoint);
                *endpoint = Endpoint::new(addr, port, endpoint.flags(), old[at].id());
            }
            Err(_) => new_count += 1,
        }
    }
    if new_count > shared.ids.available() {
        let (_, max) = shared.ids.fill();
        return Err((names::LIVE, u32::try_from(max).unwrap_or(u32::MAX)));
    }
    let len = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
    let (block, in_place) = match half.blocks.take(len) {
        Some(block) => (block, false),
        // No room beside the old block. Written in place, the change is not atomic, but each slot
        // holds an endpoint of this service at any time: the old one or the new one.
        None if len <= old_block.len => (Block { base: old_block.base, len }, true),
        None => return Err((pick::<N>(names::ENDPOINTS4, names::ENDPOINTS6), half.blocks.max())),
    };
    for endpoint in wanted.iter_mut().filter(|endpoint| endpoint.id() == EndpointId::NONE) {
        let id = shared.ids.take().expect("they were counted above");
        shared.live_dirty.push(id.index());
        *endpoint = Endpoint::new(endpoint.addr(), endpoint.port(), endpoint.flags(), id);
    }
    release_departed(shared, &old, &wanted, protocol);
    shared.hosts = shared.hosts + hosts(&wanted) - hosts(&old);
    half.write(block, &wanted);
    half.blocks.release(if in_place {
        Block { base: old_block.base + len, len: old_block.len - len }
    } else {
        old_block
    });
    Ok(block)
}

/// How many of `endpoints` have the node's own address.
pub(crate) fn hosts<const N: usize>(endpoints: &[Endpoint<N>]) -> usize {
    endpoints.iter().filter(|endpoint| endpoint.flags() & Endpoint::<N>::HOST != 0).count()
}

/// Gives back the identities of those in `old` who are not in `wanted`.
fn release_departed<const N: usize>(
    shared: &mut Shared,
    old: &[Endpoint<N>],
    wanted: &[Endpoint<N>],
    protocol: Protocol,
) {
    let mut kept: Vec<EndpointId> = wanted.iter().map(Endpoint::id).collect();
    kept.sort_unstable();
    for gone in old.iter().filter(|old| kept.binary_search(&old.id()).is_err()) {
        shared.ids.release(gone.id());
        shared.live_dirty.push(gone.id().index());
        shared.departed.push(Departed {
            address: address(gone.addr()),
            port: gone.port(),
            protocol,
            id: gone.id().to_bits(),
        });
    }
}

fn drop_port<const N: usize>(half: &mut Half<N>, shared: &mut Shared, slot: u32) {
    let Some(port) = half.remove(slot) else { return };
    let old = half.slice(port.block).to_vec();
    release_departed(shared, &old, &[], port.protocol());
    shared.hosts -= hosts(&old);
    half.blocks.release(port.block);
    for claim in &port.claims {
        match &port.key {
            Some(key) => give_up(half, shared, key, slot, claim.key),
            None => pass_on(half, shared, slot, claim.key),
        }
    }
}

/// `owner` wants a frontend. Of several the port that sorts first has it.
fn claim_frontend<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: &PortKey,
    owner: Owner,
    frontend: FrontendKey<N>,
    moved: bool,
) {
    let Some(&seen) = half.frontends.get(&frontend) else {
        half.frontends.insert(frontend, owner);
        half.frontends_dirty.push(frontend);
        shared.gate.add(&frontend.addr());
        return;
    };
    if seen.slot == owner.slot {
        if moved || seen != owner {
            half.frontends.insert(frontend, owner);
            half.frontends_dirty.push(frontend);
        }
        return;
    }
    let other = half.port(seen.slot).and_then(|port| port.key.clone());
    if let Some(other) = other {
        if other < *key {
            half.contested.entry(frontend).or_default().insert(key.clone(), owner);
            return;
        }
        let losers = half.contested.entry(frontend).or_default();
        losers.remove(key);
        losers.insert(other, seen);
    }
    half.frontends.insert(frontend, owner);
    half.frontends_dirty.push(frontend);
}

/// The port `key` in `slot` no longer wants a frontend.
fn give_up<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: &PortKey,
    slot: u32,
    frontend: FrontendKey<N>,
) {
    if half.frontends.get(&frontend).is_some_and(|owner| owner.slot == slot) {
        pass_on(half, shared, slot, frontend);
    } else if let Some(losers) = half.contested.get_mut(&frontend) {
        losers.remove(key);
        if losers.is_empty() {
            half.contested.remove(&frontend);
        }
    }
}

/// The frontend goes to the next port that wants it, or away.
fn pass_on<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    slot: u32,
    frontend: FrontendKey<N>,
) {
    if half.frontends.get(&frontend).is_none_or(|owner| owner.slot != slot) {
        return;
    }
    half.frontends_dirty.push(frontend);
    let next = half.contested.get_mut(&frontend).and_then(std::collections::BTreeMap::pop_first);
    if half.contested.get(&frontend).is_some_and(std::collections::BTreeMap::is_empty) {
        half.contested.remove(&frontend);
    }
    if let Some((_, owner)) = next {
        half.frontends.insert(frontend, owner);
    } else {
        half.frontends.remove(&frontend);
        shared.gate.remove(&frontend.addr());
    }
}

fn pick<const N: usize>(v4: &'static str, v6: &'static str) -> &'static str {
    if N == 4 { v4 } else { v6 }
}
