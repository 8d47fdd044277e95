//! `ClusterIP`: from pods with and without socket hooks, and from the host.

use std::{collections::BTreeSet, net::SocketAddr};

use dataplane_user::limits::CLIENT_PORT;
use hashplane_tests::{
    Place,
    agent::protocol::{Size, Transport},
    lab::{Asking, Family, NodeName, slowed_ms},
    manifests::Endpoint,
};

use crate::support::{World, ask, ask_all, each, limited, skipped};

#[test]
fn a_cluster_ip_leads_to_endpoints_on_both_nodes() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let clients = [
        world.pod("hooks", NodeName::A),
        world.pod_without_hooks("packets", NodeName::A),
        world.host(NodeName::A),
    ];
    for client in &clients {
        each(|family, transport, what| {
            let to = web.frontend(family, 80);
            for answer in ask_all(client, transport, to, &[&near, &far], what) {
                let own = client.addresses().of(family);
                assert_eq!(answer.seen.client.ip(), own, "{what}: the source stays: {answer:?}");
            }
        });
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    if skipped() {
        return;
    }
    let world = World::new();
    let hooks = world.server("hooks", NodeName::A, 8080);
    let packets = world.pod_without_hooks("packets", NodeName::A);
    packets.serve(8080).unwrap();
    for (number, pod) in [(1, &hooks), (2, &packets)] {
        let own = world.lab.service(pod.name()).number(number).port("http", 80, 8080).endpoint(pod);
        world.apply(&own);
        each(|family, transport, what| {
            let answer = ask(pod, transport, own.frontend(family, 80), what);
            assert_eq!(answer.seen.pod, pod.name(), "{what}");
        });
    }
}

#[test]
fn a_pod_without_hooks_that_reaches_itself_is_masqueraded() {
    if skipped() {
        return;
    }
    let world = World::new();
    let pod = world.pod_without_hooks("pod", NodeName::A);
    pod.serve(8080).unwrap();
    let own = world.lab.service("own").port("http", 80, 8080).endpoint(&pod);
    world.apply(&own);
    let node = world.host(NodeName::A).addresses();
    each(|family, transport, what| {
        let answer = ask(&pod, transport, own.frontend(family, 80), what);
        assert_eq!(answer.seen.client.ip(), node.of(family), "{what}: {answer:?}");
    });
}

#[test]
fn each_port_leads_to_its_own_target_port_on_each_endpoint() {
    if skipped() {
        return;
    }
    let world = World::new();
    let (plain, other) = (world.pod("plain", NodeName::A), world.pod("other", NodeName::B));
    for (pod, ports) in [(&plain, [8080, 9090]), (&other, [7070, 7070])] {
        for port in BTreeSet::from(ports) {
            pod.serve(port).unwrap();
        }
    }
    let web = world
        .lab
        .service("web")
        .port("http", 80, 8080)
        .port("admin", 81, 9090)
        .endpoint(&plain)
        .with_endpoint(Endpoint::at(&other).with_target(7070));
    world.apply(&web);
    for client in world.clients() {
        each(|family, transport, what| {
            for (port, target) in [(80, 8080), (81, 9090)] {
                let to = web.frontend(family, port);
                for answer in ask_all(&client, transport, to, &[&plain, &other], what) {
                    let expected = if answer.seen.pod == "plain" { target } else { 7070 };
                    assert_eq!(answer.seen.local.port(), expected, "{what}");
                }
            }
        });
    }
}

#[test]
fn a_client_keeps_the_port_that_it_binds() {
    if skipped() {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&server);
    world.apply(&web);
    for client in world.clients() {
        each(|family, transport, what| {
            let from = Some(client.addresses().port(family, 20_080));
            let asking = Asking { from, ..Asking::default() };
            let to = web.frontend(family, 80);
            let answer = client.ask_as(transport, to, asking);
            let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(Some(answer.seen.client), from, "{what}");
            assert_eq!(answer.peer, to, "{what}");
        });
    }
}

#[test]
fn two_services_on_one_endpoint_never_mix_up_one_client_port() {
    if skipped() || limited(CLIENT_PORT) {
        return;
    }
    let world = World::new();
    let server = world.server("server", NodeName::B, 8080);
    let services = [("one", 1), ("two", 2)].map(|(name, number)| {
        let service = world.lab.service(name).number(number).port("http", 80, 8080);
        let service = service.endpoint(&server);
        world.apply(&service);
        service
    });
    let [_, packets] = world.clients();
    for family in Family::ALL {
        let frontends = services.each_ref().map(|service| service.frontend(family, 80));
        let from = Some(packets.addresses().port(family, 20_081));
        let asking = Asking { from, ..Asking::default() };
        let open = |to: SocketAddr| {
            packets.connect(to, asking).unwrap_or_else(|error| panic!("{family:?} {to}: {error}"))
        };
        let connections = frontends.map(open);
        for round in 0..3 {
            for (connection, to) in connections.iter().zip(frontends) {
                let answer = connection.ask();
                let answer = answer.unwrap_or_else(|error| panic!("{round} {to}: {error}"));
                assert_eq!(answer.peer, to);
            }
        }
    }
    // One unconnected socket can ask both, also where hooks translate.
    for client in world.clients() {
        for family in Family::ALL {
            let frontends = services.each_ref().map(|service| service.frontend(family, 80));
            let socket = client.udp_unconnected(frontends[0], Asking::default()).unwrap();
            for to in frontends.into_iter().cycle().take(6) {
                let answer = socket.ask_to(to);
                let answer =
                    answer.unwrap_or_else(|error| panic!("{} {to}: {error}", client.name()));
                assert_eq!(answer.peer, to, "{}: who answers must be who was asked", client.name());
            }
        }
    }
}

#[test]
fn a_megabyte_crosses_every_path_whole() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let services = [("near", 1, &near), ("far", 2, &far)].map(|(name, number, server)| {
        let service = world.lab.service(name).number(number);
        let service = service.node_port("http", 80, 8080, 30_080 + u16::from(number));
        let service = service.endpoint(server);
        world.apply(&service);
        (service, 30_080 + u16::from(number))
    });
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        for (service, node_port) in &services {
            let cluster_ip = service.frontend(family, 80);
            for client in world.clients() {
                assert_megabyte(&client, cluster_ip);
            }
            assert_megabyte(&world.lab.outside(), node.port(family, *node_port));
        }
    }
}

#[track_caller]
fn assert_megabyte(client: &Place, to: SocketAddr) {
    let size = Size { up: 1 << 20, down: 1 << 20 };
    let asking = Asking { size, timeout_ms: 5000, ..Asking::default() };
    let answer = client.ask_as(Transport::Tcp, to, asking);
    let answer = answer.unwrap_or_else(|error| panic!("{} to {to}: {error}", client.name()));
    assert_eq!(answer.received, 1 << 20);
    // A megabyte over a path that loses every large packet still arrives, slowly.
    assert!(
        answer.elapsed_ms < slowed_ms(3000),
        "{} to {to}: {} ms",
        client.name(),
        answer.elapsed_ms
    );
    let size = Size { up: 1400, down: 0 };
    let answer = client.ask_as(Transport::Udp, to, Asking { size, ..Asking::default() });
    let answer = answer.unwrap_or_else(|error| panic!("{} to {to}: UDP {error}", client.name()));
    assert_eq!(answer.seen.received, 1400);
}

#[test]
fn checksums_are_right_with_and_without_offload() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let client = world.pod_without_hooks("packets", NodeName::A);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let clients = [client, world.pod("hooks", NodeName::A)];
    for on in [false, true] {
        for pod in [&near, &far, &clients[0], &clients[1]] {
            world.lab.offload(pod, "eth0", "tx", on).unwrap();
        }
        for client in &clients {
            each(|family, transport, what| {
                let what = format!("{what} offload {on}");
                ask_all(client, transport, web.frontend(family, 80), &[&near, &far], &what);
            });
        }
    }
}

#[test]
fn a_cluster_ip_that_is_routed_to_a_node_leads_to_its_pods() {
    if skipped() {
        return;
    }
    let world = World::new();
    world.lab.route_cluster_ips_from_outside().unwrap();
    let near = world.server("near", NodeName::A, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&near);
    world.apply(&web);
    each(|family, transport, what| {
        let answer = ask(&world.lab.outside(), transport, web.frontend(family, 80), what);
        assert_eq!(answer.seen.pod, "near");
    });
}
