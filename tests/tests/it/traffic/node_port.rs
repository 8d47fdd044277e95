//! `NodePort`: from outside, from pods and from hosts, on every address of a node.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use dataplane_user::limits::{LOOPBACK4, LOOPBACK6};
use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Addresses, Asking, Family, NodeName},
};

use crate::support::{World, ask, ask_all, each, limited, skipped, until};

pub(crate) const NODE_PORT: u16 = 30_080;

/// A Service on every node, with one endpoint on each.
pub(crate) fn service(world: &World) -> (Service, [Arc<Place>; 2]) {
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    (web, [near, far])
}

/// The outside client reaches both endpoints through both nodes.
pub(crate) fn check_from_outside(world: &World, servers: &[&Arc<Place>]) {
    let outside = world.lab.outside();
    for node in [NodeName::A, NodeName::B] {
        let node = world.host(node);
        each(|family, transport, what| {
            let what = format!("{what} through {}", node.name());
            let to = node.addresses().port(family, NODE_PORT);
            for answer in ask_all(&outside, transport, to, servers, &what) {
                let source = answer.seen.client.ip();
                assert_eq!(source, node.addresses().of(family), "{what}: masqueraded: {answer:?}");
            }
        });
    }
}

#[test]
fn a_node_port_leads_from_outside_to_endpoints_on_both_nodes() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (_web, [near, far]) = service(&world);
    check_from_outside(&world, &[&near, &far]);
}

#[test]
fn a_node_port_works_from_pods_on_every_node_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (_web, [near, far]) = service(&world);
    for client in world.clients() {
        for node in [NodeName::A, NodeName::B] {
            let node = world.host(node).addresses();
            each(|family, transport, what| {
                ask_all(&client, transport, node.port(family, NODE_PORT), &[&near, &far], what);
            });
        }
    }
}

#[test]
fn a_node_port_works_from_hosts_on_every_node_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (_web, [near, far]) = service(&world);
    let host = world.host(NodeName::A);
    for addresses in [host.addresses(), world.host(NodeName::B).addresses()] {
        each(|family, transport, what| {
            ask_all(&host, transport, addresses.port(family, NODE_PORT), &[&near, &far], what);
        });
    }
}

/// The host reaches every endpoint by a node port on a loopback address.
fn check_on_loopback(loopback: IpAddr) {
    let world = World::new();
    let (_web, [near, far]) = service(&world);
    let host = world.host(NodeName::A);
    for transport in Transport::ALL {
        let what = format!("{transport:?}");
        ask_all(&host, transport, (loopback, NODE_PORT).into(), &[&near, &far], &what);
    }
}

#[test]
fn a_node_port_works_from_hosts_on_ipv4_loopback() {
    if !skipped() && !limited(LOOPBACK4) {
        check_on_loopback(Ipv4Addr::LOCALHOST.into());
    }
}

#[test]
fn a_node_port_works_from_hosts_on_ipv6_loopback() {
    if !skipped() && !limited(LOOPBACK6) {
        check_on_loopback(Ipv6Addr::LOCALHOST.into());
    }
}

#[test]
fn loopback_in_a_pod_is_no_node_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    service(&world);
    for client in world.clients() {
        for loopback in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let answer = client.ask(Transport::Tcp, (loopback, NODE_PORT).into());
            assert!(answer.is_err(), "{}: {answer:?}", client.name());
        }
    }
}

#[test]
fn an_address_that_a_node_gets_while_running_serves_node_ports() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (_web, [near, far]) = service(&world);
    let more = Addresses {
        v4: Ipv4Addr::new(192, 168, 77, 211),
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x211),
    };
    world.lab.add_node_address(NodeName::A, more).unwrap();
    let outside = world.lab.outside();
    for family in Family::ALL {
        let to = more.port(family, NODE_PORT);
        let quick = Asking { timeout_ms: 300, ..Asking::default() };
        until("the new address serves", || outside.ask_as(Transport::Tcp, to, quick).ok());
    }
    each(|family, transport, what| {
        ask_all(&outside, transport, more.port(family, NODE_PORT), &[&near, &far], what);
    });
}

#[test]
fn two_node_ports_on_one_endpoint_never_mix_up_one_client_port() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::B, 8080);
    for (name, number) in [("one", 1), ("two", 2)] {
        let service = world.lab.service(name).number(number);
        let service = service.node_port("http", 80, 8080, 30_080 + u16::from(number));
        world.apply(&service.endpoint(&server));
    }
    let outside = world.lab.outside();
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        let from = Some(outside.addresses().port(family, 20_082));
        let asking = Asking { from, ..Asking::default() };
        let frontends = [30_081, 30_082].map(|port| node.port(family, port));
        let connections = frontends.map(|to| outside.connect(to, asking).unwrap());
        for _ in 0..3 {
            for (connection, to) in connections.iter().zip(frontends) {
                assert_eq!(connection.ask().unwrap().peer, to);
            }
        }
        let socket = outside.udp_unconnected(frontends[0], asking).unwrap();
        for to in frontends.into_iter().cycle().take(6) {
            assert_eq!(socket.ask_to(to).unwrap().peer, to);
        }
    }
}

#[test]
fn endpoints_in_the_host_network_answer_from_everywhere() {
    if skipped() {
        return;
    }
    let world = World::new();
    let hosts = [world.host(NodeName::A), world.host(NodeName::B)];
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    for host in &hosts {
        host.serve(8080).unwrap();
    }
    let [a, b] = &hosts;
    let web = web.endpoint(a).endpoint(b);
    world.apply(&web);
    for client in world.clients() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), &[a, b], what);
        });
    }
    let outside = world.lab.outside();
    for node in &hosts {
        each(|family, transport, what| {
            let what = format!("{what} through {}", node.name());
            let to = node.addresses().port(family, NODE_PORT);
            ask_all(&outside, transport, to, &[a, b], &what);
            ask_all(a, transport, to, &[a, b], &what);
        });
    }
    each(|family, transport, what| {
        ask_all(a, transport, web.frontend(family, 80), &[a, b], what);
    });
}

#[test]
fn a_port_of_the_node_itself_is_left_alone() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (_web, [near, _far]) = service(&world);
    // A node's own server on a port beside the NodePort is left alone.
    let host = world.host(NodeName::A);
    host.serve(NODE_PORT + 1).unwrap();
    each(|family, transport, what| {
        let to = host.addresses().port(family, NODE_PORT + 1);
        assert_eq!(ask(&world.lab.outside(), transport, to, what).seen.pod, "nodeA");
        assert_eq!(ask(&near, transport, to, what).seen.pod, "nodeA");
    });
}
