//! Which node this is.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive, sync::Arc};

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
            node_ports: NODE_PORTS_DEFAULT,
        }
    }
}
