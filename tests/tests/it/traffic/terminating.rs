//! Endpoints that are about to leave: who still gets them, and what established flows keep.

use std::sync::Arc;

use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{World, ask_all, assert_dropped, assert_refused, each, skipped};

const NODE_PORT: u16 = 30_080;

fn service(world: &World) -> Service {
    world.lab.service("web").node_port("http", 80, 8080, NODE_PORT)
}

/// Clients on node A get exactly `servers` by the cluster IP.
#[track_caller]
fn check_inside(world: &World, web: &Service, servers: &[&Arc<Place>]) {
    for client in world.inside() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), servers, what);
        });
    }
}

/// The outside client gets exactly `servers` through node A.
#[track_caller]
fn check_outside(world: &World, servers: &[&Arc<Place>]) {
    let node = world.host(NodeName::A).addresses();
    each(|family, transport, what| {
        let to = node.port(family, NODE_PORT);
        ask_all(&world.lab.outside(), transport, to, servers, what);
    });
}

#[test]
fn an_endpoint_that_is_terminating_gets_nothing_new_while_another_is_ready() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world).with_endpoint(Endpoint::at(&near).terminating()).endpoint(&far);
    world.apply(&web);
    check_inside(&world, &web, &[&far]);
    check_outside(&world, &[&far]);
}

#[test]
fn endpoints_that_are_terminating_and_serve_take_over_when_none_is_ready() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let ended = world.server("ended", NodeName::B, 8080);
    let web = service(&world)
        .with_endpoint(Endpoint::at(&near).terminating())
        .with_endpoint(Endpoint::at(&far).terminating())
        .with_endpoint(Endpoint::at(&ended).terminating_not_serving());
    world.apply(&web);
    check_inside(&world, &web, &[&near, &far]);
    check_outside(&world, &[&near, &far]);
}

#[test]
fn external_local_falls_back_to_an_endpoint_here_though_another_node_has_a_ready_one() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world).spec("externalTrafficPolicy", "Local");
    let web = web.with_endpoint(Endpoint::at(&near).terminating()).endpoint(&far);
    world.apply(&web);
    check_outside(&world, &[&near]);
    check_inside(&world, &web, &[&far]);
}

#[test]
fn internal_local_falls_back_to_an_endpoint_here_though_another_node_has_a_ready_one() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world).spec("internalTrafficPolicy", "Local");
    let web = web.with_endpoint(Endpoint::at(&near).terminating()).endpoint(&far);
    world.apply(&web);
    check_inside(&world, &web, &[&near]);
    check_outside(&world, &[&far]);
}

#[test]
fn an_endpoint_that_serves_no_more_is_no_fallback() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world).spec("externalTrafficPolicy", "Local");
    let mut web = web.with_endpoint(Endpoint::at(&near).terminating_not_serving());
    world.apply(&web);
    let node = world.host(NodeName::A).addresses();
    each(|family, transport, what| {
        let to = node.port(family, NODE_PORT);
        assert_refused(world.lab.outside().ask(transport, to), what);
    });
    // Another node has one that still serves: silence here, since clients may go there.
    web.set_endpoints([
        Endpoint::at(&near).terminating_not_serving(),
        Endpoint::at(&far).terminating(),
    ]);
    world.apply(&web);
    each(|family, transport, what| {
        assert_dropped(&world.lab.outside(), transport, node.port(family, NODE_PORT), what);
    });
}

#[test]
fn connections_drain_and_datagrams_leave_at_once() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = service(&world).endpoint(&near);
    world.apply(&web);
    let node = world.host(NodeName::A).addresses();
    let outside = world.lab.outside();
    let [hooks, packets, host] = world.inside();
    let mut connections = Vec::new();
    let mut sockets = Vec::new();
    for family in Family::ALL {
        let (cluster_ip, node_port) = (web.frontend(family, 80), node.port(family, NODE_PORT));
        let ways = [
            (&hooks, cluster_ip),
            (&packets, cluster_ip),
            (&host, cluster_ip),
            (&packets, node_port),
            (&outside, node_port),
        ];
        for (client, to) in ways {
            let what = format!("{} to {to}", client.name());
            connections.push((what.clone(), client.connect(to, Asking::default()).unwrap()));
            let socket = client.udp_unconnected(to, Asking::default()).unwrap();
            sockets.push((what, socket, to));
        }
    }
    let check = |udp: &Place| {
        for (what, connection) in &connections {
            let answer = connection.ask().unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(answer.seen.pod, "near", "{what}: the connection drains");
        }
        for (what, socket, to) in &sockets {
            let answer = socket.ask_to(*to).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(answer.seen.pod, udp.name(), "{what}: UDP");
        }
    };
    check(&near);
    // With nobody else, those who end still serve datagrams too.
    web.set_endpoints([Endpoint::at(&near).terminating()]);
    world.apply(&web);
    check(&near);
    web.set_endpoints([Endpoint::at(&near).terminating(), Endpoint::at(&far)]);
    world.apply(&web);
    check(&far);
    web.set_endpoints([Endpoint::at(&far)]);
    world.apply(&web);
    check(&far);
}

#[test]
fn datagrams_leave_the_local_view_at_once_too() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, _far] = world.servers();
    let other = world.server("other", NodeName::A, 8080);
    let mut web = service(&world).spec("externalTrafficPolicy", "Local").endpoint(&near);
    world.apply(&web);
    let node = world.host(NodeName::A).addresses();
    let sockets = Family::ALL.map(|family| {
        let to = node.port(family, NODE_PORT);
        (world.lab.outside().udp_unconnected(to, Asking::default()).unwrap(), to)
    });
    for (socket, to) in &sockets {
        assert_eq!(socket.ask_to(*to).unwrap().seen.pod, "near");
    }
    web.set_endpoints([Endpoint::at(&near).terminating(), Endpoint::at(&other)]);
    world.apply(&web);
    for (socket, to) in &sockets {
        assert_eq!(socket.ask_to(*to).unwrap().seen.pod, "other");
    }
}

#[test]
fn a_service_that_publishes_addresses_that_are_not_ready_uses_them() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    // For such a Service the control plane writes `ready` whatever the pod says.
    let web = service(&world).spec("publishNotReadyAddresses", true);
    let web = web.with_endpoint(Endpoint::at(&near).published()).endpoint(&far);
    world.apply(&web);
    check_inside(&world, &web, &[&near, &far]);
    assert!(near.ask(Transport::Udp, web.frontend(Family::V4, 80)).is_ok());
}
