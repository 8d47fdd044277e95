//! Which service port and which endpoint of the maps a tracked connection has.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, Slots, V4, V6, names};

use crate::{
    backend::Node,
    conntrack::{Entry, convert::Known},
    ebpf::{
        address,
        maps::{MapError, MapWriter},
        octets,
    },
};

/// A frontend as the maps have it: its number, and identity and views of each endpoint.
#[derive(Clone, Debug, Default)]
struct Served {
    service: u32,
    endpoints: BTreeMap<SocketAddr, (u32, u32)>,
}

/// Frontends that were looked up already.
#[derive(Debug)]
pub(super) struct Frontends<'a> {
    node: &'a Node,
    seen: BTreeMap<(SocketAddr, u8), Option<Served>>,
}

impl<'a> Frontends<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node, seen: BTreeMap::new() }
    }

    /// What the maps know of the connection; nothing if they have no such frontend.
    pub(super) fn find(
        &mut self,
        maps: &mut impl MapWriter,
        entry: &Entry,
    ) -> Result<Option<Known>, MapError> {
        let to = entry.original.destination;
        let at = (to, entry.protocol);
        if !self.seen.contains_key(&at) {
            let is_node = self.node.node_port_addresses.contains(&to.ip());
            let served = match to.ip() {
                IpAddr::V4(_) => served::<V4>(maps, to, entry.protocol, is_node)?,
                IpAddr::V6(_) => served::<V6>(maps, to, entry.protocol, is_node)?,
            };
            self.seen.insert(at, served);
        }
        let served = self.seen.get(&at).and_then(Option::as_ref);
        Ok(served.map(|served| {
            let (endpoint, views) =
                served.endpoints.get(&entry.reply.source).copied().unwrap_or_default();
            Known { service: served.service, endpoint, views }
        }))
    }
}

fn served<const N: usize>(
    maps: &mut impl MapWriter,
    to: SocketAddr,
    protocol: u8,
    is_node: bool,
) -> Result<Option<Served>, MapError> {
    let Some(addr) = octets::<N>(to.ip()) else { return Ok(None) };
    let [frontends, endpoints] = if N == V4 {
        [names::FRONTENDS4, names::ENDPOINTS4]
    } else {
        [names::FRONTENDS6, names::ENDPOINTS6]
    };
    let exact = FrontendKey::<N>::new(addr, to.port(), protocol);
    let mut found: Option<Frontend> = maps.lookup(frontends, &exact)?;
    if found.is_none() && is_node {
        let any = FrontendKey::<N>::any_node_address(to.port(), protocol);
        found = maps.lookup(frontends, &any)?;
    }
    let Some(found) = found else { return Ok(None) };
    let mut served = Served { service: found.service, endpoints: BTreeMap::new() };
    let views = |local| if found.flags & local == 0 { Live::CLUSTER } else { Live::LOCAL };
    for (slots, views) in [
        (found.inside, views(Frontend::LOCAL_INSIDE)),
        (found.outside, views(Frontend::LOCAL_OUTSIDE)),
    ] {
        add::<N>(maps, endpoints, slots, views, &mut served)?;
    }
    Ok(Some(served))
}

fn add<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
    slots: Slots,
    views: u32,
    served: &mut Served,
) -> Result<(), MapError> {
    for slot in slots.base..slots.base.saturating_add(slots.count) {
        let Some(endpoint) = maps.lookup::<u32, Endpoint<N>>(map, &slot)? else { continue };
        let at = SocketAddr::new(address(endpoint.addr()), endpoint.port());
        let known = served.endpoints.entry(at).or_default();
        *known = (endpoint.id().to_bits(), known.1 | views);
    }
    Ok(())
}
