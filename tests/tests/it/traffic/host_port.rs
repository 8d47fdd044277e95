//! `hostPort` of pods: the node's ports lead to them, and clients keep their addresses.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hashplane_tests::{
    Place,
    agent::protocol::Transport,
    lab::{Addresses, Family, NodeName},
    manifests::HostPorts,
};

use crate::support::{World, ask, each, skipped, until, ways};

/// Outside of the range of node ports.
const HOST_PORT: u16 = 8080;

/// A pod on node A that serves on 80, with a host port.
fn pod(world: &World) -> Arc<Place> {
    let pod = world.server("pod", NodeName::A, 80);
    let ports =
        HostPorts::of(&pod).port(Transport::Tcp, HOST_PORT, 80).port(Transport::Udp, HOST_PORT, 80);
    world.wait_for(&ports.write(world.lab.manifests()).unwrap());
    // A Pod comes after the mark of its file.
    let to = world.host(NodeName::A).addresses().port(Family::V6, HOST_PORT);
    until("the host port serves", || world.lab.outside().ask(Transport::Tcp, to).ok());
    pod
}

#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    if skipped() {
        return;
    }
    for way in ways() {
        let world = World::with(way);
        let pod = pod(&world);
        let node = world.host(NodeName::A).addresses();
        let there = world.pod_without_hooks("there", NodeName::B);
        let [hooks, packets, host] = world.inside();
        for client in [&hooks, &packets, &host, &there, &world.lab.outside()] {
            each(|family, transport, what| {
                let answer = ask(client, transport, node.port(family, HOST_PORT), what);
                assert_eq!(answer.seen.pod, pod.name(), "{what}");
                let own = client.addresses().of(family);
                assert_eq!(answer.seen.client.ip(), own, "{what} {}: kept", client.name());
            });
        }
    }
}

#[test]
fn a_pod_reaches_itself_by_its_host_port() {
    if skipped() {
        return;
    }
    let world = World::new();
    let pod = world.pod_without_hooks("pod", NodeName::A);
    pod.serve(80).unwrap();
    let ports =
        HostPorts::of(&pod).port(Transport::Tcp, HOST_PORT, 80).port(Transport::Udp, HOST_PORT, 80);
    world.wait_for(&ports.write(world.lab.manifests()).unwrap());
    let node = world.host(NodeName::A).addresses();
    let to = node.port(Family::V4, HOST_PORT);
    until("the host port serves", || world.lab.outside().ask(Transport::Tcp, to).ok());
    each(|family, transport, what| {
        let answer = ask(&pod, transport, node.port(family, HOST_PORT), what);
        assert_eq!(answer.seen.client.ip(), node.of(family), "{what}: masqueraded: {answer:?}");
    });
}

#[test]
fn a_host_port_with_a_host_ip_is_on_that_address_only() {
    if skipped() {
        return;
    }
    let world = World::new();
    let more = Addresses {
        v4: Ipv4Addr::new(192, 168, 77, 211),
        v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x211),
    };
    world.lab.add_node_address(NodeName::A, more).unwrap();
    let host = world.host(NodeName::A);
    host.serve(HOST_PORT).unwrap();
    let pod = world.server("pod", NodeName::A, 80);
    let mut ports = HostPorts::of(&pod);
    for family in Family::ALL {
        for transport in Transport::ALL {
            ports = ports.port_on(more.of(family), transport, HOST_PORT, 80);
        }
    }
    world.wait_for(&ports.write(world.lab.manifests()).unwrap());
    let outside = world.lab.outside();
    let to = more.port(Family::V6, HOST_PORT);
    until("the host port serves", || outside.ask(Transport::Tcp, to).ok());
    each(|family, transport, what| {
        let answer = ask(&outside, transport, more.port(family, HOST_PORT), what);
        assert_eq!(answer.seen.pod, "pod", "{what}");
        let answer = ask(&outside, transport, host.addresses().port(family, HOST_PORT), what);
        assert_eq!(answer.seen.pod, "nodeA", "{what}: the node's own");
    });
}

#[test]
fn a_host_port_ends_with_its_pod() {
    if skipped() {
        return;
    }
    let world = World::new();
    let pod = pod(&world);
    let outside = world.lab.outside();
    let host = world.host(NodeName::A);
    host.serve(HOST_PORT).unwrap();
    let ended = HostPorts::of(&pod).port(Transport::Tcp, HOST_PORT, 80).phase("Succeeded");
    world.wait_for(&ended.write(world.lab.manifests()).unwrap());
    for family in Family::ALL {
        let to = host.addresses().port(family, HOST_PORT);
        until("the port is the node's again", || {
            let answer = outside.ask(Transport::Tcp, to).ok()?;
            (answer.seen.pod == "nodeA").then_some(())
        });
    }
}

#[test]
fn a_service_wins_over_a_pod_that_asks_for_the_same_port() {
    if skipped() {
        return;
    }
    let world = World::new();
    let [near, far] = world.servers();
    let port = 30_080;
    let ports =
        HostPorts::of(&near).port(Transport::Tcp, port, 8080).port(Transport::Tcp, port + 1, 8080);
    world.wait_for(&ports.write(world.lab.manifests()).unwrap());
    let web = world.lab.service("web").node_port("http", 80, 8080, port).endpoint(&far);
    world.apply(&web);
    let node = world.host(NodeName::A).addresses();
    let outside = world.lab.outside();
    for family in Family::ALL {
        let ask = |port| ask(&outside, Transport::Tcp, node.port(family, port), "dispute").seen.pod;
        until("the pod has its other port", || {
            outside.ask(Transport::Tcp, node.port(family, port + 1)).ok()
        });
        assert_eq!((ask(port), ask(port + 1)), ("far".to_owned(), "near".to_owned()));
    }
    web.remove().unwrap();
    until("the pod has the port that the Service left", || {
        let answer = outside.ask(Transport::Tcp, node.port(Family::V4, port)).ok()?;
        (answer.seen.pod == "near").then_some(())
    });
}
