//! What iptables cannot express, and which services that concerns.

use crate::{
    backend::Limit,
    limits,
    model::{Family, FrontendAddress, PortKey, PortState},
};

/// Everything that is missing.
pub const LIMITS: &[Limit] = &[
    Limit { feature: limits::LOOPBACK6, why: LOOPBACK6 },
    Limit { feature: "session affinity of many clients", why: AFFINITY },
];

const LOOPBACK6: &str = "netfilter cannot send what a process addresses to ::1 to another machine; \
     127.0.0.1 and the node's other addresses serve";

const AFFINITY: &str = "`recent` keeps the last 100 clients of an endpoint (`ip_list_tot` of the \
     kernel module xt_recent); others get any endpoint again";

/// Said of a service port whose rules iptables does not take.
pub(super) const REFUSED: &str =
    "iptables refuses the rules of this port, and nobody is served; the log says which and why";

/// What concerns one service port.
pub(super) fn of(key: &PortKey, state: &PortState) -> Vec<&'static str> {
    let is_on_nodes =
        state.frontends.iter().any(|frontend| frontend.address == FrontendAddress::NodeAddresses);
    let mut limits = Vec::new();
    if key.family == Family::V6 && is_on_nodes {
        limits.push(LOOPBACK6);
    }
    if state.affinity_s.is_some() {
        limits.push(AFFINITY);
    }
    limits
}
