//! What holds for every table, whatever happened to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use proptest::{collection::vec, prelude::*};

use super::generate::{World, event, node, node_addresses, packets, step};
use crate::model::{
    Cidr, DropCause, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Packet, PortKey,
    PortState, Route, Scope, Served, ServiceTable, Target, route,
};

type States = BTreeMap<PortKey, PortState>;

fn states(table: &ServiceTable) -> States {
    table.keys().into_iter().map(|key| (key.clone(), table.port(&key).unwrap())).collect()
}

fn problems(table: &ServiceTable) -> BTreeSet<String> {
    table.problems().iter().map(ToString::to_string).collect()
}

/// The frontends of a table by what packets say.
struct Frontends {
    by_key: BTreeMap<(Family, FrontendAddress, u16, crate::model::Protocol), (Frontend, PortKey)>,
    cluster_ips: BTreeSet<IpAddr>,
}

impl Frontends {
    fn of(states: &States) -> Self {
        let (mut by_key, mut cluster_ips) = (BTreeMap::new(), BTreeSet::new());
        for (key, state) in states {
            for frontend in &state.frontends {
                let Frontend { address, port, protocol, kind } = *frontend;
                let old =
                    by_key.insert((key.family, address, port, protocol), (*frontend, key.clone()));
                assert!(old.is_none(), "{frontend:?} is of {key:?} and of {old:?}");
                if let (FrontendAddress::Ip(address), FrontendKind::ClusterIp) = (address, kind) {
                    cluster_ips.insert(address);
                }
            }
        }
        Self { by_key, cluster_ips }
    }

    fn find(&self, table: &ServiceTable, packet: &Packet) -> Option<&(Frontend, PortKey)> {
        let Packet { scope, destination, port, protocol, .. } = *packet;
        let at = |address| self.by_key.get(&(Family::of(destination), address, port, protocol));
        let is_node = table.node().addresses.contains(&destination)
            || (destination.is_loopback() && scope == Scope::Host);
        let node = || is_node.then(|| at(FrontendAddress::NodeAddresses)).flatten();
        at(FrontendAddress::Ip(destination)).or_else(node)
    }
}

/// What a backend makes of the states that it gets: the meaning, as far as it comes through.
fn route_by_states(
    table: &ServiceTable,
    states: &States,
    frontends: &Frontends,
    packet: &Packet,
) -> Route {
    let Some((frontend, key)) = frontends.find(table, packet) else {
        let is_cluster_ip = frontends.cluster_ips.contains(&packet.destination);
        return if is_cluster_ip { Route::Refused } else { Route::NotOurs };
    };
    let state = &states[key];
    let is_in = |range: &Cidr| range.contains(packet.source);
    if frontend.kind == FrontendKind::LoadBalancer
        && state.source_ranges.as_ref().is_some_and(|ranges| !ranges.iter().any(is_in))
    {
        return Route::Dropped(DropCause::SourceNotAllowed);
    }
    let clients = state.clients(frontend.kind, packet.scope);
    match clients.served {
        Served::Refused => Route::Refused,
        Served::Dropped => Route::Dropped(DropCause::NoLocalEndpoint),
        Served::By(policy) => {
            let target = |it: &Endpoint| Target {
                address: it.address,
                port: it.port,
                placement: it.placement,
            };
            Route::OneOf {
                endpoints: state.view(policy).map(target).collect(),
                masquerade: clients.masquerade(),
                affinity_s: state.affinity_s,
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_history_ends_where_its_last_objects_alone_end(
        steps in vec(step(), 1..40),
        seed in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        let mut before = states(&world.table);
        let mut health = (world.table.health_version(), world.table.health_checks());
        for step in &steps {
            world.tell(step);
            let (after, changed) = (states(&world.table), world.table.take_changed());
            for key in before.keys().chain(after.keys()) {
                prop_assert!(
                    before.get(key) == after.get(key) || changed.contains(key),
                    "{key:?} changed and nobody said so at {step:?}"
                );
            }
            before = after;
            let health_now = (world.table.health_version(), world.table.health_checks());
            prop_assert!(
                health.1 == health_now.1 || health.0 != health_now.0,
                "health checks changed and nobody said so at {step:?}"
            );
            health = health_now;
        }
        let mut scratch = ServiceTable::new(node());
        let mut objects: Vec<_> = world.now.iter().collect();
        if !objects.is_empty() {
            let middle = seed.index(objects.len());
            objects.rotate_left(middle);
        }
        for ((kind, _), object) in objects {
            scratch.apply(event(*kind, object));
        }
        scratch.set_addresses(node_addresses(world.second_addresses));
        prop_assert_eq!(&before, &states(&scratch));
        prop_assert_eq!(problems(&world.table), problems(&scratch));
        prop_assert_eq!(health.1, scratch.health_checks());
    }

    #[test]
    fn the_states_that_backends_get_mean_what_the_table_means(steps in vec(step(), 1..40)) {
        let table = World::after(&steps).table;
        let states = states(&table);
        let frontends = Frontends::of(&states);
        for packet in packets() {
            prop_assert_eq!(
                route(&table, &packet),
                route_by_states(&table, &states, &frontends, &packet),
                "{:?}", packet
            );
        }
        for (key, state) in &states {
            prop_assert!(!state.frontends.is_empty() && state.frontends.is_sorted());
            prop_assert!(state.endpoints.is_sorted());
            let mut endpoints = state.endpoints.clone();
            endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
            prop_assert_eq!(&endpoints, &state.endpoints);
            let of_family = |address: IpAddr| Family::of(address) == key.family;
            prop_assert!(state.endpoints.iter().all(|endpoint| of_family(endpoint.address)));
            prop_assert!(state.source_ranges.iter().flatten().all(|range| of_family(range.address)));
        }
    }
}
