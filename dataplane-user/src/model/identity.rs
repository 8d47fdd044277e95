//! Which node this is.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

use super::types::Cidr;

/// Kubernetes' default of `--service-node-port-range`.
pub const NODE_PORTS_DEFAULT: RangeInclusive<u16> = 30000..=32767;

/// What a table has to know about the node it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The name of the Node object; slices name it in `endpoints[].nodeName`.
    pub name: Arc<str>,
    /// Every address of this node, of both families.
    pub addresses: BTreeSet<IpAddr>,
    /// The zone it is in. A Node object that says otherwise wins.
    pub zone: Option<Arc<str>>,
    /// Frontends on node addresses are only on those in one of these ranges. In a family without any,
    /// they are on all addresses, and for the node's own processes on loopback addresses too.
    pub node_port_addresses: Vec<Cidr>,
    /// Node ports outside of this range are not served.
    pub node_ports: RangeInclusive<u16>,
}

impl NodeIdentity {
    /// A node with the default range of node ports.
    pub fn new(name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            name: name.into(),
            addresses: addresses.into_iter().collect(),
            zone: None,
            node_port_addresses: Vec::new(),
            node_ports: NODE_PORTS_DEFAULT,
        }
    }

    /// Whether frontends on node addresses are on this one, if it is the node's.
    pub fn serves_node_ports(&self, address: IpAddr) -> bool {
        let family = |range: &&Cidr| range.address.is_ipv4() == address.is_ipv4();
        let mut ranges = self.node_port_addresses.iter().filter(family).peekable();
        ranges.peek().is_none() || ranges.any(|range| range.contains(address))
    }
}
