//! The backend against its meaning, with maps that fail, crash and overflow.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;

pub(crate) use self::{
    generate::{edit, packets},
    meaning::meaning,
};
use super::{
    fake::FakeMaps,
    grace::GRACE_MS,
    program::{Limits, Program},
    simulate::{simulate, simulate_maps},
};
use crate::model::{
    Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Packet, Placement, PortKey,
    PortOwner, PortState, Protocol, Scope, Views,
};

mod cases;
mod faults;
mod generate;
mod meaning;
mod real;
mod steps;
mod table;

pub(crate) type Table = BTreeMap<PortKey, PortState>;

impl super::Desired for Table {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(BTreeMap::keys(self).cloned())
    }
    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.get(key).cloned()
    }
}

pub(crate) const SMALL: Limits = Limits {
    frontends4: 128,
    frontends6: 128,
    endpoints4: 256,
    endpoints6: 256,
    live: 512,
    sources4: 64,
    sources6: 64,
};

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

/// A packet of a pod to the service with this number, as [`service`] makes it.
pub(crate) fn to_service(number: u32) -> Packet {
    Packet {
        scope: Scope::Pod,
        source: ip(Family::V4, 12, 1),
        destination: ip(Family::V4, 10, number),
        port: 80,
        protocol: Protocol::Tcp,
    }
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
            for endpoint in half.slice(port.shape.block) {
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
    #![proptest_config(ProptestConfig::with_cases(96))]

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
            for (packet, to_node) in packets(now) {
                let wanted = meaning(&table, &packet, to_node);
                let named = format!("{packet:?}, to the node: {to_node}");
                prop_assert_eq!(&simulate(&program, &packet, to_node), &wanted, "{}", named);
                prop_assert_eq!(&simulate(&full, &packet, to_node), &wanted, "full, {}", named);
                let in_maps = simulate_maps(&mut maps, &packet, to_node);
                prop_assert_eq!(&in_maps, &wanted, "in the maps, {}", named);
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
