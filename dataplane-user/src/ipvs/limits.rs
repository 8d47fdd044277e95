//! What IPVS cannot express, in words for people.

use crate::{
    backend::{Limit, Node},
    limits,
    model::{FrontendAddress, FrontendKind, PortState, Scope},
};

use super::treatment::views;

const LOOPBACK: &str = "node ports are not on loopback addresses: IPVS does not send packets with a loopback \
                        source to other machines or pods";
const PORTS: &str = "other ports of load-balancer and external IPs are refused, not left alone";
const AFFINITY: &str = "session affinity holds for each address of the service by itself";
pub(super) const HASHED: &str =
    "session affinity of clients on this node to an external address hangs on a hash";

/// What no table can make IPVS do.
pub const LIMITS: &[Limit] = &[
    Limit { feature: limits::LOOPBACK4, why: LOOPBACK },
    Limit { feature: limits::LOOPBACK6, why: LOOPBACK },
    Limit {
        feature: "other ports of load-balancer and external IPs",
        why: "refused, not left alone: IPVS serves addresses that are the node's own, so that the node's sockets on all \
              addresses would answer there; pings are answered by the node",
    },
    Limit {
        feature: limits::AFFINITY_OF_FRONTENDS,
        why: "not there: each address and port is a virtual server, and persistence is a virtual server's",
    },
    Limit {
        feature: limits::AFFINITY_TIMEOUT,
        why: "begins when the kernel forgets the client's last connection: for TCP two minutes after its end",
    },
    Limit {
        feature: "session affinity of clients on this node to an external address",
        why: "hangs on a hash: with externalTrafficPolicy Local they need a virtual server found by firewall mark, \
              where persistence forgets the endpoints' port; it has no timeout, and some clients \
              move when endpoints change",
    },
    Limit {
        feature: limits::CLIENT_PORT,
        why: "one of the two gets no answers: IPVS tells connections apart by client and endpoint, so that answers \
              go to either; a client that lets the kernel choose its ports seldom meets this",
    },
    Limit {
        feature: "endpoints chosen at random",
        why: "they take turns: IPVS has no random scheduler; over all clients each endpoint gets as many",
    },
    Limit {
        feature: "two instances in one network namespace",
        why: "not possible: virtual servers have no name by which two instances could tell theirs apart",
    },
];

/// What holds for one service port.
pub(super) fn of(state: &PortState, node: &Node) -> Vec<&'static str> {
    let mut words = Vec::new();
    let on = |address| move |it: &&crate::model::Frontend| it.address == address;
    let node_ports = state.frontends.iter().filter(on(FrontendAddress::NodeAddresses)).count();
    if node_ports > 0 && node.loopback {
        words.push(LOOPBACK);
    }
    let is_outer = |kind| match kind {
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp => true,
        FrontendKind::ClusterIp | FrontendKind::NodePort | FrontendKind::HostPort => false,
    };
    if state.frontends.iter().any(|it| is_outer(it.kind)) {
        words.push(PORTS);
    }
    if state.affinity_s.is_some() {
        if state.frontends.len() > 1 || node_ports > 0 && node.node_port_addresses.len() > 1 {
            words.push(AFFINITY);
        }
        let is_hashed = |it: &crate::model::Frontend| {
            let marked = views(state, it.kind).1;
            marked.is_some_and(|policy| state.view(policy).any(|to| to.port != it.port))
        };
        if state.frontends.iter().any(is_hashed) {
            words.push(HASHED);
        }
    }
    words
}

/// Why packets like this one cannot be served as the table wants it.
pub(super) const fn loopback(scope: Scope) -> Option<&'static str> {
    match scope {
        Scope::Host => Some(LOOPBACK),
        Scope::Pod | Scope::Outside => None,
    }
}

/// Why packets to an address that is no cluster IP are refused.
pub(super) const OTHER_PORTS: &str = PORTS;
