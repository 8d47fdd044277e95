//! Comparisons, and real connections in a network namespace of their own.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use super::{
    Counts, Finding, Shadowed,
    compare::{compare, is_to_node, packet},
};
use crate::{
    backend::{Backend as _, Desired, Node},
    conntrack::{Entry, Tuple, table::tests::alone},
    ebpf::simulate::Route,
    model::{
        Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortOwner,
        PortState, Protocol, Scope, Views,
    },
    nftables::Nftables,
};

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn entry(client: &str, to: &str, endpoint: &str, seen: &str) -> Entry {
    Entry {
        protocol: 6,
        original: Tuple { source: at(client), destination: at(to) },
        reply: Tuple { source: at(endpoint), destination: at(seen) },
        status: 0,
        timeout_s: 1,
        tcp_state: None,
        mark: 0,
    }
}

#[test]
fn each_kind_of_difference_is_told_apart() {
    let node = Node { addresses: [IpAddr::from([192, 0, 2, 1])].into(), ..Node::default() };
    let to = |endpoints: &[(&str, bool)]| Route::To {
        endpoints: endpoints.iter().map(|(text, replaced)| (at(text), *replaced)).collect(),
        affinity_s: None,
    };
    let (pod, vip, one, two) = ("10.1.0.2:4000", "10.96.0.1:80", "10.1.0.8:80", "10.1.0.9:80");
    let (masqueraded, port) = ("192.0.2.1:2000", "10.1.0.2:4001");
    let translated = entry(pod, vip, one, pod);
    let plain = entry(pod, vip, vip, pod);
    let cases = [
        (to(&[(one, false), (two, false)]), translated, Finding::Agrees),
        (to(&[(two, false)]), translated, Finding::Endpoint),
        (to(&[(one, true)]), translated, Finding::Masquerade),
        (to(&[(one, true)]), entry(pod, vip, one, masqueraded), Finding::Agrees),
        (to(&[(one, false)]), entry(pod, vip, one, masqueraded), Finding::Masquerade),
        (to(&[(one, false)]), entry(pod, vip, one, port), Finding::Agrees),
        (to(&[(one, false)]), plain, Finding::OnlyEbpf),
        (Route::NotAService, plain, Finding::NotAService),
        (Route::NotAService, translated, Finding::OnlyNetfilter),
        (Route::Refused, plain, Finding::Refused),
        (Route::Refused, translated, Finding::Refused),
    ];
    for (route, entry, finding) in cases {
        let packet = packet(&entry, Scope::Pod).unwrap();
        assert_eq!(compare(&route, &entry, &packet, &node), finding, "{route:?} {entry:?}");
    }
    // The host has one of the node's addresses, masqueraded or not.
    for (seen, finding) in [(masqueraded, Finding::Agrees), (pod, Finding::Masquerade)] {
        let entry = entry("192.0.2.1:4000", vip, one, seen);
        let packet = packet(&entry, Scope::Host).unwrap();
        assert_eq!(compare(&to(&[(one, true)]), &entry, &packet, &node), finding, "{seen}");
    }
    assert_eq!(packet(&Entry { protocol: 1, ..plain }, Scope::Pod), None);
}

#[test]
fn loopback_is_the_nodes_for_its_own_processes_only() {
    let node = Node {
        node_port_addresses: [IpAddr::from([192, 0, 2, 1])].into(),
        loopback: true,
        ..Node::default()
    };
    let is_to_node = |to: &str, scope| {
        is_to_node(&packet(&entry("10.1.0.2:1", to, to, "10.1.0.2:1"), scope).unwrap(), &node)
    };
    assert!(is_to_node("192.0.2.1:30080", Scope::Outside));
    assert!(is_to_node("127.0.0.1:30080", Scope::Host));
    assert!(!is_to_node("127.0.0.1:30080", Scope::Pod) && !is_to_node("192.0.2.2:1", Scope::Host));
}

struct Ports(BTreeMap<PortKey, PortState>);

impl Desired for Ports {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(self.0.keys().cloned())
    }
    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.0.get(key).cloned()
    }
}

fn key() -> PortKey {
    PortKey {
        namespace: "default".into(),
        service: "dns".into(),
        port: "".into(),
        family: Family::V4,
        owner: PortOwner::Service,
    }
}

fn state(endpoint: SocketAddr) -> PortState {
    PortState {
        frontends: vec![Frontend {
            address: FrontendAddress::Ip([10, 96, 0, 1].into()),
            port: 53,
            protocol: Protocol::Udp,
            kind: FrontendKind::ClusterIp,
        }],
        endpoints: vec![Endpoint {
            address: endpoint.ip(),
            port: endpoint.port(),
            placement: Placement::Remote,
            views: Views::Cluster,
        }],
        any_endpoint: true,
        ..PortState::default()
    }
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "{arguments:?}");
}

/// A datagram of a new socket reaches the endpoint; then the comparison counts one of this kind.
fn ask(endpoint: &UdpSocket, counts: &Counts, finding: Finding) {
    let before = counts.get(finding);
    let client = UdpSocket::bind("10.77.0.1:0").unwrap();
    client.send_to(b"question", "10.96.0.1:53").unwrap();
    endpoint.recv_from(&mut [0; 16]).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while counts.get(finding) == before {
        let rows: Vec<_> = counts.rows().filter(|(_, count)| *count > 0).collect();
        assert!(Instant::now() < until, "{finding:?}: {rows:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn real_connections_agree_until_a_difference_is_planted() {
    alone(|| {
        for address in ["10.77.0.1/32", "10.77.0.9/32"] {
            ip(&["addr", "add", address, "dev", "lo"]);
        }
        ip(&["route", "add", "10.96.0.0/16", "dev", "lo"]);
        let endpoint = UdpSocket::bind("10.77.0.9:0").unwrap();
        endpoint.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let state_now = state(endpoint.local_addr().unwrap());
        let counts = Counts::default();
        let mut backend = Shadowed::new(Nftables::new("shadow-test"), counts.clone());
        backend.observe().unwrap();
        let addresses = [[10, 77, 0, 1], [10, 77, 0, 9]].map(IpAddr::from).into();
        backend.set_node(&Node { addresses, ..Node::default() });
        backend.compile(&Ports([(key(), state_now)].into()));
        backend.apply(0).unwrap();
        // Differences right after a change do not count; planted ones shall.
        std::thread::sleep(Duration::from_millis(1100));
        ask(&endpoint, &counts, Finding::Agrees);
        let other = state(at("10.77.0.8:53"));
        backend.image().program.change(&key(), Some(&other)).unwrap();
        ask(&endpoint, &counts, Finding::Endpoint);
        backend.image().program.change(&key(), None).unwrap();
        ask(&endpoint, &counts, Finding::OnlyNetfilter);
        backend.image().changed = Instant::now() + Duration::from_mins(1);
        ask(&endpoint, &counts, Finding::Unsure);
        backend.remove().unwrap();
    });
}
