//! What load balancers see of a node: `healthCheckNodePort`, `/healthz`, and chosen node addresses.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use dataplane_user::limits::{self, LOOPBACK4, LOOPBACK6};
use hashplane_tests::{
    Daemon, Place, Service,
    agent::protocol::Transport,
    lab::{Addresses, Family, NodeName, within},
    manifests::Endpoint,
};
use serde_json::{Value, json};

use crate::support::{SOON, World, ask_all, each, mode, skipped, until};

const NODE_PORT: u16 = 30_080;
const HEALTH_PORT: u16 = 31_500;
/// Where daemons in a lab report.
const REPORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);

/// A Service that load balancers ask about on `port`.
fn service(world: &World, port: u16) -> Service {
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.spec("type", "LoadBalancer").spec("externalTrafficPolicy", "Local");
    web.spec("healthCheckNodePort", port)
}

/// Asks over HTTP: the whole answer.
fn get(from: &Place, at: SocketAddr, path: &str) -> anyhow::Result<String> {
    within(from.netns(), || {
        let wait = Duration::from_secs(3);
        let mut stream = TcpStream::connect_timeout(&at, wait).context("nobody listens")?;
        stream.set_read_timeout(Some(wait))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("no answer")?;
        Ok(text)
    })
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default()
}

/// Asks until the answer has this status and speaks of so many endpoints; both families.
#[track_caller]
fn until_health(world: &World, node: NodeName, port: u16, expected: (u16, usize)) {
    let (outside, node) = (world.lab.outside(), world.host(node));
    for family in Family::ALL {
        let at = node.addresses().port(family, port);
        let answer = until(&format!("{at} says {expected:?}"), || {
            let answer = get(&outside, at, "/").ok()?;
            (status(&answer) == expected.0).then_some(answer)
        });
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let weight = format!("\r\nX-Load-Balancing-Endpoint-Weight: {}\r\n", expected.1);
        assert!(head.contains(&weight), "{head}");
        assert!(head.contains("\r\nContent-Type: application/json\r\n"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        let service = json!({ "namespace": "default", "name": "web" });
        let whole =
            json!({"service": service, "localEndpoints": expected.1, "serviceProxyHealthy": true});
        assert_eq!(body, whole);
    }
}

#[track_caller]
fn until_silent(world: &World, node: NodeName, port: u16) {
    let (outside, node) = (world.lab.outside(), world.host(node));
    for family in Family::ALL {
        let at = node.addresses().port(family, port);
        until(&format!("{at} is closed"), || get(&outside, at, "/").is_err().then_some(()));
    }
}

fn listeners(daemon: &Daemon) -> f64 {
    daemon.metric("hashplane_health_check_listeners", &[]).unwrap()
}

#[test]
fn load_balancers_see_which_nodes_have_endpoints() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = service(&world, HEALTH_PORT).endpoint(&near);
    world.apply(&web);
    until_health(&world, NodeName::A, HEALTH_PORT, (200, 1));
    until_health(&world, NodeName::B, HEALTH_PORT, (503, 0));
    assert_eq!((listeners(&world.a), listeners(&world.b)), (2.0, 2.0));
    // The endpoint moves; one that is not ready does not count.
    web.set_endpoints([Endpoint::at(&near).not_ready(), Endpoint::at(&far)]);
    world.apply(&web);
    until_health(&world, NodeName::A, HEALTH_PORT, (503, 0));
    until_health(&world, NodeName::B, HEALTH_PORT, (200, 1));
    // What the node port does is what the check says.
    let outside = world.lab.outside();
    each(|family, transport, what| {
        let port = |node| world.host(node).addresses().port(family, NODE_PORT);
        ask_all(&outside, transport, port(NodeName::B), &[&far], what);
        assert!(outside.ask_as(transport, port(NodeName::A), SOON).is_err(), "{what}");
    });
    let dropping = |daemon: &Daemon, policy| {
        let label = format!("traffic_policy=\"{policy}\"");
        daemon.metric("hashplane_no_local_endpoints", &[&label]).unwrap()
    };
    // Two families and two protocols.
    assert_eq!((dropping(&world.a, "external"), dropping(&world.b, "external")), (4.0, 0.0));
    assert!(dropping(&world.a, "internal") < 1.0);
    // Terminating endpoints take traffic, but no load balancer should send any.
    web.set_endpoints([Endpoint::at(&far).terminating()]);
    world.apply(&web);
    until_health(&world, NodeName::B, HEALTH_PORT, (503, 0));
}

#[test]
fn health_check_listeners_follow_their_service() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    world.apply(&service(&world, HEALTH_PORT).endpoint(&near));
    until_health(&world, NodeName::A, HEALTH_PORT, (200, 1));
    world.apply(&service(&world, HEALTH_PORT + 1).endpoint(&near));
    until_health(&world, NodeName::A, HEALTH_PORT + 1, (200, 1));
    until_silent(&world, NodeName::A, HEALTH_PORT);
    let web = service(&world, HEALTH_PORT + 1).spec("externalTrafficPolicy", "Cluster");
    world.apply(&web.endpoint(&near));
    until_silent(&world, NodeName::A, HEALTH_PORT + 1);
    world.apply(&service(&world, HEALTH_PORT).endpoint(&near));
    until_health(&world, NodeName::A, HEALTH_PORT, (200, 1));
    service(&world, HEALTH_PORT).remove().unwrap();
    until_silent(&world, NodeName::A, HEALTH_PORT);
    until("no listener is left", || (listeners(&world.a) == 0.0).then_some(()));
}

#[test]
fn a_health_check_port_that_is_taken_is_a_problem_until_it_is_free() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let host = world.host(NodeName::A);
    host.serve(HEALTH_PORT).unwrap();
    world.apply(&service(&world, HEALTH_PORT).endpoint(&near));
    let problems = || world.a.metric("hashplane_problems", &["\"health_check_port\""]).unwrap();
    until("both families are problems", || (problems() > 1.5).then_some(()));
    assert!(world.a.log().contains(&format!("0.0.0.0:{HEALTH_PORT} for health checks of Service")));
    until_health(&world, NodeName::B, HEALTH_PORT, (503, 0));
    host.stop_serving(HEALTH_PORT).unwrap();
    until_health(&world, NodeName::A, HEALTH_PORT, (200, 1));
    until("no problem is left", || (problems() == 0.0).then_some(()));
}

#[test]
fn a_node_that_is_about_to_be_deleted_wants_no_traffic_but_is_alive() {
    if skipped() {
        return;
    }
    let world = World::new();
    let host = world.host(NodeName::A);
    let codes =
        |host: &Place| ["/healthz", "/livez"].map(|path| status(&get(host, REPORT, path).unwrap()));
    assert_eq!(codes(&host), [200, 200]);
    let write = |taints: Value| {
        let node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": { "name": NodeName::A.as_str() },
            "spec": { "taints": taints },
        });
        world.wait_for(&world.lab.manifests().write_objects("node", &[node]).unwrap());
    };
    write(json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]));
    assert_eq!(codes(&host), [503, 200]);
    assert_eq!(codes(&world.host(NodeName::B)), [200, 200], "only the node that leaves");
    write(json!([]));
    assert_eq!(codes(&host), [200, 200]);
}

/// More addresses of node A: one in `192.168.77.0/25` and `fd77::/120`, one in neither.
const CHOSEN: Addresses = Addresses {
    v4: Ipv4Addr::new(192, 168, 77, 99),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x99),
};
const NOT_CHOSEN: Addresses = Addresses {
    v4: Ipv4Addr::new(192, 168, 77, 211),
    v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x211),
};
const BLOCKS: &str = "192.168.77.0/25,fd77::/120";
const LOOPBACK: Addresses = Addresses { v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };

fn chosen(more: &str) -> (World, [Arc<Place>; 2]) {
    let world = World::with(&["--nodeport-addresses", &format!("{BLOCKS}{more}")]);
    let [near, far] = world.servers();
    world.apply(&service(&world, HEALTH_PORT).endpoint(&near).endpoint(&far));
    (world, [near, far])
}

#[test]
fn node_ports_and_health_checks_are_on_the_chosen_addresses_only() {
    if skipped() {
        return;
    }
    let (world, [near, _far]) = chosen("");
    // The one that is not chosen comes first: when the other serves, both have been seen.
    world.lab.add_node_address(NodeName::A, NOT_CHOSEN).unwrap();
    world.lab.add_node_address(NodeName::A, CHOSEN).unwrap();
    let outside = world.lab.outside();
    for family in Family::ALL {
        let to = CHOSEN.port(family, NODE_PORT);
        until("the new address serves", || outside.ask_as(Transport::Tcp, to, SOON).ok());
        let at = CHOSEN.port(family, HEALTH_PORT);
        until("and is checked", || get(&outside, at, "/").is_ok().then_some(()));
        assert!(get(&outside, NOT_CHOSEN.port(family, HEALTH_PORT), "/").is_err());
    }
    let own = world.host(NodeName::A).addresses();
    each(|family, transport, what| {
        for address in [own, CHOSEN] {
            ask_all(&outside, transport, address.port(family, NODE_PORT), &[&near], what);
        }
        let to = NOT_CHOSEN.port(family, NODE_PORT);
        assert!(outside.ask_as(transport, to, SOON).is_err(), "{what}");
    });
    for client in world.inside() {
        each(|family, transport, what| {
            let what = format!("{what} from {}", client.name());
            assert!(client.ask(transport, CHOSEN.port(family, NODE_PORT)).is_ok(), "{what}");
            for address in [NOT_CHOSEN, LOOPBACK] {
                let to = address.port(family, NODE_PORT);
                assert!(client.ask_as(transport, to, SOON).is_err(), "{what} to {to}");
            }
        });
    }
}

#[test]
fn loopback_serves_node_ports_when_a_block_contains_it() {
    if skipped() {
        return;
    }
    let (world, servers) = chosen(",127.0.0.0/8");
    let [near, far] = &servers;
    let host = world.host(NodeName::A);
    each(|family, transport, what| {
        // `node_port` tells aloud where this is not served at all.
        let feature = if family == Family::V4 { LOOPBACK4 } else { LOOPBACK6 };
        if limits::why(mode(), feature).is_none() {
            ask_all(&host, transport, LOOPBACK.port(family, NODE_PORT), &[near, far], what);
        }
    });
}
