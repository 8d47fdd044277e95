//! Links and addresses of this node, as they come and go.

pub mod classify;
pub mod cookie;
pub mod node_ports;
pub mod observe;
pub mod pattern;
pub mod ports;
pub mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

pub use classify::classify;
pub use node_ports::NodePortAddresses;
pub use pattern::Patterns;

/// What a device is to the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The host's end of a pod's link.
    PodLink,
    /// A device to the outside.
    Nic,
}

/// How the XDP program of a device runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpAttached {
    /// In the driver.
    Driver,
    /// In the network stack.
    Generic,
    /// On the card, or in several places at once.
    Other,
}

/// A device that gets programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Whether it is one end of a veth pair. What XDP sends back on one is lost unless the other
    /// end runs XDP too.
    pub veth: bool,
}

/// The node's devices and addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Devices {
    /// Devices that get programs, by index.
    pub devices: BTreeMap<u32, Device>,
    /// Addresses that clients may use as the node's.
    pub node_addresses: BTreeSet<IpAddr>,
    /// Those of them that serve node ports.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Source of masqueraded IPv4 packets.
    pub masquerade4: Option<Ipv4Addr>,
    /// Source of masqueraded IPv6 packets.
    pub masquerade6: Option<Ipv6Addr>,
}

/// Which devices get programs, and which addresses masquerade.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Names of pod links; they win over `nics`.
    pub pod_links: Patterns,
    /// Names of NICs.
    pub nics: Patterns,
    /// Also every device that carries a default route, and those with the usual names of NICs.
    pub nics_auto: bool,
    /// The node's own choice of masquerade addresses, at most one per family is used.
    pub node_ips: Vec<IpAddr>,
    /// Which addresses serve node ports.
    pub node_ports: NodePortAddresses,
}

/// Why the devices of this node are unknown or not the ones asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] std::io::Error),
    /// A dump.
    #[error("cannot list the node's {what}")]
    Dump {
        /// Links, addresses or routes.
        what: &'static str,
        /// What netlink said.
        #[source]
        source: Box<rtnetlink::Error>,
    },
    /// A name without wildcards that no device has.
    #[error("there is no interface {name}, which {flag} names")]
    NoInterface {
        /// The name.
        name: String,
        /// The flag it came from.
        flag: &'static str,
    },
    /// A chosen masquerade address that the node does not have.
    #[error("{address}, which --node-ip names, is not an address of this node")]
    NotOurAddress {
        /// The address.
        address: IpAddr,
    },
    /// A kernel setting.
    #[error("cannot read {path}")]
    Setting {
        /// The file below `/proc`.
        path: &'static str,
        /// What the file system said.
        #[source]
        source: std::io::Error,
    },
    /// The cookie of the network namespace.
    #[error("cannot read the cookie of this network namespace")]
    Cookie(#[source] std::io::Error),
}
