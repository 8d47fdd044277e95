//! Does what the datapath would do with the maps' contents, to compare with the meaning of a table.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, SCTP, TCP, UDP, gate, names};

use super::{
    compile::Desired,
    half::{Half, address, octets},
    maps::MapWriter,
    program::{Program, Shared},
};
use crate::model::{FrontendAddress, FrontendKind, Protocol};

/// Where the first packet of a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Nobody's frontend: left alone.
    NotAService,
    /// A frontend without endpoints.
    Refused,
    /// To one of these, each as likely as the others.
    To {
        /// The endpoints that may be chosen.
        endpoints: BTreeSet<SocketAddr>,
        /// Whether the source is translated too.
        masquerade: bool,
    },
}

/// What a client connects to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Whether the address is one of this node's.
    pub is_node_address: bool,
}

/// The entries that the datapath looks up.
trait View<const N: usize> {
    fn gate(&mut self, word: u32) -> u64;
    fn frontend(&mut self, key: &FrontendKey<N>) -> Option<Frontend>;
    fn endpoint(&mut self, slot: u32) -> Option<Endpoint<N>>;
    fn live(&mut self, index: u32) -> u32;
}

/// What a program does with a destination once it stands in the maps.
pub fn simulate(program: &Program, to: &Destination) -> Route {
    match to.address {
        IpAddr::V4(_) => route(&mut InProgram { half: &program.v4, shared: &program.shared }, to),
        IpAddr::V6(_) => route(&mut InProgram { half: &program.v6, shared: &program.shared }, to),
    }
}

/// What the datapath does with a destination, from the maps as they are.
pub fn simulate_maps(maps: &mut impl MapWriter, to: &Destination) -> Route {
    match to.address {
        IpAddr::V4(_) => route::<4>(&mut InMaps(maps, names::FRONTENDS4, names::ENDPOINTS4), to),
        IpAddr::V6(_) => route::<16>(&mut InMaps(maps, names::FRONTENDS6, names::ENDPOINTS6), to),
    }
}

/// The meaning of a table: exact addresses before node addresses, the port that sorts first wins.
pub fn meaning(desired: &impl Desired, to: &Destination) -> Route {
    let find = |address: FrontendAddress| {
        desired.keys().find_map(|key| {
            let state = desired.port(&key)?;
            let family = match key.family {
                crate::model::Family::V4 => to.address.is_ipv4(),
                crate::model::Family::V6 => to.address.is_ipv6(),
            };
            let wanted = (address, to.port, to.protocol);
            let same = |f: &&crate::model::Frontend| (f.address, f.port, f.protocol) == wanted;
            let frontend = state.frontends.iter().find(same)?;
            let endpoints = state.endpoints.iter().map(|e| SocketAddr::new(e.address, e.port));
            let masquerade = frontend.kind == FrontendKind::NodePort;
            family.then(|| (endpoints.collect::<BTreeSet<_>>(), masquerade))
        })
    };
    let exact = find(FrontendAddress::Ip(to.address));
    let node = || to.is_node_address.then(|| find(FrontendAddress::NodeAddresses)).flatten();
    match exact.or_else(node) {
        None => Route::NotAService,
        Some((endpoints, _)) if endpoints.is_empty() => Route::Refused,
        Some((endpoints, masquerade)) => Route::To { endpoints, masquerade },
    }
}

fn route<const N: usize>(view: &mut impl View<N>, to: &Destination) -> Route {
    let protocol = match to.protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    };
    let Some(addr) = octets::<N>(to.address) else { return Route::NotAService };
    let (word, mask) = gate::bit(&addr);
    let mut found = None;
    if view.gate(word) & mask != 0 {
        found = view.frontend(&FrontendKey::new(addr, to.port, protocol));
    }
    if found.is_none() && to.is_node_address {
        found = view.frontend(&FrontendKey::any_node_address(to.port, protocol));
    }
    let Some(frontend) = found else { return Route::NotAService };
    if frontend.inside.count == 0 {
        return Route::Refused;
    }
    let mut endpoints = BTreeSet::new();
    for slot in frontend.inside.base..frontend.inside.base + frontend.inside.count {
        // A slot whose endpoint takes no flows would show as a route that the table does not have.
        if let Some(endpoint) = view.endpoint(slot)
            && view.live(endpoint.id().index()) == endpoint.id().to_bits()
        {
            endpoints.insert(SocketAddr::new(address(endpoint.addr()), endpoint.port()));
        }
    }
    Route::To { endpoints, masquerade: frontend.flags & Frontend::MASQUERADE_INSIDE != 0 }
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
    fn live(&mut self, index: u32) -> u32 {
        self.shared.ids.live(index)
    }
}

struct InMaps<'a, M>(&'a mut M, &'static str, &'static str);

impl<const N: usize, M: MapWriter> View<N> for InMaps<'_, M> {
    fn gate(&mut self, word: u32) -> u64 {
        self.0.lookup(names::GATE, &word).ok().flatten().unwrap_or(0)
    }
    fn frontend(&mut self, key: &FrontendKey<N>) -> Option<Frontend> {
        self.0.lookup(self.1, key).ok().flatten()
    }
    fn endpoint(&mut self, slot: u32) -> Option<Endpoint<N>> {
        self.0.lookup(self.2, &slot).ok().flatten()
    }
    fn live(&mut self, index: u32) -> u32 {
        let live: Option<Live> = self.0.lookup(names::LIVE, &index).ok().flatten();
        live.map_or(0, |live| live.id)
    }
}
