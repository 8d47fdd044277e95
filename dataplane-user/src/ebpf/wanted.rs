//! What the state of a service port asks of one family: frontends, endpoints and clients as the maps
//! know them.

use dataplane_common::{
    Endpoint, EndpointId, Frontend, FrontendKey, FrontendKind, SCTP, SourceKey, TCP, UDP,
};

use super::half::{Claim, octets};
use crate::model::{self, FrontendAddress, Placement, PortState, Protocol, TrafficPolicy, Views};

/// The endpoints of a service port in the order of its block: those of the cluster-wide view alone,
/// those of both views, those of the local view alone. Each part is sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints<const N: usize> {
    /// All of them, without identities.
    pub(crate) all: Vec<Endpoint<N>>,
    /// How many, from the first one on, are in the cluster-wide view.
    pub(crate) cluster: u32,
    /// How many, from the first one on, are not in the local view.
    pub(crate) local: u32,
}

/// The number of a protocol.
pub(crate) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => TCP,
        Protocol::Udp => UDP,
        Protocol::Sctp => SCTP,
    }
}

/// What part of an object a frontend comes from, as the maps have it.
pub(crate) const fn kind(kind: model::FrontendKind) -> FrontendKind {
    match kind {
        model::FrontendKind::ClusterIp => FrontendKind::ClusterIp,
        model::FrontendKind::NodePort => FrontendKind::NodePort,
        model::FrontendKind::LoadBalancer => FrontendKind::LoadBalancer,
        model::FrontendKind::ExternalIp => FrontendKind::ExternalIp,
        model::FrontendKind::HostPort => FrontendKind::HostPort,
    }
}

/// The frontends of a state in the family with `N` bytes: sorted, each key once. Their bits are all
/// that the frontend's value says beside slots and numbers.
pub(crate) fn claims<const N: usize>(state: &PortState) -> Vec<Claim<N>> {
    let claim = |frontend: &model::Frontend| {
        let addr = match frontend.address {
            FrontendAddress::Ip(ip) => octets(ip)?,
            FrontendAddress::NodeAddresses => [0; N],
        };
        let key = FrontendKey::new(addr, frontend.port, number(frontend.protocol));
        Some(Claim { key, flags: flags::<N>(state, frontend.kind) })
    };
    let mut claims: Vec<Claim<N>> = state.frontends.iter().filter_map(claim).collect();
    claims.sort_unstable();
    claims.dedup_by_key(|claim| claim.key);
    claims
}

/// The bits of a frontend's value.
fn flags<const N: usize>(state: &PortState, of: model::FrontendKind) -> u32 {
    let mut flags = kind(of).flags();
    let (inside, outside) = match of {
        model::FrontendKind::ClusterIp => {
            flags |= Frontend::MASQUERADE_OUTSIDE;
            (state.internal, state.internal)
        }
        model::FrontendKind::NodePort
        | model::FrontendKind::LoadBalancer
        | model::FrontendKind::ExternalIp => {
            if state.external == TrafficPolicy::Cluster {
                flags |= Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
            }
            (TrafficPolicy::Cluster, state.external)
        }
        // Its endpoints are in both views.
        model::FrontendKind::HostPort => (TrafficPolicy::Cluster, TrafficPolicy::Cluster),
    };
    let drops = state.any_endpoint && !has_local::<N>(state);
    if inside == TrafficPolicy::Local {
        flags |= Frontend::LOCAL_INSIDE | if drops { Frontend::DROP_INSIDE } else { 0 };
    }
    if outside == TrafficPolicy::Local {
        flags |= Frontend::LOCAL_OUTSIDE | if drops { Frontend::DROP_OUTSIDE } else { 0 };
    }
    if state.affinity_s.is_some() {
        flags |= Frontend::AFFINITY;
    }
    if of == model::FrontendKind::LoadBalancer && state.source_ranges.is_some() {
        flags |= Frontend::SOURCE_RANGES;
    }
    flags
}

fn has_local<const N: usize>(state: &PortState) -> bool {
    let is_local = |endpoint: &model::Endpoint| match endpoint.views {
        Views::Both | Views::Local => octets::<N>(endpoint.address).is_some(),
        Views::Cluster => false,
    };
    state.endpoints.iter().any(is_local)
}

/// The endpoints of a state in the family with `N` bytes, each once. Those of a view that none of its
/// `claims` leads to are left out: no map would tell the next process of them.
pub(crate) fn endpoints<const N: usize>(state: &PortState, claims: &[Claim<N>]) -> Endpoints<N> {
    const LOCAL: u32 = Frontend::LOCAL_INSIDE | Frontend::LOCAL_OUTSIDE;
    let has_cluster = claims.iter().any(|claim| claim.flags & LOCAL != LOCAL);
    let has_local = claims.iter().any(|claim| claim.flags & LOCAL != 0);
    // All clients of a host port get all endpoints of the pod.
    let is_host_port = claims.iter().any(|claim| claim.kind() == Some(FrontendKind::HostPort));
    let views = |views: Views| match (views, has_cluster, has_local) {
        _ if is_host_port => Some(Views::Cluster),
        (Views::Both, true, true) => Some(Views::Both),
        (Views::Cluster | Views::Both, true, _) => Some(Views::Cluster),
        (Views::Local | Views::Both, _, true) => Some(Views::Local),
        (Views::Cluster, false, _) | (Views::Local | Views::Both, _, false) => None,
    };
    let endpoint = |endpoint: &model::Endpoint| {
        let flags = match endpoint.placement {
            Placement::Host => Endpoint::<N>::HOST,
            Placement::Local => Endpoint::<N>::LOCAL,
            Placement::Remote => 0,
        };
        let (addr, id) = (octets(endpoint.address)?, EndpointId::NONE);
        Some((views(endpoint.views)?, Endpoint::new(addr, endpoint.port, flags, id)))
    };
    let mut all: Vec<(Views, Endpoint<N>)> = state.endpoints.iter().filter_map(endpoint).collect();
    let name = |endpoint: &Endpoint<N>| (endpoint.addr(), endpoint.port(), endpoint.flags());
    all.sort_unstable_by_key(|(_, endpoint)| name(endpoint));
    all.dedup_by_key(|(_, endpoint)| (endpoint.addr(), endpoint.port()));
    all.sort_by_key(|(views, _)| *views);
    let until = |last: Views| all.partition_point(|(views, _)| *views <= last);
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let (cluster, local) = (count(until(Views::Both)), count(until(Views::Cluster)));
    Endpoints { all: all.into_iter().map(|(_, endpoint)| endpoint).collect(), cluster, local }
}

/// The clients that the load balancer frontends of a port serve: sorted, each range once.
pub(crate) fn sources<const N: usize>(state: &PortState, service: u32) -> Vec<SourceKey<N>> {
    let range = |cidr: &model::Cidr| {
        let prefix_len = u32::from(cidr.prefix_len);
        let fits = prefix_len as usize <= 8 * N;
        fits.then_some(SourceKey::range(service, octets::<N>(cidr.address)?, prefix_len))
    };
    let has_load_balancer =
        state.frontends.iter().any(|f| f.kind == model::FrontendKind::LoadBalancer);
    let ranges = state.source_ranges.iter().flatten().filter(|_| has_load_balancer);
    let mut sources: Vec<SourceKey<N>> = ranges.filter_map(range).collect();
    sources.sort_unstable();
    sources.dedup();
    sources
}
