//! ICMP errors find their way back through a translation: path MTU, and closed ports.

use std::{net::SocketAddr, sync::Arc};

use dataplane_user::backend::Mode;
use hashplane_tests::{
    Daemon, Place,
    agent::protocol::{Size, Transport},
    lab::{Asking, Family, NodeName},
};

use crate::support::{World, ask, assert_refused, mode, skipped, until};

const NODE_PORT: u16 = 30_080;
pub(crate) const NARROW_MTU: u32 = 1300;
/// A datagram that every link takes but the narrow one.
const DATAGRAM: Size = Size { up: 1400, down: 0 };
/// Enough segments to fill a congestion window several times.
pub(crate) const TRANSFER: usize = 400_000;

/// Waits until a node has counted a translated error at a hook, where the backend counts packets.
#[track_caller]
fn assert_errors(daemon: &Daemon, hook: &str) {
    if mode() == Mode::Ebpf {
        let labels = [&*format!("hook=\"{hook}\""), "reason=\"icmp_error\""];
        until("errors are counted", || {
            (daemon.metric("hashplane_outcomes_total", &labels).ok()? > 0.0).then_some(())
        });
    }
}

/// What `from` believes to be the MTU of its path to `to`; `None` if it has learned none.
pub(crate) fn learned_mtu(from: &Place, to: SocketAddr) -> Option<u32> {
    let output = from.command("ip").args(["route", "get", &to.ip().to_string()]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let mut words = text.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().map(|mtu| mtu.parse().unwrap())
}

/// A datagram that is too long fails with the error, and its sender knows the path's MTU.
#[track_caller]
fn check_learns(client: &Arc<Place>, to: SocketAddr) {
    let what = format!("{} to {to}", client.name());
    assert_eq!(learned_mtu(client, to), None, "{what}");
    let asking = Asking { size: DATAGRAM, ..Asking::default() };
    let failure = client.ask_as(Transport::Udp, to, asking).unwrap_err();
    assert!(failure.text.contains("Message too long"), "{what}: {failure:?}");
    assert_eq!(learned_mtu(client, to), Some(NARROW_MTU), "{what}");
}

/// Bytes in both directions, in segments that do not fit at first.
#[track_caller]
pub(crate) fn check_transfers(client: &Arc<Place>, to: SocketAddr, size: Size) {
    let asking = Asking { size, timeout_ms: 5000, ..Asking::default() };
    let answer = client.ask_as(Transport::Tcp, to, asking);
    let answer = answer.unwrap_or_else(|error| panic!("{} to {to}: {error}", client.name()));
    assert_eq!(answer.peer, to);
}

#[test]
fn a_pod_learns_the_mtu_of_the_path_behind_a_cluster_ip() {
    if skipped() {
        return;
    }
    let world = World::new();
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").port("http", 80, 8080).endpoint(&far);
    world.apply(&web);
    let [hooks, packets] = world.clients();
    world.lab.narrow_between_nodes(NARROW_MTU).unwrap();
    for family in Family::ALL {
        let to = web.frontend(family, 80);
        check_learns(&packets, to);
        // With another client the first segments are still too long.
        for client in
            [&hooks, &world.pod_without_hooks(&format!("{family:?}").to_lowercase(), NodeName::A)]
        {
            check_transfers(client, to, Size { up: TRANSFER, down: TRANSFER });
        }
    }
    assert_errors(&world.a, "pod_egress");
}

#[test]
fn a_client_outside_learns_the_mtu_of_the_path_behind_a_node_port() {
    if skipped() {
        return;
    }
    let world = World::new();
    let far = world.server("far", NodeName::B, 8080);
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    world.apply(&web.endpoint(&far));
    let (outside, pod) = (world.lab.outside(), world.clients()[1].clone());
    world.lab.narrow_between_nodes(NARROW_MTU).unwrap();
    let node = world.host(NodeName::A).addresses();
    for family in Family::ALL {
        let to = node.port(family, NODE_PORT);
        ask(&outside, Transport::Udp, to, "the path works");
        for client in [&outside, &pod] {
            check_learns(client, to);
            check_transfers(client, to, Size { up: TRANSFER, down: TRANSFER });
        }
    }
    assert_errors(&world.a, "nic_ingress");
}

#[test]
fn an_endpoint_learns_the_mtu_of_the_path_to_a_client_outside() {
    if skipped() {
        return;
    }
    let world = World::new();
    let near = world.server("near", NodeName::A, 8080);
    let far = world.server("far", NodeName::B, 8080);
    let host = world.host(NodeName::A);
    host.serve(8080).unwrap();
    let outside = world.lab.outside();
    world.lab.narrow_to_outside(NARROW_MTU).unwrap();
    for (number, endpoint) in (1_u8..).zip([&near, &far, &host]) {
        let name = endpoint.name().to_lowercase();
        let node_port = NODE_PORT + u16::from(number);
        let web = world.lab.service(&name).number(number);
        let web = web.node_port("http", 80, 8080, node_port);
        world.apply(&web.endpoint(endpoint));
        for family in Family::ALL {
            let to = host.addresses().port(family, node_port);
            check_transfers(&outside, to, Size { up: 10, down: TRANSFER });
        }
    }
    assert_errors(&world.a, "nic_ingress");
}

#[test]
fn a_closed_udp_port_of_an_endpoint_refuses_at_once() {
    if skipped() {
        return;
    }
    let world = World::new();
    // Nobody serves on the port.
    let [near, far] =
        [("near", NodeName::A), ("far", NodeName::B)].map(|(name, node)| world.pod(name, node));
    let outside = world.lab.outside();
    let node = world.host(NodeName::A).addresses();
    for (number, endpoint) in (1_u8..).zip([&near, &far]) {
        let node_port = NODE_PORT + u16::from(number);
        let web = world.lab.service(endpoint.name()).number(number);
        let web = web.node_port("http", 80, 8080, node_port).endpoint(endpoint);
        world.apply(&web);
        for family in Family::ALL {
            for client in world.clients() {
                for to in [web.frontend(family, 80), node.port(family, node_port)] {
                    let what = format!("{} to {to}", client.name());
                    assert_refused(client.ask(Transport::Udp, to), &what);
                }
            }
            let to = node.port(family, node_port);
            assert_refused(outside.ask(Transport::Udp, to), &format!("outside to {to}"));
        }
    }
    assert_errors(&world.a, "nic_ingress");
}
