//! A node with one service of each sort, varied by one byte of the input.

use std::collections::BTreeMap;

use dataplane_common::{
    Config, Endpoint, EndpointId, Frontend, FrontendKey, Link, Live, SCTP, Slots, SourceKey, TCP,
    UDP, mapped,
};
use dataplane_ebpf::{
    Route,
    host::{Family, HostTables},
    sockets::Name,
};

use crate::bytes::Bytes;

pub(crate) const CLIENT4: [u8; 4] = [10, 244, 0, 9];
pub(crate) const CLIENT6: [u8; 16] = v6(9);
/// A service, another without endpoints, the node itself, and nobody.
pub(crate) const FRONTENDS4: [[u8; 4]; 4] =
    [[10, 96, 0, 1], [10, 96, 0, 2], [192, 0, 2, 1], [192, 0, 2, 99]];
pub(crate) const FRONTENDS6: [[u8; 16]; 4] = [v6(0x61), v6(0x62), v6(1), v6(0x99)];
/// A service's port, a `NodePort`, one that a translated source may have, and nobody's.
pub(crate) const PORTS: [u16; 4] = [80, 30_080, 40_000, 7];

/// A loopback address that is one byte away from a service's.
pub(crate) const LOOPBACK4: [u8; 4] = [127, 96, 0, 1];

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// The tables that `what` asks for.
pub(crate) fn tables(what: u8) -> HostTables {
    let masquerades = what & 2 == 0;
    let config = Config {
        host_netns_cookie: 1,
        flags: u32::from(what >> 3 & 1) | if what & 0x10 == 0 { Config::LOOPBACK } else { 0 },
        masquerade4: if masquerades { FRONTENDS4[2] } else { [0; 4] },
        masquerade6: if masquerades { FRONTENDS6[2] } else { [0; 16] },
        source_port_min: 40_000,
        // Few ports, so that they run out.
        source_port_count: 4,
        node_port_min: 30_000,
        node_port_max: 32_767,
    };
    let ids = [EndpointId::new(1, 1), EndpointId::new(2, 1), EndpointId::new(3, 2)];
    let own4 = Endpoint::new(CLIENT4, 8080, Endpoint::<4>::LOCAL, ids[0]);
    let own6 = Endpoint::new(CLIENT6, 8080, Endpoint::<16>::LOCAL, ids[0]);
    let host4 = Endpoint::new(FRONTENDS4[2], 8080, Endpoint::<4>::HOST, ids[1]);
    let host6 = Endpoint::new(FRONTENDS6[2], 8080, Endpoint::<16>::HOST, ids[1]);
    let other4 = Endpoint::new([10, 244, 1, 3], 8080, 0, ids[2]);
    let other6 = Endpoint::new(v6(3), 8080, 0, ids[2]);
    let mut tables = HostTables {
        config: (what & 1 == 0).then_some(config),
        live: ids
            .iter()
            .zip([Live::CLUSTER, Live::CLUSTER | Live::LOCAL, Live::LOCAL])
            .map(|(id, views)| (id.index(), Live { id: id.to_bits(), views }))
            .collect(),
        v4: family([own4, host4, other4], &FRONTENDS4, [10, 244, 0, 8], what),
        v6: family([own6, host6, other6], &FRONTENDS6, v6(8), what),
        transmits_only_by: (what & 4 != 0).then_some(2),
        ..HostTables::default()
    };
    tables.v4.frontends.insert(
        FrontendKey::new(LOOPBACK4, PORTS[0], TCP),
        tables.v4.frontends[&FrontendKey::new(FRONTENDS4[0], PORTS[0], TCP)],
    );
    tables.open_gate(&LOOPBACK4);
    for addr in &FRONTENDS4[..2] {
        tables.open_gate(addr);
    }
    for addr in &FRONTENDS6[..2] {
        tables.open_gate(addr);
    }
    tables
}

fn family<const N: usize>(
    endpoints: [Endpoint<N>; 3],
    frontends: &[[u8; N]; 4],
    client: [u8; N],
    what: u8,
) -> Family<N> {
    let all = Slots { base: 0, count: 3 };
    let full = Frontend { inside: all, outside: all, service: 1, ..Frontend::default() };
    let none = Frontend { inside: Slots::default(), outside: Slots::default(), service: 2, ..full };
    let masquerade = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
    let node = Frontend { flags: masquerade, service: 3, ..full };
    // The endpoints of the cluster-wide view come first, those of the local one last.
    let (inside, outside) = (Slots { base: 0, count: 2 }, Slots { base: 1, count: 2 });
    let views = Frontend { inside, outside, flags: Frontend::LOCAL_OUTSIDE, ..full };
    let ranges = Frontend { flags: masquerade | Frontend::SOURCE_RANGES, service: 4, ..full };
    let affinity =
        Frontend { flags: views.flags | Frontend::AFFINITY, affinity_s: 2, service: 5, ..views };
    let drops = Frontend::LOCAL_OUTSIDE | Frontend::DROP_OUTSIDE;
    let dropped = Frontend { outside: Slots::default(), flags: drops, service: 6, ..views };
    let mut known = BTreeMap::new();
    known.insert(FrontendKey::new(frontends[1], 0, 0), Frontend::default());
    for protocol in [TCP, UDP, SCTP] {
        known.insert(FrontendKey::new(frontends[0], PORTS[0], protocol), full);
        known.insert(FrontendKey::new(frontends[1], PORTS[0], protocol), none);
        known.insert(FrontendKey::any_node_address(PORTS[1], protocol), node);
        known.insert(FrontendKey::new(frontends[0], PORTS[1], protocol), ranges);
        known.insert(FrontendKey::new(frontends[0], PORTS[2], protocol), affinity);
        known.insert(FrontendKey::new(frontends[0], PORTS[3], protocol), views);
        known.insert(FrontendKey::new(frontends[1], PORTS[1], protocol), dropped);
    }
    let link = Link { ifindex: 2 + u32::from(what >> 4 & 1), ..Link::default() };
    Family {
        frontends: known,
        endpoints: (0..).zip(endpoints).collect(),
        // The last slot of the block may lie beyond the array.
        endpoints_max: if what & 0x20 == 0 { 3 } else { 2 },
        node_addresses: [frontends[2]].into(),
        // The half of all clients that has the first of the usual ones.
        sources: [SourceKey::range(4, client, 8 * u32::try_from(N).unwrap_or(0) - 1)].into(),
        flows_max: if what & 0x40 == 0 { 1024 } else { 3 },
        route: match what >> 7 {
            0 => Some(Route::Link(link)),
            _ => Some(Route::Neighbour(2)),
        },
        ..Family::default()
    }
}

/// An address to connect to: one of the node's frontends, or any other.
pub(crate) fn name(kind: u8, bytes: &mut Bytes<'_>) -> Name {
    let to = usize::from(kind >> 1 & 3);
    let mut addr = if kind & 8 == 0 { mapped(FRONTENDS4[to]) } else { FRONTENDS6[to] };
    let mut port = PORTS[usize::from(kind >> 4 & 3)].to_be_bytes();
    let how = bytes.take().unwrap_or_default();
    if how & 0x80 != 0 {
        addr[usize::from(how & 15)] = bytes.take().unwrap_or_default();
    }
    if how & 0x40 != 0 {
        port[1] = bytes.take().unwrap_or_default();
    }
    Name { addr, port }
}
