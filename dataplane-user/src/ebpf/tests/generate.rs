//! Service ports of every kind, changes of them, and packets that may or may not be for them.

use std::net::IpAddr;

use proptest::{collection::btree_set, prelude::*};

use super::{frontend, ip};
use crate::model::{
    Cidr, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Packet, Placement, PortKey,
    PortOwner, PortState, Protocol, Scope, TrafficPolicy, Views,
};

/// Ports with this number are a Pod's, all others a Service's.
const POD: u32 = 6;

fn any_of<T: Copy + std::fmt::Debug + 'static, const N: usize>(
    of: [T; N],
) -> impl Strategy<Value = T> {
    prop::sample::select(of.to_vec())
}

fn service_frontend(family: Family, protocol: Protocol) -> impl Strategy<Value = Frontend> {
    use FrontendKind::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    let kinds = any_of([ClusterIp, ClusterIp, NodePort, LoadBalancer, ExternalIp]);
    (kinds, 0u32..4, 80u16..82).prop_map(move |(kind, host, port)| {
        let address = frontend(family, host, port, protocol).address;
        match kind {
            NodePort => Frontend {
                address: FrontendAddress::NodeAddresses,
                port: 30_000 + port,
                protocol,
                kind,
            },
            ClusterIp | LoadBalancer | ExternalIp | FrontendKind::HostPort => {
                Frontend { address, port, protocol, kind }
            }
        }
    })
}

fn pod_frontend(family: Family, protocol: Protocol) -> impl Strategy<Value = Frontend> {
    (any::<bool>(), 80u16..82).prop_map(move |(everywhere, port)| {
        let address = if everywhere {
            FrontendAddress::NodeAddresses
        } else {
            frontend(family, 3, port, protocol).address
        };
        Frontend { address, port: 30_000 + port, protocol, kind: FrontendKind::HostPort }
    })
}

fn endpoint(family: Family) -> impl Strategy<Value = Endpoint> {
    let placements = any_of([Placement::Host, Placement::Local, Placement::Remote]);
    let views = any_of([Views::Cluster, Views::Both, Views::Local]);
    (0u32..6, placements, views).prop_map(move |(host, placement, views)| Endpoint {
        placement,
        views,
        ..super::endpoint(family, host)
    })
}

fn range(family: Family) -> impl Strategy<Value = Cidr> {
    let (network, host) = match family {
        Family::V4 => (8, 32),
        Family::V6 => (32, 128),
    };
    (any::<bool>(), 11u8..13, 0u32..6).prop_map(move |(whole, of, at)| Cidr {
        address: ip(family, of, if whole { 0 } else { at }),
        prefix_len: if whole { network } else { host },
    })
}

fn state(family: Family, protocol: Protocol, is_pod: bool) -> impl Strategy<Value = PortState> {
    let frontends = if is_pod {
        btree_set(pod_frontend(family, protocol), 1..3).boxed()
    } else {
        btree_set(service_frontend(family, protocol), 1..4).boxed()
    };
    let policy = || any_of([TrafficPolicy::Cluster, TrafficPolicy::Local]);
    let ranges = prop::option::weighted(0.3, btree_set(range(family), 0..3));
    let affinity_s = prop::option::weighted(0.3, 1u32..4);
    let endpoints = btree_set(endpoint(family), 0..5);
    (frontends, endpoints, policy(), policy(), any::<bool>(), affinity_s, ranges).prop_map(
        |(frontends, endpoints, internal, external, any_endpoint, affinity_s, ranges)| {
            let mut frontends: Vec<Frontend> = frontends.into_iter().collect();
            frontends.dedup_by_key(|f| (f.address, f.port, f.protocol));
            let mut endpoints: Vec<Endpoint> = endpoints.into_iter().collect();
            endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
            let source_ranges = ranges.map(|ranges| ranges.into_iter().collect());
            PortState {
                frontends,
                endpoints,
                internal,
                external,
                any_endpoint,
                affinity_s,
                source_ranges,
            }
        },
    )
}

/// A service port and what it should be from now on.
pub(crate) fn edit() -> impl Strategy<Value = (PortKey, Option<PortState>)> {
    (0..=POD, any::<bool>(), any::<bool>()).prop_flat_map(|(number, v4, tcp)| {
        let family = if v4 { Family::V4 } else { Family::V6 };
        let owner = if number == POD { PortOwner::Pod } else { PortOwner::Service };
        // A port has one protocol for good: it follows from the number.
        let protocol = if tcp == (number % 2 == 0) { Protocol::Tcp } else { Protocol::Udp };
        let key = PortKey { owner, ..super::key(number, family) };
        prop::option::weighted(0.8, state(family, protocol, number == POD))
            .prop_map(move |state| (key.clone(), state))
    })
}

/// Packets to everything that the strategies above could make a frontend, and more, each with
/// whether it is to an address of the node. Scopes and clients take turns; `turn` says who begins.
pub(crate) fn packets(turn: usize) -> Vec<(Packet, bool)> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (host, port) in (0..5).flat_map(|host| (79..83).map(move |port| (host, port))) {
                for (to_node, port) in [(false, port), (true, port), (true, 30_000 + port)] {
                    let (scope, source) = client(family, turn + all.len());
                    let destination = ip(family, 10, host);
                    all.push((Packet { scope, source, destination, port, protocol }, to_node));
                }
            }
        }
    }
    all
}

/// An endpoint or somebody else, anywhere.
fn client(family: Family, turn: usize) -> (Scope, IpAddr) {
    let scope = [Scope::Host, Scope::Pod, Scope::Outside][turn % 3];
    let (network, host) = [(11, 0), (12, 0), (11, 1), (12, 5), (13, 0), (11, 2), (11, 3)][turn % 7];
    (scope, ip(family, network, host))
}
