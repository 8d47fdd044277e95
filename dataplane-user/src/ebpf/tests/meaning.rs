//! What service ports mean, straight from their states: the judge of what is compiled from them.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use dataplane_common::Reason;

use crate::{
    ebpf::{Desired, simulate::Route},
    model::{
        Cidr, Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Packet, Placement,
        PortState, Scope, TrafficPolicy, Views,
    },
};

/// The route of a packet. Exact addresses come before node addresses, those before cluster IPs as a
/// whole, and of two ports that want the same the one that sorts first has it.
pub(crate) fn meaning(desired: &dyn Desired, packet: &Packet, to_node: bool) -> Route {
    let exact = FrontendAddress::Ip(packet.destination);
    let all = frontends(desired, packet);
    let find = |address| {
        let same = |(f, _): &&(Frontend, PortState)| {
            (f.address, f.port, f.protocol) == (address, packet.port, packet.protocol)
        };
        all.iter().find(same)
    };
    if let Some((frontend, state)) = find(exact) {
        return through(frontend.kind, state, packet);
    }
    if let Some((frontend, state)) = find(FrontendAddress::NodeAddresses).filter(|_| to_node) {
        return through(frontend.kind, state, packet);
    }
    let is_cluster_ip = |(at, (frontend, _)): (usize, &(Frontend, PortState))| {
        let same = |other: &Frontend| {
            (other.address, other.port, other.protocol)
                == (frontend.address, frontend.port, frontend.protocol)
        };
        let lost = all[..at].iter().any(|(other, _)| same(other));
        frontend.address == exact && frontend.kind == FrontendKind::ClusterIp && !lost
    };
    let refuses = all.iter().enumerate().any(is_cluster_ip);
    if refuses { Route::Refused } else { Route::NotAService }
}

/// Every frontend of the packet's family, those first that win.
fn frontends(desired: &dyn Desired, packet: &Packet) -> Vec<(Frontend, PortState)> {
    let family = Family::of(packet.destination);
    let mut all = Vec::new();
    for key in desired.keys().filter(|key| key.family == family) {
        let Some(state) = desired.port(&key) else { continue };
        all.extend(state.frontends.iter().map(|frontend| (*frontend, state.clone())));
    }
    all
}

fn through(kind: FrontendKind, state: &PortState, packet: &Packet) -> Route {
    if kind == FrontendKind::LoadBalancer
        && let Some(ranges) = &state.source_ranges
        && !ranges.iter().any(|range| contains(range, packet.source))
    {
        return Route::Dropped(Reason::SourceNotAllowed);
    }
    let policy = match (kind, packet.scope) {
        (FrontendKind::ClusterIp, _) => Some(state.internal),
        (FrontendKind::HostPort, _) => None,
        (_, Scope::Host | Scope::Pod) => Some(TrafficPolicy::Cluster),
        (_, Scope::Outside) => Some(state.external),
    };
    let is_in_view = |endpoint: &&Endpoint| match policy {
        None => true,
        Some(TrafficPolicy::Cluster) => endpoint.views != Views::Local,
        Some(TrafficPolicy::Local) => endpoint.views != Views::Cluster,
    };
    let masquerade = |endpoint: &Endpoint| {
        let is_hairpin = endpoint.address == packet.source;
        endpoint.placement != Placement::Host && (is_hairpin || masquerades(kind, state, packet))
    };
    let endpoints: BTreeMap<SocketAddr, bool> = state
        .endpoints
        .iter()
        .filter(is_in_view)
        .map(|endpoint| (SocketAddr::new(endpoint.address, endpoint.port), masquerade(endpoint)))
        .collect();
    match (endpoints.is_empty(), policy) {
        (true, Some(TrafficPolicy::Local)) if state.any_endpoint => {
            Route::Dropped(Reason::NoLocalEndpoint)
        }
        (true, _) => Route::Refused,
        (false, _) => Route::To { endpoints, affinity_s: state.affinity_s },
    }
}

/// kube-proxy's table; a process of the host has an address of the node by itself.
fn masquerades(kind: FrontendKind, state: &PortState, packet: &Packet) -> bool {
    match (packet.scope, kind) {
        (Scope::Host, _) | (Scope::Outside, FrontendKind::ClusterIp) => true,
        (Scope::Pod, FrontendKind::ClusterIp)
        | (Scope::Pod | Scope::Outside, FrontendKind::HostPort) => false,
        (
            Scope::Pod | Scope::Outside,
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
        ) => state.external == TrafficPolicy::Cluster,
    }
}

fn contains(range: &Cidr, address: IpAddr) -> bool {
    let bits = |address| match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    let ((range_bits, range_max), (bits, max)) = (bits(range.address), bits(address));
    let mask = u128::MAX.checked_shl(128 - u32::from(range.prefix_len)).unwrap_or(0);
    range_max == max && (range_bits ^ bits) & mask == 0
}
