//! A Service without ready endpoints refuses at once, wherever the client is.

use std::{net::SocketAddr, sync::Arc};

use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{World, ask_all, assert_refused, each, skipped};

const NODE_PORT: u16 = 30_080;

/// Every way to ask: TCP, connected UDP, unconnected UDP.
#[track_caller]
pub(crate) fn check_refused(client: &Arc<Place>, to: SocketAddr, scope: &str) {
    let what = format!("{} ({scope}) to {to}", client.name());
    assert_refused(client.ask(Transport::Tcp, to), &format!("{what} TCP"));
    assert_refused(client.ask(Transport::Udp, to), &format!("{what} UDP"));
    let socket = client.udp_unconnected(to, Asking::default()).unwrap();
    assert_refused(socket.ask_to(to), &format!("{what} UDP unconnected"));
}

fn check_all_scopes(world: &World, service: &Service) {
    let [hooks, packets] = world.clients();
    let (host, outside) = (world.host(NodeName::A), world.lab.outside());
    let other = world.host(NodeName::B).addresses();
    for family in Family::ALL {
        let cluster_ip = service.frontend(family, 80);
        let node_port = host.addresses().port(family, NODE_PORT);
        for (client, scope) in [(&hooks, "hooks"), (&packets, "packets"), (&host, "host")] {
            check_refused(client, cluster_ip, scope);
            check_refused(client, node_port, scope);
            check_refused(client, other.port(family, NODE_PORT), scope);
        }
        check_refused(&outside, node_port, "outside");
    }
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    if skipped() {
        return;
    }
    let world = World::new();
    let empty = world.lab.service("empty").node_port("http", 80, 8080, NODE_PORT);
    world.apply(&empty);
    check_all_scopes(&world, &empty);
}

#[test]
fn a_service_whose_endpoints_are_not_ready_refuses_at_once() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::A, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.with_endpoint(Endpoint::at(&server).not_ready());
    world.apply(&web);
    check_all_scopes(&world, &web);
}

#[test]
fn a_service_refuses_while_it_has_no_endpoint_and_answers_again_afterwards() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::B, 8080);
    let mut web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let node = world.host(NodeName::A).addresses();
    for _ in 0..2 {
        web.set_endpoints([Endpoint::at(&server)]);
        world.apply(&web);
        for client in world.clients() {
            each(|family, transport, what| {
                ask_all(&client, transport, web.frontend(family, 80), &[&server], what);
            });
        }
        each(|family, transport, what| {
            let to = node.port(family, NODE_PORT);
            ask_all(&world.lab.outside(), transport, to, &[&server], what);
        });
        web.set_endpoints([]);
        world.apply(&web);
        check_all_scopes(&world, &web);
    }
}
