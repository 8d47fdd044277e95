//! The backend against a kernel in memory that fails, forgets and is changed by others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proptest::{collection::vec, prelude::*};

use super::{
    backend::Ipvs,
    contents::{Contents, Element, Held},
    fake::FakeSystem,
    message::SeenDestination,
    server::{Scheduler, Scheduling, Server, ServerKey, Virtual},
    system::Found,
};
use crate::{
    backend::{Backend as _, Node},
    model::{
        Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortOwner,
        PortState, Protocol, TrafficPolicy, Views,
        tests::generate::{Step, World, step},
    },
};

mod cases;

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn node() -> Node {
    let addresses: BTreeSet<IpAddr> = [ip("192.0.2.10"), ip("2001:db8::10")].into();
    Node {
        node_port_addresses: addresses.clone(),
        addresses,
        loopback: true,
        pod_links: ["hp1".to_owned()].into(),
    }
}

pub(super) fn key(name: &str) -> PortKey {
    PortKey {
        namespace: "shop".into(),
        service: name.into(),
        port: "".into(),
        family: Family::V4,
        owner: PortOwner::Service,
    }
}

pub(super) fn at(address: &str, port: u16) -> Virtual {
    Virtual { address: ip(address), protocol: Protocol::Tcp, port }
}

pub(super) fn frontend(address: &str, port: u16, kind: FrontendKind) -> Frontend {
    let address = FrontendAddress::Ip(ip(address));
    Frontend { address, port, protocol: Protocol::Tcp, kind }
}

pub(super) fn endpoint(address: &str, views: Views) -> Endpoint {
    let placement = if views == Views::Cluster { Placement::Remote } else { Placement::Local };
    Endpoint { address: ip(address), port: 8080, placement, views }
}

/// A service on a cluster IP with these endpoints.
pub(super) fn web(endpoints: &[&str]) -> PortState {
    PortState {
        frontends: vec![frontend("10.96.0.1", 80, FrontendKind::ClusterIp)],
        endpoints: endpoints.iter().map(|it| endpoint(it, Views::Cluster)).collect(),
        any_endpoint: true,
        ..PortState::default()
    }
}

/// A load balancer of `externalTrafficPolicy: Local`.
pub(super) fn balanced(affinity_s: Option<u32>) -> PortState {
    PortState {
        frontends: vec![frontend("203.0.113.1", 80, FrontendKind::LoadBalancer)],
        endpoints: vec![endpoint("10.1.0.1", Views::Both), endpoint("10.2.0.1", Views::Cluster)],
        external: TrafficPolicy::Local,
        any_endpoint: true,
        affinity_s,
        ..PortState::default()
    }
}

/// A backend of a kernel where nothing fails, told of the node.
pub(super) fn sound() -> Ipvs<FakeSystem> {
    let mut ipvs = Ipvs::on(FakeSystem { fail_one_in: 0, ..FakeSystem::new() });
    ipvs.observe().unwrap();
    ipvs.set_node(&node());
    ipvs
}

/// What the kernel holds, in the words of programs; leaving destinations do not count.
pub(super) fn held(system: &FakeSystem) -> Contents {
    let server = |(key, found): (&ServerKey, &Found)| {
        let all = found.destinations.clone().unwrap_or_default();
        let taking = all.iter().filter(|(_, it)| it.weight > 0);
        let destinations: BTreeSet<SocketAddr> = taking.map(|(to, _)| *to).collect();
        (*key, Server { scheduling: found.scheduling.unwrap(), destinations })
    };
    Contents {
        servers: system.servers.iter().filter(|(_, it)| it.is_ours).map(server).collect(),
        addresses: system.addresses.clone(),
        elements: system.tables.values().flatten().map(|(e, h)| (e.clone(), *h)).collect(),
    }
}

fn settle(ipvs: &mut Ipvs<FakeSystem>) {
    let done = (0..200).any(|_| ipvs.apply(0).is_ok() && ipvs.pending() == 0);
    assert!(done, "it never settles");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_fails_the_kernel_ends_with_what_the_table_says(
        steps in vec(step(), 1..40),
        seed in 1u64..,
        crash in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        let mut ipvs = Ipvs::on(FakeSystem { seed, ..FakeSystem::new() });
        while ipvs.observe().is_err() {}
        ipvs.set_node(&node());
        let crash = crash.index(steps.len());
        for (turn, step) in steps.iter().enumerate() {
            tell(&mut world, step, &mut ipvs);
            let _ = ipvs.apply(0);
            if turn == crash {
                // A new process finds the kernel as the last one left it.
                let system = ipvs.system_mut().clone();
                ipvs = Ipvs::on(system);
                while ipvs.observe().is_err() {}
                ipvs.set_node(&node());
                ipvs.compile(&world.table);
            }
        }
        settle(&mut ipvs);
        let mut whole = super::Program::new();
        whole.set_node(&node());
        whole.compile(&world.table);
        let wanted = ipvs.program().contents().clone();
        prop_assert_eq!(&held(ipvs.system_mut()), &wanted);
        prop_assert_eq!(unmarked(&wanted), unmarked(whole.contents()), "numbers apart");
        while ipvs.remove().is_err() {}
        prop_assert_eq!(held(ipvs.system_mut()), Contents::default());
    }

    #[test]
    fn what_others_change_is_found_and_put_right(
        steps in vec(step(), 1..20),
        at in any::<prop::sample::Index>(),
        what in 0..4,
    ) {
        let mut world = World::new();
        let mut ipvs = sound();
        for step in &steps {
            tell(&mut world, step, &mut ipvs);
        }
        settle(&mut ipvs);
        let wanted = held(ipvs.system_mut());
        prop_assert_eq!(ipvs.upkeep().unwrap().drifted, 0);
        break_something(ipvs.system_mut(), what, at);
        let broken = held(ipvs.system_mut()) != wanted;
        let found = ipvs.upkeep().unwrap().drifted > 0;
        prop_assert_eq!(found, broken);
        settle(&mut ipvs);
        prop_assert_eq!(held(ipvs.system_mut()), wanted);
    }
}

/// Tells the table, and the backend what changed in it.
fn tell(world: &mut World, step: &Step, ipvs: &mut Ipvs<FakeSystem>) {
    world.tell(step);
    for key in world.table.take_changed() {
        ipvs.change(&key, world.table.port(&key).as_ref());
    }
}

/// Servers without their marks, addresses, elements.
type Unmarked = (Vec<(Option<Virtual>, Server)>, BTreeSet<IpAddr>, Vec<Element>);

/// Two programs may give marks in another order.
fn unmarked(contents: &Contents) -> Unmarked {
    let servers = contents.servers.iter().map(|(key, server)| match key {
        ServerKey::Address(at) => (Some(*at), server.clone()),
        ServerKey::Mark(..) => (None, server.clone()),
    });
    let mut servers: Vec<_> = servers.collect();
    servers.sort_by_key(|(at, server)| (*at, server.scheduling, server.destinations.clone()));
    (servers, contents.addresses.clone(), contents.elements.keys().cloned().collect())
}

fn break_something(system: &mut FakeSystem, what: i32, at: prop::sample::Index) {
    match what {
        0 => {
            if !system.servers.is_empty() {
                let key = *system.servers.keys().nth(at.index(system.servers.len())).unwrap();
                system.servers.remove(&key);
            }
        }
        1 => {
            system.addresses.insert(ip("203.0.113.77"));
        }
        2 => {
            for server in system.servers.values_mut() {
                server.destinations.get_or_insert_default().clear();
            }
        }
        _ => {
            let table = system.tables.get_mut(&Family::V4).unwrap();
            if !table.is_empty() {
                let element = table.keys().nth(at.index(table.len())).unwrap().clone();
                table.remove(&element);
            }
            system.touched = true;
        }
    }
}
