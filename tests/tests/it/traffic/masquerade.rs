//! Whose address endpoints see: pod, node, outside by cluster IP, node port, load balancer, under
//! each policy (kube-proxy's 27 cells); and that nothing is damaged on the way.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hashplane_tests::{
    Place, Service,
    agent::protocol::{Size, Transport},
    lab::{Asking, Family, NodeName, slowed_ms},
};

use crate::support::{World, ask_all, each, longest_datagram, skipped};

const NODE_PORT: u16 = 30_080;
const MEGABYTE: usize = 1 << 20;

/// Which frontend a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

const WAYS: [By; 3] = [By::ClusterIp, By::NodePort, By::LoadBalancer];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Policy {
    Cluster,
    ExternalLocal,
    InternalLocal,
}

fn balancer(family: Family) -> IpAddr {
    match family {
        Family::V4 => [198, 51, 100, 10].into(),
        Family::V6 => [0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10].into(),
    }
}

/// A Service that can be reached in every way, from outside through node A.
fn service(world: &World, policy: Policy) -> Service {
    world.lab.route_cluster_ips_from_outside().unwrap();
    for family in Family::ALL {
        world.lab.route_from_outside(balancer(family), NodeName::A).unwrap();
    }
    let web = world.lab.service("web").node_port("http", 80, 8080, NODE_PORT);
    let web = web.load_balancer(Family::ALL.map(balancer));
    match policy {
        Policy::Cluster => web,
        Policy::ExternalLocal => web.spec("externalTrafficPolicy", "Local"),
        Policy::InternalLocal => web.spec("internalTrafficPolicy", "Local"),
    }
}

fn frontend(world: &World, web: &Service, by: By, family: Family) -> SocketAddr {
    match by {
        By::ClusterIp => web.frontend(family, 80),
        By::NodePort => world.host(NodeName::A).addresses().port(family, NODE_PORT),
        By::LoadBalancer => (balancer(family), 80).into(),
    }
}

/// Checks the nine cells of one policy.
pub(crate) fn check(policy: Policy, arguments: &[&str]) {
    let world = World::with(arguments);
    let [near, far] = world.servers();
    let web = service(&world, policy).endpoint(&near).endpoint(&far);
    world.apply(&web);
    let node = world.host(NodeName::A);
    let [hooks, packets] = world.clients();
    let outside = world.lab.outside();
    for pod in [&near, &far, &hooks, &packets] {
        world.lab.whole_checksums(pod).unwrap();
    }
    for by in WAYS {
        let outside_is_masqueraded = by == By::ClusterIp || policy != Policy::ExternalLocal;
        let pod_is_masqueraded = by != By::ClusterIp && policy != Policy::ExternalLocal;
        let source =
            |client: &Arc<Place>, masqueraded| Arc::clone(if masqueraded { &node } else { client });
        let cells = [
            (&packets, source(&packets, pod_is_masqueraded)),
            // Sockets are translated only where their packets keep their source.
            (&hooks, source(&hooks, pod_is_masqueraded)),
            (&node, Arc::clone(&node)),
            (&outside, source(&outside, outside_is_masqueraded)),
        ];
        for (client, source) in cells {
            let is_outside = client.name() == outside.name();
            let only_near = match policy {
                Policy::Cluster => false,
                Policy::ExternalLocal => is_outside && by != By::ClusterIp,
                Policy::InternalLocal => by == By::ClusterIp,
            };
            let servers = if only_near { vec![&near] } else { vec![&near, &far] };
            each(|family, transport, what| {
                let what = format!("{what} {policy:?} {by:?} from {}", client.name());
                let to = frontend(&world, &web, by, family);
                for answer in ask_all(client, transport, to, &servers, &what) {
                    let seen = answer.seen.client.ip();
                    assert_eq!(seen, source.addresses().of(family), "{what}: {answer:?}");
                    assert_eq!(answer.seen.local.port(), 8080, "{what}");
                }
                check_large(client, transport, to, &what);
            });
        }
    }
    for place in [&near, &far, &hooks, &packets, &node, &outside, &world.host(NodeName::B)] {
        assert_eq!(
            place.corrupted().unwrap(),
            0,
            "{policy:?}: wrong checksums at {}",
            place.name()
        );
    }
}

/// The longest packets that the way takes cross it whole, in both directions.
#[track_caller]
fn check_large(client: &Place, transport: Transport, to: SocketAddr, what: &str) {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let size = match transport {
        Transport::Tcp | Transport::Sctp => Size { up: MEGABYTE, down: MEGABYTE },
        Transport::Udp => longest_datagram(family),
    };
    let asking = Asking { size, timeout_ms: 5000, ..Asking::default() };
    // Two or more endpoints: ask until both have had their turn, most likely.
    for _ in 0..3 {
        let answer = client.ask_as(transport, to, asking);
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {to} with {size:?}: {error}"));
        assert_eq!((answer.seen.received, answer.received), (size.up, size.down), "{what}");
        // A megabyte over a path that loses every large packet still arrives, slowly.
        assert!(answer.elapsed_ms < slowed_ms(3000), "{what}: {} ms", answer.elapsed_ms);
    }
}

#[test]
fn both_policies_cluster() {
    if !skipped() {
        check(Policy::Cluster, &[]);
    }
}

#[test]
fn external_policy_local() {
    if !skipped() {
        check(Policy::ExternalLocal, &[]);
    }
}

#[test]
fn internal_policy_local() {
    if !skipped() {
        check(Policy::InternalLocal, &[]);
    }
}
