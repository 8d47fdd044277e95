//! Topology hints and `trafficDistribution`: which endpoints of several zones clients use.

use std::sync::Arc;

use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Family, NodeName},
    manifests::{Endpoint, write_zone},
};

use crate::support::{World, ask_all, each, skipped, until};

const NODE_PORT: u16 = 30_080;
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";

/// Node A in zone `a`, node B in zone `b`.
fn world() -> World {
    let world = World::new();
    for (node, zone) in [(NodeName::A, "a"), (NodeName::B, "b")] {
        write_zone(world.lab.manifests(), node, zone).unwrap();
    }
    world
}

fn service(world: &World) -> Service {
    world.lab.service("web").node_port("http", 80, 8080, NODE_PORT)
}

/// Clients on `node`, and from outside through it, get exactly `servers`.
#[track_caller]
fn check(world: &World, web: &Service, node: NodeName, servers: &[&Arc<Place>]) {
    let host = world.host(node);
    let mut clients = vec![Arc::clone(&host)];
    if node == NodeName::A {
        clients.extend(world.clients());
    }
    each(|family, transport, what| {
        for client in &clients {
            let what = format!("{what} on {node}");
            ask_all(client, transport, web.frontend(family, 80), servers, &what);
        }
        let node_port = host.addresses().port(family, NODE_PORT);
        let what = format!("{what} through {node}");
        ask_all(&world.lab.outside(), transport, node_port, servers, &what);
    });
}

#[test]
fn hints_for_zones_choose_the_endpoints() {
    if skipped() {
        return;
    }
    let world = world();
    let [near, far] = world.servers();
    let web = service(&world)
        .with_endpoint(Endpoint::at(&near).zone("a").for_zones(&["a"]))
        .with_endpoint(Endpoint::at(&far).zone("b").for_zones(&["b"]));
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near]);
    check(&world, &web, NodeName::B, &[&far]);
}

#[test]
fn hints_that_name_another_zone_or_are_incomplete_are_not_used() {
    if skipped() {
        return;
    }
    let world = world();
    let [near, far] = world.servers();
    let mut web = service(&world);
    web.set_endpoints([
        Endpoint::at(&near).zone("a").for_zones(&["a"]),
        Endpoint::at(&far).zone("b").for_zones(&["a", "c"]),
    ]);
    world.apply(&web);
    // Both are for zone a, and none is for zone b.
    check(&world, &web, NodeName::A, &[&near, &far]);
    check(&world, &web, NodeName::B, &[&near, &far]);
    web.set_endpoints([
        Endpoint::at(&near).zone("a").for_zones(&["a"]),
        Endpoint::at(&far).zone("b"),
    ]);
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near, &far]);
}

#[test]
fn hints_for_nodes_are_stronger_than_hints_for_zones() {
    if skipped() {
        return;
    }
    let world = world();
    let [near, far] = world.servers();
    let web = service(&world)
        .with_endpoint(Endpoint::at(&near).zone("a").for_zones(&["a"]).for_nodes(&[NodeName::B]))
        .with_endpoint(Endpoint::at(&far).zone("b").for_zones(&["b"]).for_nodes(&[NodeName::A]));
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&far]);
    check(&world, &web, NodeName::B, &[&near]);
}

#[test]
fn a_traffic_distribution_prefers_the_zone_or_the_node() {
    if skipped() {
        return;
    }
    let world = world();
    let [near, far] = world.servers();
    let with = |distribution: &str, zones: [&str; 2]| {
        service(&world)
            .spec("trafficDistribution", distribution)
            .with_endpoint(Endpoint::at(&near).zone(zones[0]))
            .with_endpoint(Endpoint::at(&far).zone(zones[1]))
    };
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        let web = with(distribution, ["a", "b"]);
        world.apply(&web);
        check(&world, &web, NodeName::A, &[&near]);
        check(&world, &web, NodeName::B, &[&far]);
    }
    // Both in one zone: only PreferSameNode tells them apart, and zone b has nobody.
    let web = with("PreferSameZone", ["a", "a"]);
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near, &far]);
    check(&world, &web, NodeName::B, &[&near, &far]);
    let web = with("PreferSameNode", ["a", "a"]);
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near]);
    check(&world, &web, NodeName::B, &[&far]);
    // With the annotation, the control plane decides; it wrote no hints.
    let web = with("PreferSameZone", ["a", "b"]).annotation(TOPOLOGY_MODE, "Auto");
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near, &far]);
}

#[test]
fn a_node_that_changes_its_zone_changes_what_its_clients_use() {
    if skipped() {
        return;
    }
    let world = world();
    let [near, far] = world.servers();
    let web = service(&world)
        .with_endpoint(Endpoint::at(&near).zone("a").for_zones(&["a"]))
        .with_endpoint(Endpoint::at(&far).zone("b").for_zones(&["b"]));
    world.apply(&web);
    let [hooks, packets] = world.clients();
    for (zone, server) in [("b", "far"), ("a", "near")] {
        write_zone(world.lab.manifests(), NodeName::A, zone).unwrap();
        for client in [&hooks, &packets] {
            until("the other zone's endpoint answers", || {
                let mut answers = (0..10).map(|_| {
                    let to = web.frontend(Family::V4, 80);
                    client.ask(Transport::Tcp, to).unwrap()
                });
                answers.all(|answer| answer.seen.pod == server).then_some(())
            });
        }
    }
}

#[test]
fn the_zone_may_be_given_on_the_command_line() {
    if skipped() {
        return;
    }
    let world = World::with_each([&["--zone", "a"], &["--zone", "b"]]);
    let [near, far] = world.servers();
    let web = service(&world)
        .with_endpoint(Endpoint::at(&near).zone("a").for_zones(&["a"]))
        .with_endpoint(Endpoint::at(&far).zone("b").for_zones(&["b"]));
    world.apply(&web);
    check(&world, &web, NodeName::A, &[&near]);
    check(&world, &web, NodeName::B, &[&far]);
}
