//! What the state of a service port asks of one family: frontends and endpoints as the maps know them.

use dataplane_common::{Endpoint, EndpointId, Frontend, FrontendKey, SCTP, TCP, UDP};

use super::half::{Claim, octets};
use crate::model::{self, FrontendAddress, FrontendKind, Placement, PortState, Protocol};

/// The frontends of a state in the family with `N` bytes: sorted, each key once.
pub(crate) fn claims<const N: usize>(state: &PortState) -> Vec<Claim<N>> {
    let claim = |frontend: &model::Frontend| {
        let addr = match frontend.address {
            FrontendAddress::Ip(ip) => octets(ip)?,
            FrontendAddress::NodeAddresses => [0; N],
        };
        let protocol = match frontend.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
            Protocol::Sctp => SCTP,
        };
        let flags = match frontend.kind {
            FrontendKind::ClusterIp => 0,
            FrontendKind::NodePort
            | FrontendKind::LoadBalancer
            | FrontendKind::ExternalIp
            | FrontendKind::HostPort => Frontend::MASQUERADE_INSIDE,
        };
        Some(Claim { key: FrontendKey::new(addr, frontend.port, protocol), flags })
    };
    let mut claims: Vec<Claim<N>> = state.frontends.iter().filter_map(claim).collect();
    claims.sort_unstable();
    claims.dedup_by_key(|claim| claim.key);
    claims
}

/// The endpoints of a state in the family with `N` bytes, without identities: sorted, each once.
pub(crate) fn wanted_endpoints<const N: usize>(state: &PortState) -> Vec<Endpoint<N>> {
    let endpoint = |endpoint: &model::Endpoint| {
        let flags = match endpoint.placement {
            Placement::Host => Endpoint::<N>::HOST,
            Placement::Local => Endpoint::<N>::LOCAL,
            Placement::Remote => 0,
        };
        Some(Endpoint::new(octets(endpoint.address)?, endpoint.port, flags, EndpointId::NONE))
    };
    let mut endpoints: Vec<Endpoint<N>> = state.endpoints.iter().filter_map(endpoint).collect();
    endpoints.sort_unstable_by_key(|endpoint| (endpoint.addr(), endpoint.port(), endpoint.flags()));
    endpoints.dedup_by_key(|endpoint| (endpoint.addr(), endpoint.port()));
    endpoints
}
