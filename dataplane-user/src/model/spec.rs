//! What the table keeps of a Service and of a slice: small, and compared field by field.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::types::{Family, Protocol};

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

/// What the table keeps of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceSpec {
    pub(super) cluster4: Option<Ipv4Addr>,
    pub(super) cluster6: Option<Ipv6Addr>,
    /// Whether node ports are open in IPv4 and in IPv6.
    pub(super) families: [bool; 2],
    pub(super) publish_not_ready: bool,
    /// Seconds since 1970; 0 when the object does not say.
    pub(super) created: u32,
    pub(super) ports: Box<[PortSpec]>,
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

    pub(super) fn has_node_ports(&self, family: Family) -> bool {
        self.families[family as usize]
    }

    pub(super) fn serves(&self, family: Family) -> bool {
        self.cluster_ip(family).is_some() || self.has_node_ports(family)
    }
}

/// What the table keeps of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceSpec {
    pub(super) ports: Box<[SlicePort]>,
    pub(super) addresses: Addresses,
}

/// One port of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlicePort {
    pub(super) name: Arc<str>,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// The endpoints of a slice; bytes, since there are many of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    V4(Box<[([u8; 4], Condition)]>),
    V6(Box<[([u8; 16], Condition)]>),
}

impl Addresses {
    pub(super) fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (IpAddr, Condition)> {
        let (v4, v6): (&[_], &[_]) = match self {
            Self::V4(v4) => (v4, &[]),
            Self::V6(v6) => (&[], v6),
        };
        let v4 = v4.iter().map(|(octets, condition)| (IpAddr::from(*octets), *condition));
        let v6 = v6.iter().map(|(octets, condition)| (IpAddr::from(*octets), *condition));
        v4.chain(v6)
    }
}

/// What a slice says of one endpoint, in one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Condition(u8);

impl Condition {
    const READY: u8 = 1;
    const TERMINATING: u8 = 2;
    const THIS_NODE: u8 = 4;

    pub(super) fn new(ready: bool, terminating: bool, this_node: bool) -> Self {
        let bit = |set, bit| if set { bit } else { 0 };
        Self(
            bit(ready, Self::READY)
                | bit(terminating, Self::TERMINATING)
                | bit(this_node, Self::THIS_NODE),
        )
    }

    pub(super) fn this_node(self) -> bool {
        self.0 & Self::THIS_NODE != 0
    }

    /// Whether it takes new flows. A terminating pod is `ready` only if its Service publishes
    /// addresses that are not.
    pub(super) fn takes_flows(self, publish_not_ready: bool) -> bool {
        self.0 & Self::READY != 0 && (self.0 & Self::TERMINATING == 0 || publish_not_ready)
    }
}
