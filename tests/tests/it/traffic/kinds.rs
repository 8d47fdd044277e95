//! Types of Services, what is none of a proxy's business, and ports that are nobody's.

use hashplane_tests::{
    Service,
    agent::protocol::Transport,
    lab::{Asking, Family, NodeName},
};
use serde_json::json;

use crate::support::{SOON, World, ask, ask_all, assert_refused, each, skipped};

const NODE_PORT: u16 = 30_080;

fn web(world: &World) -> Service {
    world.lab.service("web").node_port("http", 80, 8080, NODE_PORT)
}

#[test]
fn a_service_that_changes_its_type_is_served_as_what_it_is() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let balancer = Family::ALL.map(|family| match family {
        Family::V4 => std::net::IpAddr::from([198, 51, 100, 10]),
        Family::V6 => std::net::IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10]),
    });
    for address in balancer {
        world.lab.route_from_outside(address, NodeName::A).unwrap();
    }
    let web = web(&world).endpoint(&near);
    let name = web.clone().spec("type", "ExternalName").spec("externalName", "example.com");
    let kinds = [
        ("ClusterIP", web.clone().spec("type", "ClusterIP")),
        ("NodePort", web.clone()),
        ("LoadBalancer", web.clone().load_balancer(balancer)),
        ("ExternalName", name.spec("clusterIP", "").spec("clusterIPs", json!([]))),
        ("LoadBalancer", web.clone().load_balancer(balancer)),
        ("ClusterIP", web.clone().spec("type", "ClusterIP")),
        ("NodePort", web.clone()),
    ];
    let [hooks, packets] = world.clients();
    let (outside, node) = (world.lab.outside(), world.host(NodeName::A).addresses());
    for (kind, service) in kinds {
        world.apply(&service);
        each(|family, transport, what| {
            let what = format!("{what} as {kind}");
            let balancer = balancer[usize::from(family == Family::V6)];
            let served = |client: &hashplane_tests::Place, to| {
                client.ask_as(transport, to, SOON).is_ok_and(|answer| answer.seen.pod == "near")
            };
            let by_cluster_ip =
                [&hooks, &packets].map(|client| served(client, web.frontend(family, 80)));
            assert_eq!(by_cluster_ip, [kind != "ExternalName"; 2], "{what}: cluster IP");
            let by_node_port = served(&outside, node.port(family, NODE_PORT));
            let on_nodes = kind == "NodePort" || kind == "LoadBalancer";
            assert_eq!(by_node_port, on_nodes, "{what}: node port");
            let by_balancer = served(&outside, (balancer, 80).into());
            assert_eq!(by_balancer, kind == "LoadBalancer", "{what}: load balancer");
        });
    }
}

#[test]
fn a_connection_outlives_a_change_of_type() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = web(&world).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let [hooks, packets] = world.clients();
    let outside = world.lab.outside();
    let node = world.host(NodeName::A).addresses();
    let mut connections = Vec::new();
    for family in Family::ALL {
        for client in [&hooks, &packets] {
            let to = web.frontend(family, 80);
            connections.push(client.connect(to, Asking::default()).unwrap());
        }
        let to = node.port(family, NODE_PORT);
        connections.push(outside.connect(to, Asking::default()).unwrap());
    }
    let served: Vec<String> =
        connections.iter().map(|connection| connection.ask().unwrap().seen.pod).collect();
    for kind in ["ClusterIP", "NodePort"] {
        world.apply(&web.clone().spec("type", kind));
        for (connection, server) in connections.iter().zip(&served) {
            assert_eq!(connection.ask().unwrap().seen.pod, *server, "as {kind}");
        }
    }
}

#[test]
fn what_is_headless_or_another_proxys_is_left_alone() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let web = web(&world).endpoint(&near);
    let left_alone = [
        web.clone()
            .spec("type", "ClusterIP")
            .spec("clusterIP", "None")
            .spec("clusterIPs", vec!["None"]),
        web.clone().label("service.kubernetes.io/service-proxy-name", "other"),
    ];
    let [hooks, packets] = world.clients();
    let (outside, node) = (world.lab.outside(), world.host(NodeName::A).addresses());
    for service in left_alone {
        world.apply(&web);
        each(|family, transport, what| {
            ask(&packets, transport, web.frontend(family, 80), what);
            ask(&outside, transport, node.port(family, NODE_PORT), what);
        });
        world.apply(&service);
        each(|family, transport, what| {
            for client in [&hooks, &packets] {
                let answer = client.ask_as(transport, web.frontend(family, 80), SOON);
                assert!(answer.is_err(), "{what}: {answer:?}");
            }
            let answer = outside.ask_as(transport, node.port(family, NODE_PORT), SOON);
            assert!(answer.is_err(), "{what}: {answer:?}");
        });
        // Pods are reached as ever.
        let to = near.addresses().port(Family::V4, 8080);
        ask(&packets, Transport::Tcp, to, "the pod itself");
    }
}

#[test]
fn one_port_number_serves_tcp_and_udp_with_endpoints_of_their_own() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.pod("server", NodeName::B);
    for (transport, port) in [(Transport::Tcp, 5301), (Transport::Udp, 5302)] {
        for family in Family::ALL {
            server.serve_at(transport, server.addresses().port(family, port)).unwrap();
        }
    }
    let dns = world.lab.service("dns").port_of(Transport::Tcp, "tcp", 53, 5301);
    let dns = dns.port_of(Transport::Udp, "udp", 53, 5302).endpoint(&server);
    world.apply(&dns);
    for client in world.inside() {
        each(|family, transport, what| {
            let answer = ask(&client, transport, dns.frontend(family, 53), what);
            let expected = if transport == Transport::Tcp { 5301 } else { 5302 };
            assert_eq!(answer.seen.local.port(), expected, "{what}");
        });
    }
}

#[test]
fn a_port_that_a_cluster_ip_does_not_have_is_refused() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.lab.route_cluster_ips_from_outside().unwrap();
    let near = world.server("near", NodeName::A, 8080);
    let web = world.lab.service("web").port_of(Transport::Tcp, "http", 80, 8080).endpoint(&near);
    world.apply(&web);
    let [hooks, packets, host] = world.inside();
    for client in [hooks, packets, host, world.lab.outside()] {
        each(|family, transport, what| {
            let what = format!("{what} {}", client.name());
            assert_refused(client.ask(transport, web.frontend(family, 81)), &what);
        });
        for family in Family::ALL {
            let what = format!("{family:?} {}", client.name());
            // The port is there, but for TCP.
            assert_refused(client.ask(Transport::Udp, web.frontend(family, 80)), &what);
            ask(&client, Transport::Tcp, web.frontend(family, 80), &what);
        }
    }
    // Once the Service is gone, its address is nobody's: no refusal of ours.
    web.remove().unwrap();
    crate::support::until("the address is nobody's", || {
        let answer = world.clients()[1].ask_as(Transport::Tcp, web.frontend(Family::V4, 81), SOON);
        (answer.unwrap_err().why != hashplane_tests::agent::protocol::Why::Refused).then_some(())
    });
}

#[test]
fn node_ports_are_on_the_selected_addresses_only() {
    if skipped() {
        return;
    }
    let blocks = "192.168.77.208/28,fd77::200/120";
    let world = World::with(&["--nodeport-addresses", blocks]);
    let more = hashplane_tests::lab::Addresses {
        v4: [192, 168, 77, 211].into(),
        v6: [0xfd77, 0, 0, 0, 0, 0, 0, 0x211].into(),
    };
    world.lab.add_node_address(NodeName::A, more).unwrap();
    let [near, far] = world.servers();
    let web = web(&world).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let (outside, host) = (world.lab.outside(), world.host(NodeName::A));
    crate::support::until("the new address serves", || {
        outside.ask_as(Transport::Tcp, more.port(Family::V6, NODE_PORT), SOON).ok()
    });
    let packets = world.pod_without_hooks("client", NodeName::A);
    each(|family, transport, what| {
        for client in [&outside, &packets, &host] {
            ask_all(client, transport, more.port(family, NODE_PORT), &[&near, &far], what);
            let to = host.addresses().port(family, NODE_PORT);
            assert!(client.ask_as(transport, to, SOON).is_err(), "{what} {}", client.name());
        }
        let loopback: std::net::IpAddr = match family {
            Family::V4 => std::net::Ipv4Addr::LOCALHOST.into(),
            Family::V6 => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        let answer = host.ask_as(transport, (loopback, NODE_PORT).into(), SOON);
        assert!(answer.is_err(), "{what}: loopback is not selected");
    });
}
