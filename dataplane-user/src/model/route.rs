//! What a table means: the route of a flow's first packet. Backends are held to this.
//!
//! The rules are kube-proxy's. They are written once more here, from what the objects say, and do
//! not use what [`super::PortState`] prepares for backends.

use std::net::IpAddr;

use super::{
    table::{Found, ServiceTable},
    types::{Family, FrontendKind, Placement, Protocol, TrafficPolicy},
    views,
};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A process in the host's network namespace.
    Host,
    /// A pod of this node.
    Pod,
    /// Another machine, and the pods of other nodes.
    Outside,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub scope: Scope,
    /// The client.
    pub source: IpAddr,
    /// Whom the client wants.
    pub destination: IpAddr,
    /// The port the client wants.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

/// When the client's address is replaced by this node's, so that answers come back through it.
///
/// Never for an endpoint at [`Placement::Host`]: its answers begin at this node anyway. And a
/// process of the host has one of the node's addresses already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Whatever endpoint is chosen.
    Always,
    /// If the endpoint chosen is the client itself.
    Hairpin,
}

/// Why nobody answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropCause {
    /// The traffic policy is `Local`, and only other nodes have endpoints: no answer says so, since
    /// a load balancer will find one of them.
    NoLocalEndpoint,
    /// The client is in none of the Service's source ranges.
    SourceNotAllowed,
}

/// An endpoint that may get the flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// The address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// Where it is.
    pub placement: Placement,
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// No Service's business.
    NotOurs,
    /// The client is told at once that nobody is there.
    Refused,
    /// The client hears nothing.
    Dropped(DropCause),
    /// Any of these endpoints, all equally likely; never empty.
    OneOf {
        /// Sorted.
        endpoints: Vec<Target>,
        /// When the source is replaced.
        masquerade: Masquerade,
        /// For how many seconds the client's next flows go to the same endpoint, as long as it is
        /// one of `endpoints`.
        affinity_s: Option<u32>,
    },
}

/// What the table says about a flow that begins with this packet.
pub fn route(table: &ServiceTable, packet: &Packet) -> Route {
    let Some(found) = frontend(table, packet) else {
        // Whoever connects to a cluster IP means its Service: other ports have nobody.
        return if table.is_cluster_ip(packet.destination) {
            Route::Refused
        } else {
            Route::NotOurs
        };
    };
    if !is_allowed(table, &found, packet.source) {
        return Route::Dropped(DropCause::SourceNotAllowed);
    }
    let policy = policy(&found, packet.scope);
    let endpoints: Vec<Target> = views::view(&found.candidates, policy)
        .into_iter()
        .map(|it| Target { address: it.address, port: it.port, placement: it.placement })
        .collect();
    if endpoints.is_empty() {
        let others_have_some = views::any(&found.candidates);
        return match policy {
            TrafficPolicy::Local if others_have_some => Route::Dropped(DropCause::NoLocalEndpoint),
            TrafficPolicy::Local | TrafficPolicy::Cluster => Route::Refused,
        };
    }
    let masquerade = masquerade(&found, packet.scope);
    Route::OneOf { endpoints, masquerade, affinity_s: found.affinity_s }
}

/// A frontend on exactly this address, else one on every address of the node.
fn frontend<'table>(table: &'table ServiceTable, packet: &Packet) -> Option<Found<'table>> {
    let Packet { scope, destination, port, protocol, .. } = *packet;
    // Loopback addresses are those of the host's own processes: other namespaces have theirs.
    if destination.is_loopback() && scope != Scope::Host {
        return None;
    }
    if destination.is_unspecified() {
        return None;
    }
    let exact = table.find(destination, port, protocol);
    exact.or_else(|| {
        let node = table.node();
        let is_node = destination.is_loopback() || node.addresses.contains(&destination);
        let is_served = is_node && node.serves_node_ports(destination);
        is_served.then(|| table.find(Family::of(destination).unspecified(), port, protocol))?
    })
}

/// Source ranges are a load balancer's: they hold for its addresses, whoever connects. A node that is
/// allowed and has a load balancer's address for its own may use that as its source.
fn is_allowed(table: &ServiceTable, found: &Found<'_>, source: IpAddr) -> bool {
    match (found.kind, found.source_ranges) {
        (FrontendKind::LoadBalancer, Some(ranges)) => {
            let holds = |address: IpAddr| ranges.iter().any(|range| range.contains(address));
            let is_own = |address: &&IpAddr| Family::of(**address) == Family::of(source);
            let node = || table.node().addresses.iter().filter(is_own).any(|own| holds(*own));
            holds(source) || (found.balancers.contains(&source) && node())
        }
        (FrontendKind::LoadBalancer, None)
        | (
            FrontendKind::ClusterIp
            | FrontendKind::NodePort
            | FrontendKind::ExternalIp
            | FrontendKind::HostPort,
            _,
        ) => true,
    }
}

/// The policy whose endpoints this client gets.
#[expect(clippy::match_same_arms, reason = "one arm per rule")]
fn policy(found: &Found<'_>, scope: Scope) -> TrafficPolicy {
    match (found.kind, scope) {
        (FrontendKind::ClusterIp, _) => found.internal,
        (FrontendKind::HostPort, _) => TrafficPolicy::Cluster,
        // On this node a client needs no load balancer that knows where endpoints are.
        (
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
            Scope::Pod | Scope::Host,
        ) => TrafficPolicy::Cluster,
        (
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
            Scope::Outside,
        ) => found.external,
    }
}

/// kube-proxy's matrix of clients, frontends and policies.
#[expect(clippy::match_same_arms, reason = "one arm per rule")]
fn masquerade(found: &Found<'_>, scope: Scope) -> Masquerade {
    match (found.kind, scope) {
        // Answers to this node's pods pass this node, where they are translated back. Others' need not.
        (FrontendKind::ClusterIp, Scope::Pod) => Masquerade::Hairpin,
        (FrontendKind::ClusterIp, Scope::Host | Scope::Outside) => Masquerade::Always,
        (FrontendKind::HostPort, _) => Masquerade::Hairpin,
        (
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
            Scope::Host,
        ) => Masquerade::Always,
        // `externalTrafficPolicy: Local` is there to keep the client's address.
        (
            FrontendKind::NodePort | FrontendKind::LoadBalancer | FrontendKind::ExternalIp,
            Scope::Pod | Scope::Outside,
        ) => match found.external {
            TrafficPolicy::Cluster => Masquerade::Always,
            TrafficPolicy::Local => Masquerade::Hairpin,
        },
    }
}
