//! SCTP: real associations by cluster IP and by node port, where the kernel has SCTP.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use hashplane_tests::{
    Place,
    agent::protocol::{Size, Transport},
    lab::{Asking, Family, NodeName},
    skip,
};

use crate::support::{World, ask_all, skipped};

const PORT: u16 = 3868;
const NODE_PORT: u16 = 30_386;
const TARGET_PORT: u16 = 13_868;
/// More than a packet holds, each way.
const SEVERAL_PACKETS: Size = Size { up: 8_000, down: 8_000 };

fn server(world: &World, name: &str, node: NodeName) -> Arc<Place> {
    let pod = world.pod(name, node);
    for family in Family::ALL {
        pod.serve_at(Transport::Sctp, pod.addresses().port(family, TARGET_PORT)).unwrap();
    }
    pod
}

#[test]
fn sctp_reaches_both_endpoints_by_cluster_ip_and_by_node_port() {
    if skip::is_skipped(skip::why_no_sctp()) || skipped() {
        return;
    }
    let world = World::new();
    let servers = [server(&world, "near", NodeName::A), server(&world, "far", NodeName::B)];
    let servers = servers.each_ref();
    let diameter = world.lab.service("diameter");
    let diameter = diameter.node_port_of(Transport::Sctp, "sctp", (PORT, TARGET_PORT), NODE_PORT);
    let [near, far] = servers;
    let diameter = diameter.endpoint(near).endpoint(far);
    world.apply(&diameter);
    let pod = world.pod_without_hooks("client", NodeName::A);
    for family in Family::ALL {
        let what = format!("{family:?} from a pod");
        let to = diameter.frontend(family, PORT);
        for answer in ask_all(&pod, Transport::Sctp, to, &servers, &what) {
            let seen = &answer.seen;
            assert_eq!(seen.client.ip(), pod.addresses().of(family), "{what}: {answer:?}");
            assert_eq!(seen.local.port(), TARGET_PORT, "{what}: {answer:?}");
        }
        for node in [NodeName::A, NodeName::B] {
            check_from_outside(&world, node, family, &servers);
        }
    }
    check_long_association(&pod, diameter.frontend(Family::V6, PORT));
}

/// The outside client reaches everybody through a node, which takes its place.
fn check_from_outside(world: &World, node: NodeName, family: Family, servers: &[&Arc<Place>]) {
    let node = world.host(node);
    let what = format!("{family:?} from outside through {}", node.name());
    let to = node.addresses().port(family, NODE_PORT);
    for answer in ask_all(&world.lab.outside(), Transport::Sctp, to, servers, &what) {
        let seen = &answer.seen;
        assert_eq!(seen.client.ip(), node.addresses().of(family), "{what}: {answer:?}");
        assert_eq!(seen.local.port(), TARGET_PORT, "{what}: {answer:?}");
    }
}

/// One association stays with its endpoint, and its checksums are right at any length.
fn check_long_association(pod: &Arc<Place>, to: SocketAddr) {
    let asking = Asking { size: SEVERAL_PACKETS, ..Asking::default() };
    let association = pod.associate(to, asking).unwrap();
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let answer = association.ask().unwrap();
        assert_eq!(answer.received, SEVERAL_PACKETS.down, "{answer:?}");
        seen.insert(answer.seen.pod);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}
