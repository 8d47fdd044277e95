//! Addresses of load balancers, external IPs, and the clients that they serve.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Addresses, Family, NodeName},
};

use crate::support::{
    World, ask, ask_all, assert_counted, assert_dropped, assert_refused, assert_silent, each,
    skipped, ways,
};

const NODE_PORT: u16 = 30_080;

/// Addresses that are nobody's: those of a cloud's load balancer, or of a router.
const ADDRESS: Addresses = Addresses {
    v4: Ipv4Addr::new(198, 51, 100, 10),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10),
};

fn addresses() -> [IpAddr; 2] {
    Family::ALL.map(|family| ADDRESS.of(family))
}

/// A Service that a load balancer at [`ADDRESS`] belongs to; packets for it reach node A.
fn balanced(world: &World) -> Service {
    for address in addresses() {
        world.lab.route_from_outside(address, NodeName::A).unwrap();
    }
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    web.load_balancer(addresses())
}

/// Asks [`ADDRESS`] until exactly `servers` have answered, and each saw `source`.
#[track_caller]
fn check(client: &Arc<Place>, servers: &[&Arc<Place>], source: impl Fn(Family) -> IpAddr + Sync) {
    each(|family, transport, what| {
        for answer in ask_all(client, transport, ADDRESS.port(family, 80), servers, what) {
            assert_eq!(answer.seen.client.ip(), source(family), "{what}: {answer:?}");
        }
    });
}

#[test]
fn a_load_balancer_address_leads_to_every_endpoint() {
    if skipped() {
        return;
    }
    for way in ways() {
        let world = World::with(way);
        let [near, far] = world.servers();
        world.apply(&balanced(&world).endpoint(&near).endpoint(&far));
        let node = |family| world.host(NodeName::A).addresses().of(family);
        check(&world.lab.outside(), &[&near, &far], node);
        for client in world.inside() {
            check(&client, &[&near, &far], node);
        }
    }
}

#[test]
fn external_local_with_a_load_balancer_keeps_the_clients_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = balanced(&world).spec("externalTrafficPolicy", "Local");
    web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    let outside = world.lab.outside();
    check(&outside, &[&near], |family| outside.addresses().of(family));
    for client in world.inside() {
        check(&client, &[&near, &far], |family| client.addresses().of(family));
    }
    web.set_endpoints([hashplane_tests::manifests::Endpoint::at(&far)]);
    world.apply(&web);
    each(|family, transport, what| {
        assert_dropped(&outside, transport, ADDRESS.port(family, 80), what);
    });
    for client in world.inside() {
        check(&client, &[&far], |family| client.addresses().of(family));
    }
}

#[test]
fn an_address_in_mode_proxy_is_left_to_the_load_balancer() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    // The load balancer itself, which terminates connections.
    let proxy = world.host(NodeName::B);
    world.lab.add_node_address(NodeName::B, ADDRESS).unwrap();
    for family in Family::ALL {
        for transport in Transport::ALL {
            proxy.serve_at(transport, ADDRESS.port(family, 80)).unwrap();
        }
    }
    let web = balanced(&world).endpoint(&near);
    world.apply(&web);
    for address in addresses() {
        world.lab.route_from_outside(address, NodeName::B).unwrap();
    }
    let by_table = |client: &Arc<Place>, server: &Arc<Place>| {
        each(|family, transport, what| {
            ask_all(client, transport, ADDRESS.port(family, 80), &[server], what);
        });
    };
    for client in world.inside() {
        by_table(&client, &near);
    }
    world.apply(&web.load_balancer_in_mode(addresses(), "Proxy"));
    for client in world.inside() {
        by_table(&client, &proxy);
    }
    by_table(&world.lab.outside(), &proxy);
}

#[test]
fn external_ips_are_served_for_a_service_of_any_type() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    for address in addresses() {
        world.lab.route_from_outside(address, NodeName::A).unwrap();
    }
    let ips: Vec<String> = addresses().iter().map(IpAddr::to_string).collect();
    let web = world.lab.service("web").port("http", 80, 8080).spec("externalIPs", ips);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    let outside = world.lab.outside();
    let node = |family| world.host(NodeName::A).addresses().of(family);
    check(&outside, &[&near, &far], node);
    for client in world.inside() {
        check(&client, &[&near, &far], node);
    }
    world.apply(&web.spec("externalTrafficPolicy", "Local"));
    check(&outside, &[&near], |family| outside.addresses().of(family));
    for client in world.inside() {
        check(&client, &[&near, &far], |family| client.addresses().of(family));
    }
}

#[test]
fn source_ranges_keep_other_clients_from_the_load_balancers_address() {
    if skipped() {
        return;
    }
    for way in ways() {
        let world = World::with(way);
        let [near, _far] = world.servers();
        let outside = world.lab.outside();
        let node = world.host(NodeName::A).addresses();
        let web = balanced(&world).endpoint(&near);
        let ranges =
            |ranges: &[&str]| web.clone().spec("loadBalancerSourceRanges", ranges.to_vec());
        world.apply(&ranges(&["192.168.88.0/24", "fd88::/64"]));
        check(&outside, &[&near], |family| node.of(family));
        let [hooks, packets, host] = world.inside();
        each(|family, transport, what| {
            assert_dropped(&packets, transport, ADDRESS.port(family, 80), what);
            for client in [&hooks, &host] {
                assert_silent(client, transport, ADDRESS.port(family, 80), what);
            }
        });
        world.apply(&ranges(&[
            "203.0.113.0/24",
            "2001:db8:1::/64",
            "10.244.1.0/24",
            "fd44:1::/64",
        ]));
        each(|family, transport, what| {
            assert_dropped(&outside, transport, ADDRESS.port(family, 80), what);
            ask(&packets, transport, ADDRESS.port(family, 80), what);
            ask(&hooks, transport, ADDRESS.port(family, 80), what);
            // Node ports and cluster IPs do not ask for ranges, as with kube-proxy.
            ask(&outside, transport, node.port(family, NODE_PORT), what);
            ask(&packets, transport, web.frontend(family, 80), what);
        });
        assert_counted(&world.a, "source_not_allowed", 4.0);
        world.apply(&web);
        check(&outside, &[&near], |family| node.of(family));
    }
}

#[test]
fn source_ranges_allow_the_node_itself_by_its_address() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let web = balanced(&world).endpoint(&near);
    let host = world.host(NodeName::A);
    let own = Family::ALL.map(|family| {
        let bits = if family == Family::V4 { 32 } else { 128 };
        format!("{}/{bits}", host.addresses().of(family))
    });
    world.apply(&web.spec("loadBalancerSourceRanges", own.to_vec()));
    check(&host, &[&near], |family| host.addresses().of(family));
    each(|family, transport, what| {
        assert_dropped(&world.lab.outside(), transport, ADDRESS.port(family, 80), what);
    });
}

#[test]
fn source_ranges_of_one_family_allow_nobody_of_the_other() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let web = balanced(&world).endpoint(&near);
    world.apply(&web.spec("loadBalancerSourceRanges", vec!["192.168.88.0/24"]));
    let outside = world.lab.outside();
    for transport in Transport::ALL {
        ask(&outside, transport, ADDRESS.port(Family::V4, 80), "in the range");
        assert_dropped(&outside, transport, ADDRESS.port(Family::V6, 80), "no range");
    }
}

#[test]
fn source_ranges_may_stand_in_an_annotation() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let key = "service.beta.kubernetes.io/load-balancer-source-ranges";
    let web = balanced(&world).endpoint(&near);
    world.apply(&web.clone().annotation(key, "203.0.113.0/24, 2001:db8:1::/64"));
    let outside = world.lab.outside();
    each(|family, transport, what| {
        assert_dropped(&outside, transport, ADDRESS.port(family, 80), what);
    });
    world.apply(&web.annotation(key, "192.168.88.0/24, fd88::/64"));
    each(|family, transport, what| {
        ask(&outside, transport, ADDRESS.port(family, 80), what);
    });
}

#[test]
fn a_load_balancer_address_without_endpoints_refuses() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.apply(&balanced(&world));
    let [hooks, packets, host] = world.inside();
    for client in [hooks, packets, host, world.lab.outside()] {
        each(|family, transport, what| {
            let answer = client.ask(transport, ADDRESS.port(family, 80));
            assert_refused(answer, &format!("{what} {}", client.name()));
        });
    }
}
