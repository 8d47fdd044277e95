//! `externalTrafficPolicy` and `internalTrafficPolicy`, and what they do to clients' addresses.

use std::{net::IpAddr, sync::Arc};

use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{
    World, ask_all, assert_counted, assert_dropped, assert_refused, assert_silent, each, skipped,
    ways,
};

const NODE_PORT: u16 = 30_080;

fn service(world: &World) -> Service {
    world.lab.service("web").node_port("http", 80, 8080, NODE_PORT)
}

pub(crate) fn external_local(world: &World) -> Service {
    service(world).spec("externalTrafficPolicy", "Local")
}

fn internal_local(world: &World) -> Service {
    service(world).spec("internalTrafficPolicy", "Local")
}

/// Asks a node port until exactly `servers` have answered, and each saw `source`.
#[track_caller]
pub(crate) fn check_node_port(
    client: &Arc<Place>,
    node: &Place,
    servers: &[&Arc<Place>],
    source: impl Fn(Family) -> IpAddr + Sync,
) {
    each(|family, transport, what| {
        let what = format!("{what} through {}", node.name());
        let to = node.addresses().port(family, NODE_PORT);
        for answer in ask_all(client, transport, to, servers, &what) {
            assert_eq!(answer.seen.client.ip(), source(family), "{what}: {answer:?}");
        }
    });
}

#[test]
fn external_local_keeps_the_clients_address_and_stays_on_the_node() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    world.apply(&external_local(&world).endpoint(&near).endpoint(&far));
    let outside = world.lab.outside();
    let own = |family| outside.addresses().of(family);
    for (node, server) in [(NodeName::A, &near), (NodeName::B, &far)] {
        let node = world.host(node);
        check_node_port(&outside, &node, &[server], own);
        // Enough tries that an endpoint elsewhere would have shown.
        for _ in 0..10 {
            check_node_port(&outside, &node, &[server], own);
        }
    }
}

#[test]
fn external_local_gives_clients_on_the_node_every_endpoint() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    world.apply(&external_local(&world).endpoint(&near).endpoint(&far));
    for client in world.inside() {
        let own = |family| client.addresses().of(family);
        check_node_port(&client, &world.host(NodeName::A), &[&near, &far], own);
        // To the other node they are clients from outside.
        check_node_port(&client, &world.host(NodeName::B), &[&far], own);
    }
}

#[test]
fn external_local_without_an_endpoint_here_is_silent() {
    if skipped() {
        return;
    }
    for way in ways() {
        let world = World::with(way);
        let [_near, far] = world.servers();
        world.apply(&external_local(&world).endpoint(&far));
        let (outside, here) = (world.lab.outside(), world.host(NodeName::A));
        each(|family, transport, what| {
            assert_dropped(&outside, transport, here.addresses().port(family, NODE_PORT), what);
        });
        let own = |family| outside.addresses().of(family);
        check_node_port(&outside, &world.host(NodeName::B), &[&far], own);
        for client in world.inside() {
            let own = |family| client.addresses().of(family);
            check_node_port(&client, &here, &[&far], own);
        }
        assert_counted(&world.a, "no_local_endpoint", 4.0);
    }
}

#[test]
fn external_local_without_any_endpoint_refuses() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = external_local(&world);
    let web = web.with_endpoint(Endpoint::at(&near).not_ready());
    world.apply(&web.with_endpoint(Endpoint::at(&far).not_ready()));
    let [hooks, packets, host] = world.inside();
    for client in [hooks, packets, host, world.lab.outside()] {
        each(|family, transport, what| {
            let to = world.host(NodeName::A).addresses().port(family, NODE_PORT);
            assert_refused(client.ask(transport, to), &format!("{what} {}", client.name()));
        });
    }
}

#[test]
fn external_local_counts_pods_in_the_host_network() {
    if skipped() {
        return;
    }
    let world = World::new();
    let hosts = [world.host(NodeName::A), world.host(NodeName::B)];
    let mut web = external_local(&world);
    for host in &hosts {
        host.serve(8080).unwrap();
        web = web.endpoint(host);
    }
    world.apply(&web);
    let outside = world.lab.outside();
    for host in &hosts {
        check_node_port(&outside, host, &[host], |family| outside.addresses().of(family));
    }
}

#[test]
fn internal_local_stays_on_the_node() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = internal_local(&world).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let there = world.pod_without_hooks("there", NodeName::B);
    let inside = world.inside();
    let clients = inside.iter().map(|client| (client, &near));
    for (client, server) in clients.chain([(&there, &far), (&world.host(NodeName::B), &far)]) {
        for _ in 0..10 {
            each(|family, transport, what| {
                let to = web.frontend(family, 80);
                for answer in ask_all(client, transport, to, &[server], what) {
                    let own = client.addresses().of(family);
                    assert_eq!(answer.seen.client.ip(), own, "{what}: {answer:?}");
                }
            });
        }
    }
    // The policy is for cluster IPs only.
    let node = world.host(NodeName::A);
    let outside = world.lab.outside();
    check_node_port(&outside, &node, &[&near, &far], |family| node.addresses().of(family));
}

#[test]
fn internal_local_without_an_endpoint_here_is_silent_and_without_any_refuses() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [_near, far] = world.servers();
    let mut web = internal_local(&world).endpoint(&far);
    world.apply(&web);
    let [hooks, packets, host] = world.inside();
    each(|family, transport, what| {
        assert_dropped(&packets, transport, web.frontend(family, 80), what);
        for client in [&hooks, &host] {
            assert_silent(client, transport, web.frontend(family, 80), what);
        }
        let there = world.host(NodeName::B);
        ask_all(&there, transport, web.frontend(family, 80), &[&far], what);
    });
    web.set_endpoints([]);
    world.apply(&web);
    for client in [&hooks, &packets, &host] {
        each(|family, transport, what| {
            let answer = client.ask(transport, web.frontend(family, 80));
            assert_refused(answer, &format!("{what} {}", client.name()));
        });
    }
}

#[test]
fn policies_change_while_clients_ask() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let (outside, node) = (world.lab.outside(), world.host(NodeName::A));
    let both = |web: Service| web.endpoint(&near).endpoint(&far);
    for _ in 0..2 {
        world.apply(&both(service(&world)));
        check_node_port(&outside, &node, &[&near, &far], |family| node.addresses().of(family));
        world.apply(&both(external_local(&world)));
        check_node_port(&outside, &node, &[&near], |family| outside.addresses().of(family));
        let web = both(internal_local(&world));
        world.apply(&web);
        check_node_port(&outside, &node, &[&near, &far], |family| node.addresses().of(family));
        for client in world.inside() {
            let to = web.frontend(Family::V6, 80);
            ask_all(&client, Transport::Tcp, to, &[&near], "internal Local");
        }
    }
}
