//! Reads a program back from live maps, so that a new process goes on where the last one ended.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Live, Peer, PeerKey, names,
};

use super::{
    blocks::Block,
    compile::hosts,
    half::{Claim, Half, Owner, Port},
    maps::{MapError, MapWriter},
    program::{Program, Shared},
};

impl Program {
    /// What the maps hold. Its service ports have no names yet; [`Program::compile`] finds them by
    /// their frontends. Whatever contradicts itself (a crash between two writes) is marked to be
    /// written again.
    pub fn observe(maps: &mut impl MapWriter) -> Result<Self, MapError> {
        let mut program = Self::new(maps.limits()?);
        for (word, value) in maps.entries::<u32, u64>(names::GATE)? {
            if value != 0 {
                program.shared.gate.found(word, value);
            }
        }
        let mut live: BTreeMap<u32, Live> = maps.entries(names::LIVE)?.into_iter().collect();
        live.retain(|_, live| live.id != 0);
        observe_half(
            &mut program.v4,
            &mut program.shared,
            maps.entries(names::FRONTENDS4)?,
            &array(maps, names::ENDPOINTS4)?,
        );
        observe_half(
            &mut program.v6,
            &mut program.shared,
            maps.entries(names::FRONTENDS6)?,
            &array(maps, names::ENDPOINTS6)?,
        );
        let shared = &mut program.shared;
        for (&index, &found) in &live {
            if shared.ids.live(index) != found.id {
                shared.live_dirty.push(index);
                // Nobody's: it is cleared, and not used again before that.
                if shared.ids.reserve(EndpointId::from_bits(found.id)) {
                    shared.ids.release(EndpointId::from_bits(found.id));
                }
            }
        }
        for half_ids in [ids_in(&program.v4), ids_in(&program.v6)] {
            let missing = half_ids
                .iter()
                .filter(|id| live.get(&id.index()).map(|live| live.id) != Some(id.to_bits()));
            program.shared.live_dirty.extend(missing.map(|id| id.index()));
        }
        remember::<4>(&mut program.shared, maps, names::FLOWS4)?;
        remember::<16>(&mut program.shared, maps, names::FLOWS6)?;
        for (_, peer) in maps.entries::<PeerKey, Peer>(names::PEERS)? {
            program.shared.ids.raise(EndpointId::from_bits(peer.endpoint));
        }
        program.shared.ids.observed();
        Ok(program)
    }
}

fn array<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
) -> Result<Vec<(u32, Endpoint<N>)>, MapError> {
    let mut entries: Vec<(u32, Endpoint<N>)> = maps.entries(map)?;
    entries.sort_unstable_by_key(|(index, _)| *index);
    Ok(entries)
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
    ports.flat_map(|port| half.slice(port.block)).map(Endpoint::id).collect()
}

fn observe_half<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    frontends: Vec<(FrontendKey<N>, Frontend)>,
    array: &[(u32, Endpoint<N>)],
) {
    let mut by_service: BTreeMap<u32, Vec<(FrontendKey<N>, Frontend)>> = BTreeMap::new();
    for (key, frontend) in frontends {
        by_service.entry(frontend.service).or_default().push((key, frontend));
    }
    for (number, mut frontends) in by_service {
        frontends.sort_unstable();
        let claims: Box<[Claim<N>]> = frontends
            .iter()
            .map(|(key, frontend)| Claim { key: *key, flags: frontend.flags })
            .collect();
        let blocks: BTreeSet<Block> = frontends
            .iter()
            .map(|(_, frontend)| Block { base: frontend.inside.base, len: frontend.inside.count })
            .collect();
        let mut kept = Block::EMPTY;
        for block in blocks {
            if !half.blocks.reserve(block) {
                continue;
            }
            if kept.len == 0 && keep(half, shared, block, array) {
                kept = block;
            } else {
                half.blocks.release(block);
            }
        }
        let port = Port { key: None, claims: claims.clone(), block: kept };
        let slot = half.slot_of(number).filter(|&slot| half.insert_at(slot, port.clone()));
        let slot = slot.unwrap_or_else(|| half.insert(port));
        for claim in claims {
            half.frontends.insert(claim.key, Owner { slot, flags: claim.flags });
            shared.gate.add(&claim.key.addr());
        }
        for (key, frontend) in frontends {
            if half.frontend(&key) != Some(frontend) {
                half.frontends_dirty.push(key);
            }
        }
    }
}

/// Takes the endpoints of a block with their identities, or nothing when one of them is no good.
fn keep<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    block: Block,
    array: &[(u32, Endpoint<N>)],
) -> bool {
    let range = block.base as usize..(block.base + block.len) as usize;
    let Some(found) = array.get(range) else { return false };
    let endpoints: Vec<Endpoint<N>> = found.iter().map(|(_, endpoint)| *endpoint).collect();
    let mut reserved = Vec::new();
    for endpoint in &endpoints {
        if !shared.ids.reserve(endpoint.id()) {
            for id in reserved {
                shared.ids.release(id);
                shared.live_dirty.push(id.index());
            }
            return false;
        }
        reserved.push(endpoint.id());
    }
    shared.hosts += hosts(&endpoints);
    half.write(block, &endpoints);
    // It is there already.
    half.blocks_dirty.pop();
    true
}
