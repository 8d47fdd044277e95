//! What the table keeps of a Service and of a Pod: small, and compared field by field.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::types::{Cidr, Family, FrontendKind, Protocol, TrafficPolicy};

/// Both families, in order.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The unspecified address.
    pub const fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

/// `spec.trafficDistribution`, unless an annotation hands the hints to another controller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Distribution {
    /// Wherever the endpoint is.
    #[default]
    Anywhere,
    /// `PreferClose` and `PreferSameZone`.
    SameZone,
    /// `PreferSameNode`, which falls back to the zone.
    SameNode,
}

/// What the table keeps of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSpec {
    pub(super) cluster4: Option<Ipv4Addr>,
    pub(super) cluster6: Option<Ipv6Addr>,
    /// Whether it is a Service of IPv4 and of IPv6.
    pub(super) families: [bool; 2],
    pub(super) internal: TrafficPolicy,
    /// [`TrafficPolicy::Cluster`] for a Service that clients from outside cannot reach.
    pub(super) external: TrafficPolicy,
    pub(super) distribution: Distribution,
    /// Seconds since 1970; 0 when the object does not say.
    pub(super) created: u32,
    pub(super) ports: Box<[PortSpec]>,
    /// Nothing for most Services.
    pub(super) rare: Option<Box<RareSpec>>,
}

/// What few Services have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RareSpec {
    /// Addresses of load balancers; none of them twice.
    pub(super) load_balancers: Vec<IpAddr>,
    /// None of them twice, and none of those above.
    pub(super) external_ips: Vec<IpAddr>,
    /// Whom load balancer frontends serve: sorted, of both families.
    pub(super) source_ranges: Option<Vec<Cidr>>,
    /// Seconds for which a client stays with its endpoint.
    pub(super) affinity_s: Option<u32>,
    /// `healthCheckNodePort`; 0 when there is none.
    pub(super) health_port: u16,
}

/// One port of a Service. Names and (port, protocol) are unique in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortSpec {
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    /// 0 when there is none.
    pub(super) node_port: u16,
    pub(super) protocol: Protocol,
}

impl ServiceSpec {
    pub(super) fn cluster_ip(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.cluster4.map(IpAddr::V4),
            Family::V6 => self.cluster6.map(IpAddr::V6),
        }
    }

    pub(super) fn serves(&self, family: Family) -> bool {
        self.families[family as usize]
    }

    /// Every frontend that one port asks for: address (unspecified for a node port), port, kind.
    pub(super) fn frontends(
        &self,
        port: &PortSpec,
        family: Family,
    ) -> impl Iterator<Item = (IpAddr, u16, FrontendKind)> {
        let (number, node_port) = (port.port, port.node_port);
        let at = move |kind| move |address: IpAddr| (address, number, kind);
        let cluster = self.cluster_ip(family);
        let rare = self.rare.as_deref();
        let balancers = rare.into_iter().flat_map(|rare| rare.load_balancers.iter().copied());
        let external = rare.into_iter().flat_map(|rare| rare.external_ips.iter().copied());
        // An address is served once: as cluster IP, else with the source ranges of a load balancer.
        let others = balancers
            .map(at(FrontendKind::LoadBalancer))
            .chain(external.map(at(FrontendKind::ExternalIp)))
            .filter(move |(address, ..)| {
                Family::of(*address) == family && Some(*address) != cluster
            });
        let node = (node_port != 0 && self.serves(family))
            .then(|| (family.unspecified(), node_port, FrontendKind::NodePort));
        cluster.map(at(FrontendKind::ClusterIp)).into_iter().chain(others).chain(node)
    }

    /// Whether clients reach one port by another address than the cluster IP.
    pub(super) fn is_external(&self, port: &PortSpec, family: Family) -> bool {
        self.frontends(port, family).any(|(.., kind)| kind != FrontendKind::ClusterIp)
    }

    pub(super) fn affinity_s(&self) -> Option<u32> {
        self.rare.as_deref()?.affinity_s
    }

    /// Addresses of load balancers, in any family.
    pub(super) fn balancers(&self) -> &[IpAddr] {
        self.rare.as_deref().map_or(&[], |rare| &rare.load_balancers)
    }

    /// Whom load balancer frontends serve.
    pub(super) fn source_ranges(&self) -> Option<&[Cidr]> {
        self.rare.as_deref()?.source_ranges.as_deref()
    }

    /// `healthCheckNodePort`; 0 when there is none.
    pub(super) fn health_port(&self) -> u16 {
        self.rare.as_deref().map_or(0, |rare| rare.health_port)
    }
}

/// What the table keeps of a Pod of this node that has host ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSpec {
    pub(super) address4: Option<Ipv4Addr>,
    pub(super) address6: Option<Ipv6Addr>,
    /// Seconds since 1970; 0 when the object does not say.
    pub(super) created: u32,
    pub(super) ports: Box<[HostPort]>,
}

/// One host port of a Pod. Names are unique in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) name: Arc<str>,
    /// Unspecified: every address of its family. Nothing: every address of the node.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) container_port: u16,
    pub(super) protocol: Protocol,
}

impl PodSpec {
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        match family {
            Family::V4 => self.address4.map(IpAddr::V4),
            Family::V6 => self.address6.map(IpAddr::V6),
        }
    }
}

impl HostPort {
    /// Whether both would have the same frontend.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let at = |family| self.at(family).is_some_and(|at| other.at(family) == Some(at));
        (self.port, self.protocol) == (other.port, other.protocol) && FAMILIES.into_iter().any(at)
    }

    /// The address of its frontend in a family, unspecified for all of the node.
    pub(super) fn at(&self, family: Family) -> Option<IpAddr> {
        let at = self.ip.unwrap_or_else(|| family.unspecified());
        (Family::of(at) == family).then_some(at)
    }
}
