//! What follows from the state of a service port for one of its frontends.

use std::net::SocketAddr;

use dataplane_common::Live;

use super::{
    server::{Scheduler, Scheduling, Server, Virtual},
    treatment::{Treatment, views},
};
use crate::{
    backend::Departed,
    model::{Cidr, Endpoint, FrontendKind, PortState, Protocol, TrafficPolicy, Views},
};

/// What the kernel should hold for one frontend on one address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Derived {
    /// What becomes of new connections; nothing if it is nobody's frontend.
    pub(super) treatment: Option<Treatment>,
    /// The virtual server found by address.
    pub(super) server: Option<Server>,
    /// The one found by mark, for clients on this node.
    pub(super) marked: Option<Server>,
    /// Clients that are served, if not all are.
    pub(super) ranges: Vec<Cidr>,
}

impl Derived {
    pub(super) fn new(state: &PortState, kind: FrontendKind, wanted: Virtual) -> Self {
        let treatment = Treatment::of(state, kind);
        let (by_address, by_mark) = views(state, kind);
        let ranges = state.source_ranges.as_ref().filter(|_| treatment.ranged);
        let persistent =
            Scheduling { scheduler: Scheduler::RoundRobin, persistence_s: state.affinity_s };
        Self {
            treatment: Some(treatment),
            server: by_address.map(|policy| server(state, policy, persistent)),
            marked: by_mark
                .map(|policy| server(state, policy, marked_scheduling(state, policy, wanted.port))),
            ranges: disjoint(ranges.map(Vec::as_slice).unwrap_or_default()),
        }
    }
}

/// Ranges without those that lie in others: a set takes no two that overlap.
fn disjoint(ranges: &[Cidr]) -> Vec<Cidr> {
    let is_in_other = |range: &Cidr| {
        let wider = |other: &Cidr| other.prefix_len < range.prefix_len;
        ranges.iter().any(|other| wider(other) && other.contains(range.address))
    };
    ranges.iter().filter(|range| !is_in_other(range)).copied().collect()
}

fn server(state: &PortState, policy: TrafficPolicy, scheduling: Scheduling) -> Server {
    let address = |endpoint: &Endpoint| SocketAddr::new(endpoint.address, endpoint.port);
    Server { scheduling, destinations: state.view(policy).map(address).collect() }
}

/// A persistent server that is found by mark leaves the port as it is (`ip_vs_sched_persist` compares
/// it with the server's own, which is 0). If endpoints have another one, a hash of the client's
/// address takes the place of persistence.
fn marked_scheduling(state: &PortState, policy: TrafficPolicy, port: u16) -> Scheduling {
    let same_port = state.view(policy).all(|endpoint| endpoint.port == port);
    match state.affinity_s {
        Some(_) if !same_port => Scheduling { scheduler: Scheduler::Maglev, persistence_s: None },
        persistence_s => Scheduling { scheduler: Scheduler::RoundRobin, persistence_s },
    }
}

/// Endpoints that take new flows in fewer views than before.
pub(super) fn departed(
    before: &PortState,
    after: Option<&PortState>,
    protocol: Protocol,
) -> Vec<Departed> {
    let bits = |views| match views {
        Views::Cluster => Live::CLUSTER,
        Views::Both => Live::CLUSTER | Live::LOCAL,
        Views::Local => Live::LOCAL,
    };
    let now = |old: &Endpoint| {
        let all = after.map(|state| state.endpoints.as_slice()).unwrap_or_default();
        all.iter()
            .filter(|it| (it.address, it.port) == (old.address, old.port))
            .fold(0, |all, it| all | bits(it.views))
    };
    let left = |old: &Endpoint| {
        let (was, is) = (bits(old.views), now(old));
        let views = if is == 0 { Live::CLUSTER | Live::LOCAL } else { was & !is };
        (views != 0).then_some(Departed {
            address: old.address,
            port: old.port,
            protocol,
            id: 0,
            views,
        })
    };
    before.endpoints.iter().filter_map(left).collect()
}
