//! `sessionAffinity: ClientIP`: which endpoint a client stays with, and for how long.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, thread, time::Duration};

use dataplane_user::limits::{AFFINITY_OF_FRONTENDS, AFFINITY_TIMEOUT};
use hashplane_tests::{
    Place, Service,
    agent::protocol::Transport,
    lab::{Family, NodeName},
    manifests::Endpoint,
};

use crate::support::{World, ask, combinations, each, limited, skipped};

const NODE_PORT: u16 = 30_080;
/// Clients stay by service port: so many ports are so many choices of one client. That all of them
/// come out alike by chance happens once in 2^15 runs.
const PORTS: u16 = 16;

/// A Service of many ports with affinity.
fn service(world: &World, timeout_s: u32) -> Service {
    let mut web = world.lab.service("web").affinity(timeout_s);
    for number in 0..PORTS {
        web = web.node_port(&format!("p{number}"), 80 + number, 8080, NODE_PORT + number);
    }
    web
}

/// Whom a client gets by each frontend.
type Choices = BTreeMap<SocketAddr, String>;

#[track_caller]
fn choices(client: &Place, transport: Transport, to: &[SocketAddr], what: &str) -> Choices {
    to.iter().map(|to| (*to, ask(client, transport, *to, what).seen.pod)).collect()
}

/// Every client on node A with the ways it can take to `web`.
fn ways(world: &World, web: &Service, family: Family) -> Vec<(Arc<Place>, Vec<SocketAddr>)> {
    let node = world.host(NodeName::A).addresses();
    let cluster_ips: Vec<_> = (80..80 + PORTS).map(|port| web.frontend(family, port)).collect();
    let node_ports: Vec<_> =
        (NODE_PORT..NODE_PORT + PORTS).map(|port| node.port(family, port)).collect();
    let [hooks, packets, host] = world.inside();
    vec![
        (hooks, cluster_ips.clone()),
        (packets, cluster_ips.clone()),
        (host, cluster_ips),
        (world.lab.outside(), node_ports),
    ]
}

/// Runs `check` for every client, family and protocol.
fn each_way(
    world: &World,
    web: &Service,
    mut check: impl FnMut(&Arc<Place>, Transport, &[SocketAddr], &str),
) {
    for (family, transport, what) in combinations() {
        for (client, to) in ways(world, web, family) {
            check(&client, transport, &to, &format!("{what} from {}", client.name()));
        }
    }
}

#[test]
fn a_client_stays_with_its_endpoint_and_ports_choose_for_themselves() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world, 600).endpoint(&near).endpoint(&far);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        let first = choices(client, transport, to, what);
        let servers: Vec<&str> = first.values().map(String::as_str).collect();
        assert!(servers.contains(&"near") && servers.contains(&"far"), "{what}: {first:?}");
        for _ in 0..4 {
            assert_eq!(choices(client, transport, to, what), first, "{what}");
        }
    });
}

#[test]
fn a_client_has_one_endpoint_however_it_comes_to_a_service_port() {
    if skipped() || limited(AFFINITY_OF_FRONTENDS) {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world, 600).endpoint(&near).endpoint(&far);
    let node = world.host(NodeName::A).addresses();
    let [hooks, packets] = world.clients();
    // A hook knows a pod by its namespace, a packet by its address: with policy Cluster the hook
    // leaves node ports to packets, since their source is replaced.
    for (client, policy) in [(packets, "Cluster"), (hooks, "Local")] {
        world.apply(&web.clone().spec("externalTrafficPolicy", policy));
        each(|family, transport, what| {
            for number in 0..PORTS {
                let by_cluster_ip =
                    ask(&client, transport, web.frontend(family, 80 + number), what);
                let node_port = node.port(family, NODE_PORT + number);
                let by_node_port = ask(&client, transport, node_port, what);
                let what = format!("{what} from {} port {number}", client.name());
                assert_eq!(by_node_port.seen.pod, by_cluster_ip.seen.pod, "{what}");
            }
        });
    }
}

#[test]
fn a_client_chooses_again_once_it_was_away_for_longer_than_the_timeout() {
    if skipped() || limited(AFFINITY_TIMEOUT) {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world, 1).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let mut before = Vec::new();
    each_way(&world, &web, |client, transport, to, what| {
        before.push(choices(client, transport, to, what));
    });
    thread::sleep(Duration::from_millis(2500));
    let mut before = before.into_iter();
    each_way(&world, &web, |client, transport, to, what| {
        let first = before.next().unwrap();
        let now = choices(client, transport, to, what);
        assert_ne!(now, first, "{what}: no port chose again");
    });
}

#[test]
fn each_connection_begins_the_timeout_anew() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    // Twice the time is enough for a machine that is busy with something else for a second.
    let web = service(&world, 8).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let [hooks, packets] = world.clients();
    let to: Vec<_> = (80..80 + PORTS).map(|port| web.frontend(Family::V4, port)).collect();
    let node = world.host(NodeName::A).addresses();
    let node_ports: Vec<_> =
        (NODE_PORT..NODE_PORT + PORTS).map(|port| node.port(Family::V6, port)).collect();
    let ways = [(hooks, &to), (packets, &to), (world.lab.outside(), &node_ports)];
    let ask_all = || {
        let each = ways.iter().map(|(client, to)| choices(client, Transport::Tcp, to, "again"));
        each.collect::<Vec<_>>()
    };
    let first = ask_all();
    for _ in 0..4 {
        thread::sleep(Duration::from_secs(3));
        assert_eq!(ask_all(), first);
    }
}

#[test]
fn a_client_whose_endpoint_has_left_chooses_another_and_stays_there() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = service(&world, 600).endpoint(&near).endpoint(&far);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        choices(client, transport, to, what);
    });
    web.set_endpoints([Endpoint::at(&far)]);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        let now = choices(client, transport, to, what);
        assert!(now.values().all(|server| server == "far"), "{what}: {now:?}");
    });
    // One that comes back is somebody new.
    web.set_endpoints([Endpoint::at(&near), Endpoint::at(&far)]);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        let now = choices(client, transport, to, what);
        assert!(now.values().all(|server| server == "far"), "{what}: {now:?}");
    });
}

#[test]
fn a_client_leaves_an_endpoint_that_is_terminating() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let mut web = service(&world, 600).endpoint(&near);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        choices(client, transport, to, what);
    });
    web.set_endpoints([Endpoint::at(&near).terminating(), Endpoint::at(&far)]);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        let now = choices(client, transport, to, what);
        assert!(now.values().all(|server| server == "far"), "{what}: {now:?}");
    });
}

#[test]
fn affinity_does_not_lead_out_of_a_local_view() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = service(&world, 600).endpoint(&near).endpoint(&far);
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        choices(client, transport, to, what);
    });
    let web = web.spec("externalTrafficPolicy", "Local").spec("internalTrafficPolicy", "Local");
    world.apply(&web);
    each_way(&world, &web, |client, transport, to, what| {
        let now = choices(client, transport, to, what);
        assert!(now.values().all(|server| server == "near"), "{what}: {now:?}");
    });
}

#[test]
fn a_timeout_out_of_range_means_no_affinity() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let web = world.lab.service("web").affinity(86_401).port("http", 80, 8080);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    for client in world.inside() {
        each(|family, transport, what| {
            let to = web.frontend(family, 80);
            crate::support::ask_all(&client, transport, to, &[&near, &far], what);
        });
    }
}
