//! Does what the datapath would do with the maps' contents, to compare with the meaning of a table.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, Reason, SourceKey, gate, names};

use super::{
    half::{Half, address, octets},
    maps::MapWriter,
    owners::marker,
    program::{Program, Shared},
    wanted,
};
use crate::model::{Packet, Scope};

/// Where the first packet of a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nobody's frontend: left alone.
    NotAService,
    /// A frontend without endpoints, or a port of a cluster IP that no Service has.
    Refused,
    /// Not answered at all, for this reason.
    Dropped(Reason),
    /// To one of these, each as likely as the others.
    To {
        /// The endpoints that may be chosen, and whether the source is replaced on the way to them.
        /// Processes of the host reach all but the host's own endpoints from an address of the node.
        endpoints: BTreeMap<SocketAddr, bool>,
        /// Seconds for which the client stays with its endpoint.
        affinity_s: Option<u32>,
    },
}

/// The entries that the datapath looks up.
trait View<const N: usize> {
    fn gate(&mut self, word: u32) -> u64;
    fn frontend(&mut self, key: &FrontendKey<N>) -> Option<Frontend>;
    fn endpoint(&mut self, slot: u32) -> Option<Endpoint<N>>;
    fn live(&mut self, index: u32) -> Live;
    fn serves(&mut self, client: &SourceKey<N>) -> bool;
}

/// What a program does with a packet once it stands in the maps. `to_node`: frontends on every node
/// address are valid for the packet's destination.
pub fn simulate(program: &Program, packet: &Packet, to_node: bool) -> Route {
    let shared = &program.shared;
    match packet.destination {
        IpAddr::V4(_) => route(&mut InProgram { half: &program.v4, shared }, packet, to_node),
        IpAddr::V6(_) => route(&mut InProgram { half: &program.v6, shared }, packet, to_node),
    }
}

/// What the datapath does with a packet, from the maps as they are. `to_node` as for [`simulate`].
pub fn simulate_maps(maps: &mut impl MapWriter, packet: &Packet, to_node: bool) -> Route {
    match packet.destination {
        IpAddr::V4(_) => {
            let names = [names::FRONTENDS4, names::ENDPOINTS4, names::SOURCES4];
            route::<4>(&mut InMaps(maps, names), packet, to_node)
        }
        IpAddr::V6(_) => {
            let names = [names::FRONTENDS6, names::ENDPOINTS6, names::SOURCES6];
            route::<16>(&mut InMaps(maps, names), packet, to_node)
        }
    }
}

fn route<const N: usize>(view: &mut impl View<N>, packet: &Packet, to_node: bool) -> Route {
    let protocol = wanted::number(packet.protocol);
    let addresses = octets::<N>(packet.destination).zip(octets::<N>(packet.source));
    let Some((addr, source)) = addresses else { return Route::NotAService };
    let (word, mask) = gate::bit(&addr);
    let mut found = None;
    let may_be_frontend = view.gate(word) & mask != 0;
    if may_be_frontend {
        found = view.frontend(&FrontendKey::new(addr, packet.port, protocol));
    }
    if found.is_none() && to_node {
        found = view.frontend(&FrontendKey::any_node_address(packet.port, protocol));
    }
    if found.is_none() && may_be_frontend {
        found = view.frontend(&marker(addr));
    }
    let Some(frontend) = found else { return Route::NotAService };
    let client = SourceKey::client(frontend.service, source);
    if frontend.flags & Frontend::SOURCE_RANGES != 0 && !view.serves(&client) {
        return Route::Dropped(Reason::SourceNotAllowed);
    }
    from(view, &frontend, packet.scope, source)
}

/// Where the frontend sends a client that it serves.
fn from<const N: usize>(
    view: &mut impl View<N>,
    frontend: &Frontend,
    scope: Scope,
    source: [u8; N],
) -> Route {
    let has = |bit| frontend.flags & bit != 0;
    let (slots, is_local, drops, masquerades) = match scope {
        Scope::Host | Scope::Pod => (
            frontend.inside,
            has(Frontend::LOCAL_INSIDE),
            has(Frontend::DROP_INSIDE),
            has(Frontend::MASQUERADE_INSIDE),
        ),
        Scope::Outside => (
            frontend.outside,
            has(Frontend::LOCAL_OUTSIDE),
            has(Frontend::DROP_OUTSIDE),
            has(Frontend::MASQUERADE_OUTSIDE),
        ),
    };
    if slots.count == 0 {
        return if drops { Route::Dropped(Reason::NoLocalEndpoint) } else { Route::Refused };
    }
    let views = if is_local { Live::LOCAL } else { Live::CLUSTER };
    let mut endpoints = BTreeMap::new();
    for slot in slots.base..slots.base.saturating_add(slots.count) {
        // A slot whose endpoint takes no flows would show as a route that the table does not have.
        if let Some(endpoint) = view.endpoint(slot)
            && view.live(endpoint.id().index()).takes(endpoint.id(), views)
        {
            let is_host = endpoint.flags() & Endpoint::<N>::HOST != 0;
            let replaced = masquerades || scope == Scope::Host || endpoint.addr() == source;
            let name = SocketAddr::new(address(endpoint.addr()), endpoint.port());
            endpoints.insert(name, replaced && !is_host);
        }
    }
    let affinity_s = has(Frontend::AFFINITY).then_some(frontend.affinity_s);
    Route::To { endpoints, affinity_s }
}

struct InProgram<'a, const N: usize> {
    half: &'a Half<N>,
    shared: &'a Shared,
}

impl<const N: usize> View<N> for InProgram<'_, N> {
    fn gate(&mut self, word: u32) -> u64 {
        self.shared.gate.word(word)
    }
    fn frontend(&mut self, key: &FrontendKey<N>) -> Option<Frontend> {
        self.half.frontend(key)
    }
    fn endpoint(&mut self, slot: u32) -> Option<Endpoint<N>> {
        self.half.endpoints.get(slot as usize).copied()
    }
    fn live(&mut self, index: u32) -> Live {
        self.shared.ids.live(index)
    }
    fn serves(&mut self, client: &SourceKey<N>) -> bool {
        self.half.sources.serves(client)
    }
}

struct InMaps<'a, M>(&'a mut M, [&'static str; 3]);

impl<const N: usize, M: MapWriter> View<N> for InMaps<'_, M> {
    fn gate(&mut self, word: u32) -> u64 {
        self.0.lookup(names::GATE, &word).ok().flatten().unwrap_or(0)
    }
    fn frontend(&mut self, key: &FrontendKey<N>) -> Option<Frontend> {
        self.0.lookup(self.1[0], key).ok().flatten()
    }
    fn endpoint(&mut self, slot: u32) -> Option<Endpoint<N>> {
        self.0.lookup(self.1[1], &slot).ok().flatten()
    }
    fn live(&mut self, index: u32) -> Live {
        self.0.lookup(names::LIVE, &index).ok().flatten().unwrap_or_default()
    }
    fn serves(&mut self, client: &SourceKey<N>) -> bool {
        // A trie finds the longest prefix of the key.
        self.0.lookup::<_, u32>(self.1[2], client).ok().flatten().is_some()
    }
}
