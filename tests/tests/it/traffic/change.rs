//! Endpoints that come and go: what established clients keep, and what the next packet gets.

use std::{sync::Arc, thread, time::Duration};

use dataplane_user::backend::Mode;
use hashplane_tests::{
    Place, Service,
    agent::protocol::{Answer, Failure, Pattern, Transport},
    lab::{Asking, Family, NodeName, RunningLoad},
    manifests::Endpoint,
};

use crate::support::{World, ask_all, assert_no_errors, each, load, mode, skipped};

const NODE_PORT: u16 = 30_080;

struct Servers {
    old: Arc<Place>,
    new: Arc<Place>,
    web: Service,
}

/// A Service with one endpoint on `node`, and another pod to put in its place.
fn servers(world: &World, node: NodeName) -> Servers {
    let (old, new) = (world.server("old", node, 8080), world.server("new", NodeName::B, 8080));
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT).endpoint(&old);
    world.apply(&web);
    Servers { old, new, web }
}

type Ask = Box<dyn Fn() -> Result<Answer, Failure>>;

#[track_caller]
fn assert_from(answer: Result<Answer, Failure>, server: &Place, what: &str) {
    match answer {
        Ok(answer) => assert_eq!(answer.seen.pod, server.name(), "{what}: {answer:?}"),
        Err(failure) => panic!("{what}: {failure}"),
    }
}

#[test]
fn a_connection_survives_that_its_endpoint_leaves() {
    if skipped() {
        return;
    }
    for node in [NodeName::A, NodeName::B] {
        let world = World::new();
        let Servers { old, new, mut web } = servers(&world, node);
        let [hooks, packets] = world.clients();
        let (host, outside) = (world.host(NodeName::A), world.lab.outside());
        let mut asks: Vec<(String, Ask)> = Vec::new();
        for family in Family::ALL {
            let frontend = web.frontend(family, 80);
            let node_port = host.addresses().port(family, NODE_PORT);
            let ways = [
                (&hooks, frontend),
                (&packets, frontend),
                (&host, frontend),
                (&outside, node_port),
                (&packets, node_port),
            ];
            for (client, to) in ways {
                let what = format!("{} to {to} on {node}", client.name());
                let connection = client.connect(to, Asking::default());
                let connection = connection.unwrap_or_else(|error| panic!("{what}: {error}"));
                asks.push((what, Box::new(move || connection.ask())));
            }
        }
        for (what, ask) in &asks {
            assert_from(ask(), &old, what);
        }
        web.set_endpoints([Endpoint::at(&new)]);
        world.apply(&web);
        // Blocks of endpoints that were left are used again after their grace period.
        for pause_ms in [0, 1500, 1500] {
            thread::sleep(Duration::from_millis(pause_ms));
            for (what, ask) in &asks {
                assert_from(ask(), &old, what);
            }
        }
        for client in [&hooks, &packets] {
            each(|family, transport, what| {
                ask_all(client, transport, web.frontend(family, 80), &[&new], what);
            });
        }
    }
}

#[test]
fn udp_is_selected_again_with_the_next_datagram() {
    if skipped() {
        return;
    }
    let world = World::new();
    let Servers { old, new, mut web } = servers(&world, NodeName::A);
    let [hooks, packets] = world.clients();
    let (host, outside) = (world.host(NodeName::A), world.lab.outside());
    let mut asks: Vec<(String, Ask)> = Vec::new();
    for family in Family::ALL {
        let frontend = web.frontend(family, 80);
        let node_port = host.addresses().port(family, NODE_PORT);
        for (client, to) in [(&hooks, frontend), (&packets, frontend), (&outside, node_port)] {
            let socket = client.udp_connected(to, Asking::default()).unwrap();
            asks.push((
                format!("{} connected to {to}", client.name()),
                Box::new(move || socket.ask()),
            ));
        }
        let unconnected =
            [(&hooks, frontend), (&packets, frontend), (&host, frontend), (&outside, node_port)];
        for (client, to) in unconnected {
            let socket = client.udp_unconnected(to, Asking::default()).unwrap();
            let what = format!("{} unconnected to {to}", client.name());
            asks.push((what, Box::new(move || socket.ask_to(to))));
        }
    }
    for (from, to) in [(&old, &new), (&new, &old), (&old, &new)] {
        for (what, ask) in &asks {
            assert_from(ask(), from, what);
        }
        web.set_endpoints([Endpoint::at(to)]);
        world.apply(&web);
        for (what, ask) in &asks {
            assert_from(ask(), to, &format!("{what} after the change"));
        }
    }
}

/// Loads on every path, with words for each.
fn loads(world: &World, service: &Service) -> Vec<(String, RunningLoad)> {
    let [hooks, packets] = world.clients();
    let (host, outside) = (world.host(NodeName::A), world.lab.outside());
    let mut running = Vec::new();
    for family in Family::ALL {
        let frontend = service.frontend(family, 80);
        let node_port = host.addresses().port(family, NODE_PORT);
        let places =
            [(&hooks, frontend), (&packets, frontend), (&host, frontend), (&outside, node_port)];
        for (client, to) in places {
            let mut ways = vec![
                (Transport::Tcp, Pattern::NewSocket),
                (Transport::Tcp, Pattern::OneSocket),
                (Transport::Udp, Pattern::OneUnconnected),
            ];
            // Of a host, a connected UDP socket keeps the endpoint that the hook in `connect` chose.
            if client.name() != host.name() || mode() != Mode::Ebpf {
                ways.push((Transport::Udp, Pattern::OneSocket));
            }
            for (transport, pattern) in ways {
                let what = format!("{} {transport:?} {pattern:?} to {to}", client.name());
                let load = client.start_load(load(transport, to, pattern)).unwrap();
                running.push((what, load));
            }
        }
    }
    running
}

#[test]
fn rolling_changes_of_endpoints_cost_no_request() {
    if skipped() {
        return;
    }
    let world = World::new();
    let pods = [
        world.server("one", NodeName::A, 8080),
        world.server("two", NodeName::B, 8080),
        world.server("three", NodeName::A, 8080),
    ];
    let mut web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    web = web.endpoint(&pods[0]);
    world.apply(&web);
    let running = loads(&world, &web);
    for round in 0..12 {
        let [first, second] =
            [&pods[round % 3], &pods[(round + 1) % 3]].map(|pod| Endpoint::at(pod));
        web.set_endpoints([first, second.clone()]);
        web.write().unwrap();
        thread::sleep(Duration::from_millis(120));
        web.set_endpoints([second]);
        web.write().unwrap();
        thread::sleep(Duration::from_millis(120));
    }
    for (what, load) in running {
        let loaded = load.stop().unwrap();
        // Connection tracking forgets a flow whose endpoint left, and with it an answer on its way.
        if mode() == Mode::Ebpf || what.contains("Tcp") {
            assert_no_errors(&loaded, &what);
        } else {
            assert!(loaded.errors <= 1 && loaded.total() >= 20, "{what}: {loaded:?}");
        }
        // Who waits for an answer that is lost does not see every round.
        if loaded.errors == 0 {
            let kept = what.contains("Tcp OneSocket");
            assert_eq!(loaded.answers.len(), if kept { 1 } else { 3 }, "{what}: {loaded:?}");
        }
    }
}

#[test]
fn killing_and_starting_the_daemon_again_costs_no_packet() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let (near, far) =
        (world.server("near", NodeName::A, 8080), world.server("far", NodeName::B, 8080));
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.endpoint(&near).endpoint(&far);
    world.apply(&web);
    let running = loads(&world, &web);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        world.a.kill().unwrap();
        thread::sleep(Duration::from_millis(300));
        world.a.start_again().unwrap_or_else(|error| panic!("{error:?}"));
    }
    thread::sleep(Duration::from_millis(300));
    for (what, load) in running {
        // A lost UDP datagram is an error here; TCP would hide it behind a retransmission.
        assert_no_errors(&load.stop().unwrap(), &what);
    }
}

#[test]
fn a_change_that_happens_while_no_daemon_runs_is_caught_up() {
    if skipped() {
        return;
    }
    let mut world = World::new();
    let Servers { old, new, mut web } = servers(&world, NodeName::A);
    let [_, packets] = world.clients();
    let connection = packets.connect(web.frontend(Family::V4, 80), Asking::default()).unwrap();
    assert_from(connection.ask(), &old, "before");
    world.a.kill().unwrap();
    web.set_endpoints([Endpoint::at(&new)]);
    web.write().unwrap();
    assert_from(connection.ask(), &old, "while no daemon runs");
    world.a.start_again().unwrap_or_else(|error| panic!("{error:?}"));
    world.apply(&web);
    assert_from(connection.ask(), &old, "established before");
    for client in world.clients() {
        each(|family, transport, what| {
            ask_all(&client, transport, web.frontend(family, 80), &[&new], what);
        });
    }
}

#[test]
fn pods_that_appear_and_vanish_are_served_while_running() {
    if skipped() {
        return;
    }
    let world = World::new();
    let Servers { old, mut web, .. } = servers(&world, NodeName::B);
    for round in 0..3 {
        let pod = world.pod_without_hooks(&format!("pod{round}"), NodeName::A);
        pod.serve(8080).unwrap();
        web.set_endpoints([Endpoint::at(&old), Endpoint::at(&pod)]);
        world.apply(&web);
        each(|family, transport, what| {
            let to = web.frontend(family, 80);
            ask_all(&pod, transport, to, &[&old, &pod], &format!("{what} round {round}"));
        });
        web.set_endpoints([Endpoint::at(&old)]);
        world.apply(&web);
        world.lab.remove_pod(&pod).unwrap();
    }
    world.a.health().unwrap();
}

#[test]
fn a_service_that_is_removed_is_gone_and_can_come_back() {
    if skipped() {
        return;
    }
    let world = World::new();
    let Servers { old, web, .. } = servers(&world, NodeName::B);
    for _ in 0..2 {
        for client in world.clients() {
            each(|family, transport, what| {
                ask_all(&client, transport, web.frontend(family, 80), &[&old], what);
            });
        }
        web.remove().unwrap();
        world.wait_for_nothing();
        let quick = Asking { timeout_ms: 300, ..Asking::default() };
        for client in world.clients() {
            each(|family, transport, what| {
                let answer = client.ask_as(transport, web.frontend(family, 80), quick);
                assert!(answer.is_err(), "{what}: {answer:?}");
            });
        }
        world.apply(&web);
    }
}
