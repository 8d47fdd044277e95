//! Which endpoints a traffic policy gives: kube-proxy's `CategorizeEndpoints`, in its words.

use std::net::IpAddr;

use super::types::{Endpoint, Placement, TrafficPolicy, Views};

/// An endpoint of one service port that may take flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) placement: Placement,
    /// Its slice says that it takes flows.
    pub(super) ready: bool,
    /// It leaves, but still answers: for when nobody is ready (KEP-1669).
    pub(super) fallback: bool,
    /// It is on this node.
    pub(super) local: bool,
    /// Whether its hints name this node; `None` without hints for nodes.
    pub(super) node_hint: Option<bool>,
    /// Whether its hints name this node's zone; `None` without hints for zones.
    pub(super) zone_hint: Option<bool>,
}

/// The endpoints that a client gets under a traffic policy.
pub(super) fn view(candidates: &[Candidate], policy: TrafficPolicy) -> Vec<&Candidate> {
    let near = |candidate: &&Candidate| match policy {
        TrafficPolicy::Cluster => true,
        TrafficPolicy::Local => candidate.local,
    };
    let ready: Vec<&Candidate> =
        candidates.iter().filter(|candidate| candidate.ready).filter(near).collect();
    if ready.is_empty() {
        return candidates.iter().filter(|candidate| candidate.fallback).filter(near).collect();
    }
    match policy {
        TrafficPolicy::Cluster => closest(ready),
        TrafficPolicy::Local => ready,
    }
}

/// Whether there is an endpoint anywhere, on whatever node.
pub(super) fn any(candidates: &[Candidate]) -> bool {
    candidates.iter().any(|candidate| candidate.ready || candidate.fallback)
}

/// Those for this node, else those for this zone, else all. Hints count only if every ready
/// endpoint has them, since half of them would leave the other endpoints without clients.
fn closest(ready: Vec<&Candidate>) -> Vec<&Candidate> {
    let hints: [fn(&Candidate) -> Option<bool>; 2] =
        [|candidate| candidate.node_hint, |candidate| candidate.zone_hint];
    for hint in hints {
        let all = ready.iter().all(|candidate| hint(candidate).is_some());
        let is_ours = |candidate: &&Candidate| hint(candidate) == Some(true);
        if all && ready.iter().any(is_ours) {
            return ready.into_iter().filter(is_ours).collect();
        }
    }
    ready
}

/// Every candidate that is in one of the views that are used, and in which.
pub(super) fn endpoints(
    candidates: &[Candidate],
    uses_cluster: bool,
    uses_local: bool,
) -> Vec<Endpoint> {
    let of = |uses, policy| if uses { view(candidates, policy) } else { Vec::new() };
    let cluster = of(uses_cluster, TrafficPolicy::Cluster);
    let local = of(uses_local, TrafficPolicy::Local);
    // Both are in the order of the candidates, so that one pass finds who is in which.
    let (mut cluster, mut local) = (cluster.into_iter().peekable(), local.into_iter().peekable());
    let mut endpoints = Vec::new();
    for candidate in candidates {
        let is_next = |of: &mut std::iter::Peekable<std::vec::IntoIter<&Candidate>>| {
            of.next_if(|next| std::ptr::eq(*next, candidate)).is_some()
        };
        let views = match (is_next(&mut cluster), is_next(&mut local)) {
            (true, true) => Views::Both,
            (true, false) => Views::Cluster,
            (false, true) => Views::Local,
            (false, false) => continue,
        };
        let Candidate { address, port, placement, .. } = *candidate;
        endpoints.push(Endpoint { address, port, placement, views });
    }
    endpoints
}
