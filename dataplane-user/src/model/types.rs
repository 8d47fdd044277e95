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
    /// SCTP.
    Sctp,
}

/// Whose endpoints clients get: `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPolicy {
    /// All of the cluster's.
    #[default]
    Cluster,
    /// Those of this node.
    Local,
}

/// The views in which an endpoint takes new flows; at least one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Views {
    /// Only that of [`TrafficPolicy::Cluster`].
    Cluster,
    /// Both.
    Both,
    /// Only that of [`TrafficPolicy::Local`].
    Local,
}

/// Some addresses of one family: those that share their first `prefix_len` bits with `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    /// An address whose other bits are zero.
    pub address: IpAddr,
    /// How many bits count.
    pub prefix_len: u8,
}

/// The kind of object that a service port comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortOwner {
    /// A Service.
    #[default]
    Service,
    /// A Pod with host ports.
    Pod,
}

/// One port of one Service (or Pod with host ports) in one family. Its frontends share one set of
/// endpoints.
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
    /// What kind of object `service` names.
    pub owner: PortOwner,
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
    /// `status.loadBalancer.ingress[].ip`, unless its `ipMode` is `Proxy`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.containers[].ports[].hostPort` of a Pod.
    HostPort,
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
    /// Where it comes from.
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
    /// In which views it takes new flows.
    pub views: Views,
}

/// What the node should do for one [`PortKey`]: both lists are sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortState {
    /// Where clients connect; never empty.
    pub frontends: Vec<Frontend>,
    /// Who takes new flows, in any view.
    pub endpoints: Vec<Endpoint>,
    /// Which view clients of the cluster IPs get, wherever they are.
    pub internal: TrafficPolicy,
    /// Which view clients from outside get of all other frontends; clients on this node get that of
    /// [`TrafficPolicy::Cluster`].
    pub external: TrafficPolicy,
    /// Whether any node has an endpoint: a view without endpoints drops then, and refuses otherwise.
    pub any_endpoint: bool,
    /// Seconds for which a client stays with its endpoint after its last new flow.
    pub affinity_s: Option<u32>,
    /// Clients that load balancer frontends serve: sorted, of this family; `None` means all.
    pub source_ranges: Option<Vec<Cidr>>,
}
