//! The backend against its meaning, with maps that fail, crash and overflow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

use super::{
    fake::FakeMaps,
    grace::GRACE_MS,
    program::{Limits, Program},
    simulate::{Destination, meaning, simulate, simulate_maps},
};
use crate::model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortOwner,
    PortState, Protocol, Views,
};

mod faults;
mod real;

pub(crate) type Table = BTreeMap<PortKey, PortState>;

impl super::Desired for Table {
    fn keys(&self) -> impl Iterator<Item = PortKey> {
        BTreeMap::keys(self).cloned()
    }
    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.get(key).cloned()
    }
}

pub(crate) const SMALL: Limits =
    Limits { frontends4: 64, frontends6: 64, endpoints4: 256, endpoints6: 256, live: 512 };

pub(crate) fn key(number: u32, family: Family) -> PortKey {
    let service = format!("service-{number:05}");
    PortKey {
        namespace: "shop".into(),
        service: service.into(),
        port: "".into(),
        family,
        owner: PortOwner::Service,
    }
}

pub(crate) fn ip(family: Family, network: u8, host: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits((u32::from(network) << 24) | host).into(),
        Family::V6 => {
            Ipv6Addr::from_bits((0xfd00 << 112) | (u128::from(network) << 96) | u128::from(host))
                .into()
        }
    }
}

pub(crate) fn frontend(family: Family, host: u32, port: u16, protocol: Protocol) -> Frontend {
    let address = FrontendAddress::Ip(ip(family, 10, host));
    Frontend { address, port, protocol, kind: FrontendKind::ClusterIp }
}

pub(crate) fn endpoint(family: Family, host: u32) -> Endpoint {
    Endpoint {
        address: ip(family, 11, host),
        port: 8080,
        placement: Placement::Remote,
        views: Views::Cluster,
    }
}

/// A service with one frontend and `endpoints` endpoints of its own.
pub(crate) fn service(number: u32, endpoints: u32) -> (PortKey, PortState) {
    let family = Family::V4;
    let endpoints = (0..endpoints).map(|at| endpoint(family, number * 16 + at)).collect();
    let frontends = vec![frontend(family, number, 80, Protocol::Tcp)];
    (
        key(number, family),
        PortState { frontends, endpoints, any_endpoint: true, ..PortState::default() },
    )
}

fn state(family: Family, protocol: Protocol) -> impl Strategy<Value = PortState> {
    let frontends = prop::collection::btree_set((any::<bool>(), 0u32..4, 80u16..82), 1..4);
    let endpoints = prop::collection::btree_set((0u32..6, 0u8..2), 0..5);
    (frontends, endpoints).prop_map(move |(frontends, endpoints)| {
        let mut state = PortState::default();
        for (node, host, port) in frontends {
            state.frontends.push(if node {
                Frontend {
                    address: FrontendAddress::NodeAddresses,
                    port: 30_000 + port,
                    protocol,
                    kind: FrontendKind::NodePort,
                }
            } else {
                frontend(family, host, port, protocol)
            });
        }
        state.frontends.sort_unstable();
        state.frontends.dedup();
        for (host, local) in endpoints {
            let placement = if local == 0 { Placement::Local } else { Placement::Remote };
            let found = endpoint(family, host);
            if state.endpoints.last().is_none_or(|last| last.address != found.address) {
                state.endpoints.push(Endpoint { placement, ..found });
            }
        }
        state
    })
}

pub(crate) fn edit() -> impl Strategy<Value = (PortKey, Option<PortState>)> {
    (0u32..6, any::<bool>(), any::<bool>()).prop_flat_map(|(number, v4, tcp)| {
        let family = if v4 { Family::V4 } else { Family::V6 };
        // A port has one protocol for good: it follows from the number.
        let protocol = if tcp == (number % 2 == 0) { Protocol::Tcp } else { Protocol::Udp };
        let key = key(number, family);
        prop::option::weighted(0.8, state(family, protocol))
            .prop_map(move |state| (key.clone(), state))
    })
}

/// Everything that the strategies above could make a frontend, and more.
pub(crate) fn destinations() -> Vec<Destination> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (host, port) in (0..5).flat_map(|host| (79..83).map(move |port| (host, port))) {
                for is_node_address in [false, true] {
                    for port in [port, 30_000 + port] {
                        let address = ip(family, 10, host);
                        all.push(Destination { address, port, protocol, is_node_address });
                    }
                }
            }
        }
    }
    all
}

pub(crate) fn put(table: &mut Table, key: &PortKey, state: Option<&PortState>) {
    match state {
        Some(state) => table.insert(key.clone(), state.clone()),
        None => table.remove(key),
    };
}

/// Identities by service port and endpoint.
pub(crate) fn identities(program: &Program) -> BTreeMap<(PortKey, IpAddr, u16), u32> {
    fn half<const N: usize>(half: &super::half::Half<N>) -> Vec<((PortKey, IpAddr, u16), u32)> {
        let mut all = Vec::new();
        for port in half.ports.iter().flatten() {
            for endpoint in half.slice(port.block) {
                let address = super::half::address(endpoint.addr());
                let name = (port.key.clone().unwrap(), address, endpoint.port());
                all.push((name, endpoint.id().to_bits()));
            }
        }
        all
    }
    half(&program.v4).into_iter().chain(half(&program.v6)).collect()
}

proptest! {
    #[test]
    fn changes_one_by_one_mean_the_same_as_the_whole_table(
        edits in prop::collection::vec(edit(), 1..24)
    ) {
        let mut table = Table::new();
        let mut program = Program::new(SMALL);
        let mut maps = FakeMaps { fail_one_in: 0, ..FakeMaps::new(SMALL) };
        for (now, (key, state)) in edits.into_iter().enumerate() {
            let before = identities(&program);
            put(&mut table, &key, state.as_ref());
            program.change(&key, state.as_ref()).unwrap();
            let mut full = Program::new(SMALL);
            full.compile(&table);
            let mut again = program.clone();
            again.compile(&table);
            program.apply(&mut maps, now as u64 * GRACE_MS).unwrap();
            program.reclaim(now as u64 * GRACE_MS);
            for to in destinations() {
                let wanted = meaning(&table, &to);
                prop_assert_eq!(&simulate(&program, &to), &wanted, "incremental, {:?}", to);
                prop_assert_eq!(&simulate(&full, &to), &wanted, "full, {:?}", to);
                prop_assert_eq!(&simulate_maps(&mut maps, &to), &wanted, "in the maps, {:?}", to);
            }
            let after = identities(&program);
            prop_assert_eq!(&identities(&again), &after, "a full compile keeps identities");
            for (name, id) in &before {
                if let Some(now) = after.get(name) {
                    prop_assert_eq!(now, id, "an endpoint that stays keeps its identity");
                }
            }
            let mut unique: Vec<u32> = after.values().map(|id| id & 0xf_ffff).collect();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), after.len(), "no two endpoints share an index");
        }
    }
}
