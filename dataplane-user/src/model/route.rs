//! What a table means: the route of one packet. Backends are held to this.

use std::net::IpAddr;

use super::{
    table::ServiceTable,
    types::{Endpoint, Family, FrontendKind, Protocol},
};

/// Where a packet comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A process in the host's network namespace.
    Host,
    /// A pod of this node.
    Pod,
    /// Another machine.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Always: the client came through a node port.
    Always,
    /// If the endpoint chosen is the client itself.
    Hairpin,
}

/// What becomes of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// No Service's business.
    NotOurs,
    /// The client is told at once that nobody is there.
    Refused,
    /// Any of these endpoints, all equally likely; never empty.
    OneOf {
        /// Sorted.
        endpoints: Vec<Endpoint>,
        /// When the source is replaced.
        masquerade: Masquerade,
    },
}

/// What the table says about a flow that begins with this packet.
pub fn route(table: &ServiceTable, packet: &Packet) -> Route {
    let Packet { destination, port, protocol, .. } = *packet;
    if let Some(key) = table.owner(destination, port, protocol) {
        return to_one_of(table, &key, FrontendKind::ClusterIp);
    }
    if table.is_service_address(destination) {
        return Route::Refused;
    }
    // A loopback address is the host's own: other namespaces have theirs.
    let to_node = table.node().addresses.contains(&destination)
        || (destination.is_loopback() && packet.scope == Scope::Host);
    let any = Family::of(destination).unspecified();
    match table.owner(any, port, protocol).filter(|_| to_node) {
        Some(key) => to_one_of(table, &key, FrontendKind::NodePort),
        None => Route::NotOurs,
    }
}

fn to_one_of(table: &ServiceTable, key: &super::types::PortKey, through: FrontendKind) -> Route {
    let endpoints = table.port(key).map(|state| state.endpoints).unwrap_or_default();
    if endpoints.is_empty() {
        return Route::Refused;
    }
    let masquerade = match through {
        FrontendKind::ClusterIp => Masquerade::Hairpin,
        FrontendKind::NodePort
        | FrontendKind::LoadBalancer
        | FrontendKind::ExternalIp
        | FrontendKind::HostPort => Masquerade::Always,
    };
    Route::OneOf { endpoints, masquerade }
}
