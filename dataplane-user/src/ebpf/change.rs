//! What one service port's change does to one family of a program.

use dataplane_common::{Endpoint, EndpointId, FrontendKey, Live, names};

use super::{
    blocks::Block,
    compile::CapacityError,
    half::{Claim, Half, Port, address},
    owners::{Owner, claim_frontend, give_up, pass_on},
    program::{Departed, Shared},
    shape::Shape,
    wanted::{self, Endpoints, claims},
};
use crate::model::{PortKey, PortState, Protocol};

/// Makes one family right for one service port.
pub(crate) fn change<const N: usize>(
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
    let (added, freed) = balance(half, seen, &claims);
    if added > half.frontends_room() + freed {
        return full(pick::<N>(names::FRONTENDS4, names::FRONTENDS6), half.frontends_max());
    }
    let old = seen.and_then(|slot| half.port(slot)).map_or(Shape::EMPTY, |port| port.shape);
    let protocol = state.frontends.first().map_or(Protocol::Tcp, |frontend| frontend.protocol);
    let shape = match place(half, shared, old, wanted::endpoints(state, &claims), protocol) {
        Ok(shape) => shape,
        Err((map, max)) => return full(map, max),
    };
    let slot = seen.unwrap_or_else(|| {
        let slot = half.insert(Port { key: None, frontends: Box::default(), shape: Shape::EMPTY });
        half.name(slot, key);
        slot
    });
    let affinities = (half.affinity_s(slot), state.affinity_s.unwrap_or(0));
    half.set_affinity(slot, affinities.1);
    let Some(port) = half.port_mut(slot) else { return Ok(()) };
    port.shape = shape;
    let frontends: Box<[FrontendKey<N>]> = claims.iter().map(|claim| claim.key).collect();
    let before = std::mem::replace(&mut port.frontends, frontends);
    for gone in before.iter().filter(|seen| !claims.iter().any(|new| new.key == **seen)) {
        give_up(half, shared, key, slot, *gone);
    }
    for Claim { key: frontend, flags } in claims {
        let moved = old.value(0, flags, affinities.0) != shape.value(0, flags, affinities.1);
        claim_frontend(half, shared, key, Owner { slot, flags }, frontend, moved);
    }
    let number = half.number(slot);
    if half.sources.set(number, wanted::sources(state, number)) {
        return Ok(());
    }
    // The frontends say that only clients in ranges are served, so the others are not.
    let (_, max) = half.sources.fill();
    full(pick::<N>(names::SOURCES4, names::SOURCES6), u32::try_from(max).unwrap_or(u32::MAX))
}

/// How many entries the map of frontends would get and lose with these claims: at most, at least.
fn balance<const N: usize>(
    half: &Half<N>,
    seen: Option<u32>,
    claims: &[Claim<N>],
) -> (usize, usize) {
    let ours = |key: &FrontendKey<N>| {
        half.frontends.get(key).copied().filter(|owner| Some(owner.slot) == seen)
    };
    let is_new = |claim: &&Claim<N>| {
        // A frontend that somebody else has counts from now on for whom it may pass to.
        ours(&claim.key).is_none() && !half.contested.contains_key(&claim.key)
    };
    let added = claims.iter().filter(is_new).count();
    let mut addresses: Vec<[u8; N]> =
        claims.iter().filter(|claim| claim.is_cluster_ip()).map(|claim| claim.key.addr()).collect();
    addresses.dedup();
    let markers_added = addresses.iter().filter(|addr| half.tally.cluster_ip(addr) == 0).count();

    let before = seen.and_then(|slot| half.port(slot)).map_or(&[][..], |port| &port.frontends);
    let leaving = before.iter().filter_map(|key| {
        let stays = claims.iter().any(|wanted| wanted.key == *key);
        let claim = Claim { key: *key, flags: ours(key)?.flags };
        (!stays && !half.contested.contains_key(key)).then_some(claim)
    });
    let leaving: Vec<Claim<N>> = leaving.collect();
    let markers_freed = leaving
        .chunk_by(|a, b| a.key.addr() == b.key.addr())
        .filter(|same| !addresses.contains(&same[0].key.addr()))
        .filter(|same| {
            let count = same.iter().filter(|claim| claim.is_cluster_ip()).count();
            count > 0 && half.tally.cluster_ip(&same[0].key.addr()) as usize == count
        })
        .count();
    (added + markers_added, leaving.len() + markers_freed)
}

/// Finds identities and a block for these endpoints, and gives back the old ones.
fn place<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    old: Shape,
    wanted: Endpoints<N>,
    protocol: Protocol,
) -> Result<Shape, (&'static str, u32)> {
    let Endpoints { all: mut wanted, cluster, local } = wanted;
    let shape = |block| Shape { block, cluster, local };
    let mut seen: Vec<Endpoint<N>> = half.slice(old.block).to_vec();
    let same = |(old, new): (&Endpoint<N>, &Endpoint<N>)| {
        (old.addr(), old.port(), old.flags()) == (new.addr(), new.port(), new.flags())
    };
    if seen.len() == wanted.len() && seen.iter().zip(&wanted).all(same) {
        set_views(shared, &seen, &shape(old.block), protocol);
        return Ok(shape(old.block));
    }
    let name = |endpoint: &Endpoint<N>| (endpoint.addr(), endpoint.port());
    seen.sort_by_key(name);
    let mut new_count = 0;
    for endpoint in &mut wanted {
        match seen.binary_search_by_key(&name(endpoint), name) {
            Ok(at) => {
                let (addr, port) = name(endpoint);
                *endpoint = Endpoint::new(addr, port, endpoint.flags(), seen[at].id());
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
        None if len <= old.block.len => (Block { base: old.block.base, len }, true),
        None => return Err((pick::<N>(names::ENDPOINTS4, names::ENDPOINTS6), half.blocks.max())),
    };
    let shape = shape(block);
    for (at, endpoint) in (0..).zip(&mut wanted) {
        if endpoint.id() == EndpointId::NONE {
            let id = shared.ids.take(shape.views(at)).expect("they were counted above");
            shared.mark_live(id);
            *endpoint = Endpoint::new(endpoint.addr(), endpoint.port(), endpoint.flags(), id);
        }
    }
    set_views(shared, &wanted, &shape, protocol);
    release_departed(shared, &seen, &wanted, protocol);
    shared.hosts = shared.hosts + hosts(&wanted) - hosts(&seen);
    half.write(block, &wanted);
    half.blocks.release(if in_place {
        Block { base: old.block.base + len, len: old.block.len - len }
    } else {
        old.block
    });
    Ok(shape)
}

/// The endpoints of a block take flows in the views that its shape says.
fn set_views<const N: usize>(
    shared: &mut Shared,
    endpoints: &[Endpoint<N>],
    shape: &Shape,
    protocol: Protocol,
) {
    for (at, endpoint) in (0..).zip(endpoints) {
        let left = shared.set_views(endpoint.id(), shape.views(at));
        if left != 0 {
            shared.departed.push(departed(endpoint, protocol, left));
        }
    }
}

fn departed<const N: usize>(endpoint: &Endpoint<N>, protocol: Protocol, views: u32) -> Departed {
    let (address, port) = (address(endpoint.addr()), endpoint.port());
    Departed { address, port, protocol, id: endpoint.id().to_bits(), views }
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
        shared.mark_live(gone.id());
        shared.departed.push(departed(gone, protocol, Live::CLUSTER | Live::LOCAL));
    }
}

/// Takes a port out of the program, with all that only it needed.
pub(crate) fn drop_port<const N: usize>(half: &mut Half<N>, shared: &mut Shared, slot: u32) {
    let Some(port) = half.remove(slot) else { return };
    let old = half.slice(port.shape.block).to_vec();
    release_departed(shared, &old, &[], port.protocol());
    shared.hosts -= hosts(&old);
    half.blocks.release(port.shape.block);
    half.sources.set(half.number(slot), Vec::new());
    for frontend in &port.frontends {
        match &port.key {
            Some(key) => give_up(half, shared, key, slot, *frontend),
            None => pass_on(half, shared, slot, *frontend),
        }
    }
}

fn pick<const N: usize>(v4: &'static str, v6: &'static str) -> &'static str {
    if N == 4 { v4 } else { v6 }
}
