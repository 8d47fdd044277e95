//! The words of the table: service ports, frontends, endpoints.

use std::{net::IpAddr, sync::Arc};

/// An IP family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A transport protocol that services use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One port of one Service in one family. Its frontends share one set of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Namespace of the Service.
    pub namespace: Arc<str>,
    /// Name of the Service.
    pub service: Arc<str>,
    /// Name of the port; empty for the only port of a Service.
    pub port: Arc<str>,
    /// The family.
    pub family: Family,
}

/// Where clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendAddress {
    /// One address.
    Ip(IpAddr),
    /// Every address of this node, in the family of the port's key.
    NodeAddresses,
}

/// What part of a Service a frontend comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

/// Address, port and protocol that clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub address: FrontendAddress,
    /// The port.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// Where it comes from; NodePort traffic is masqueraded.
    pub kind: FrontendKind,
}

/// Where an endpoint is, seen from this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Placement {
    /// The address is this node's own (a pod with `hostNetwork`).
    Host,
    /// A pod on this node.
    Local,
    /// Anywhere else.
    Remote,
}

/// A pod's address and target port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The target port.
    pub port: u16,
    /// Where it is.
    pub placement: Placement,
}

/// What the node should do for one [`PortKey`]: both lists are sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// Where clients connect; never empty.
    pub frontends: Vec<Frontend>,
    /// Who takes new flows; empty means the frontends refuse.
    pub endpoints: Vec<Endpoint>,
}
