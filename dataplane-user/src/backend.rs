//! What the loop asks of a backend, and what it tells: eBPF, nftables, iptables and IPVS alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    ops::RangeInclusive,
};

use crate::model::{PortKey, PortState, Protocol, ServiceTable};

/// The mechanism that translates service traffic on this node.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Socket hooks, TC and XDP programs over hash maps.
    Ebpf,
    /// nftables maps, through netlink.
    Nftables,
    /// iptables rules, through `iptables-restore`.
    Iptables,
    /// IPVS virtual servers, with nftables for what IPVS cannot say.
    Ipvs,
}

impl Mode {
    /// All of them, in the order in which `auto` picks.
    pub const ALL: [Self; 4] = [Self::Ebpf, Self::Nftables, Self::Ipvs, Self::Iptables];

    /// As flags, files and metrics write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
        }
    }

    /// The mode of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a backend could not do what it was asked to; the chain of sources says it in full.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the node should do; the table of the model.
pub trait Desired {
    /// Every service port, sorted.
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_>;
    /// What to do for one of them.
    fn port(&self, key: &PortKey) -> Option<PortState>;
}

/// What of the node itself rules have to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Every address of the node, without loopback ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Those of them that serve frontends on every node address.
    pub node_port_addresses: BTreeSet<IpAddr>,
    /// Whether the loopback addresses serve those too, for the node's own processes.
    pub loopback: bool,
    /// Names of the devices by which pods of this node send. All other packets that arrive come
    /// from outside.
    pub pod_links: BTreeSet<String>,
}

/// How many entries an apply wrote and deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries written.
    pub written: usize,
    /// Entries deleted.
    pub deleted: usize,
}

/// An endpoint that no longer takes flows, at all or in some views.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Departed {
    /// Its address.
    pub address: IpAddr,
    /// Its target port.
    pub port: u16,
    /// The protocol of its service port.
    pub protocol: Protocol,
    /// The identity it had, as in `LIVE`.
    pub id: u32,
    /// The views that it left: bits of [`dataplane_common::Live`], all of them when it is gone.
    pub views: u32,
}

/// One service port, as `hashplane services` and the metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number in frontends and flows.
    pub number: u32,
    /// Which port of which service; `None` for one found in the kernel that nobody has claimed yet.
    pub key: Option<PortKey>,
    /// How many frontends it has.
    pub frontends: usize,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// A service port found no room; its last good state, if it had one, stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot fit port '{}' of service {}/{} into map {map}: it holds {max} entries at most",
    key.port, key.namespace, key.service
)]
pub struct CapacityError {
    /// The port.
    pub key: PortKey,
    /// The map that is full.
    pub map: &'static str,
    /// How many entries the map holds.
    pub max: u32,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in use; those which rest before they are used again count.
    pub used: usize,
    /// Entries it can hold.
    pub max: usize,
}

/// What has to be in the configuration for the maps to work. It is told before they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Answers that leave by a NIC have to be looked up there.
    pub nic_replies: bool,
    /// Ports of frontends on every node address that are no node ports, from the first to the last.
    pub host_ports: Option<RangeInclusive<u16>>,
}

impl Needs {
    /// What either of them needs.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let host_ports = match (&self.host_ports, &other.host_ports) {
            (Some(a), Some(b)) => Some(*a.start().min(b.start())..=*a.end().max(b.end())),
            (range, None) | (None, range) => range.clone(),
        };
        Self { nic_replies: self.nic_replies || other.nic_replies, host_ports }
    }
}

/// What a regular look at the kernel found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upkeep {
    /// Flows that are tracked, two entries each.
    pub flow_entries: usize,
    /// Entries that were not as this process had left them; they are pending now.
    pub drifted: usize,
}

/// An entry in which the kernel and the program differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Drift {
    /// Whose entry it is; `None` for what belongs to no service port.
    pub key: Option<PortKey>,
    /// What differs, in words.
    pub what: String,
}

/// Something of a Service that a backend cannot do; `docs/modes.md` lists them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What is missing, in the words of `docs/services.md`.
    pub feature: &'static str,
    /// Why, and what happens instead.
    pub why: &'static str,
}

/// One way to make the kernel do what a table says.
///
/// The calls come in this order: [`Self::observe`] until it succeeds, [`Self::set_node`] and
/// [`Self::compile`] once, then [`Self::change`], [`Self::set_node`] and [`Self::apply`] as events
/// come. Only `observe`, `apply`, `upkeep` and `remove` touch the kernel; the others are pure. After
/// an error what is left stays pending, and calling `apply` again goes on from there.
pub trait Backend: Send {
    /// Which one it is.
    fn mode(&self) -> Mode;
    /// Reads back what the kernel holds; what is found there is kept, changed or removed by the
    /// first apply. Nothing is written.
    fn observe(&mut self) -> Result<(), Error>;
    /// Makes the program right for this node.
    fn set_node(&mut self, node: &Node);
    /// Makes the program right for the whole table.
    fn compile(&mut self, table: &dyn Desired);
    /// Makes the program right for one service port; `None` when it is gone. Costs O(change).
    fn change(&mut self, key: &PortKey, state: Option<&PortState>);
    /// Frees what was given back and has rested; says whether there is more room now.
    fn reclaim(&mut self, _now_ms: u64) -> bool {
        false
    }
    /// Tries again those who found no room.
    fn retry(&mut self, _table: &dyn Desired) {}
    /// Whether [`Self::reclaim`] has to be called again later.
    fn is_resting(&self) -> bool {
        false
    }
    /// How many entries may differ from the kernel's.
    fn pending(&self) -> usize;
    /// In how many entries the kernel, as [`Self::observe`] has just found it, differs from the
    /// program, and at most `max` of them in words. Nothing is written.
    fn drift(&self, max: usize) -> (usize, Vec<Drift>);
    /// Makes the kernel hold what the program says: make before break.
    fn apply(&mut self, now_ms: u64) -> Result<Applied, Error>;
    /// Looks after what the kernel does by itself: expires flows, finds what others changed.
    fn upkeep(&mut self) -> Result<Upkeep, Error>;
    /// Endpoints that left with the last apply and whose sockets nobody has looked after.
    fn take_departed(&mut self) -> Vec<Departed> {
        Vec::new()
    }
    /// What the configuration has to offer before the next apply.
    fn needs(&self) -> Needs {
        Needs::default()
    }
    /// Every service port in the program.
    fn services(&self) -> Vec<ServicePort>;
    /// Service ports that found no room.
    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError>;
    /// What this backend cannot do for service ports that it serves otherwise, in words.
    fn limits(&self) -> Option<&BTreeMap<PortKey, Vec<&'static str>>> {
        None
    }
    /// Frontends that more than one service port wants.
    fn contested(&self) -> usize {
        0
    }
    /// How full what it uses is; nothing where there is no bound.
    fn fill(&self) -> Vec<Fill> {
        Vec::new()
    }
    /// Removes everything that it put into the kernel. Twice is once.
    fn remove(&mut self) -> Result<(), Error>;
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn mode(&self) -> Mode {
        (**self).mode()
    }
    fn observe(&mut self) -> Result<(), Error> {
        (**self).observe()
    }
    fn set_node(&mut self, node: &Node) {
        (**self).set_node(node);
    }
    fn compile(&mut self, table: &dyn Desired) {
        (**self).compile(table);
    }
    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        (**self).change(key, state);
    }
    fn reclaim(&mut self, now_ms: u64) -> bool {
        (**self).reclaim(now_ms)
    }
    fn retry(&mut self, table: &dyn Desired) {
        (**self).retry(table);
    }
    fn is_resting(&self) -> bool {
        (**self).is_resting()
    }
    fn pending(&self) -> usize {
        (**self).pending()
    }
    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        (**self).drift(max)
    }
    fn apply(&mut self, now_ms: u64) -> Result<Applied, Error> {
        (**self).apply(now_ms)
    }
    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        (**self).upkeep()
    }
    fn take_departed(&mut self) -> Vec<Departed> {
        (**self).take_departed()
    }
    fn needs(&self) -> Needs {
        (**self).needs()
    }
    fn services(&self) -> Vec<ServicePort> {
        (**self).services()
    }
    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        (**self).left_out()
    }
    fn limits(&self) -> Option<&BTreeMap<PortKey, Vec<&'static str>>> {
        (**self).limits()
    }
    fn contested(&self) -> usize {
        (**self).contested()
    }
    fn fill(&self) -> Vec<Fill> {
        (**self).fill()
    }
    fn remove(&mut self) -> Result<(), Error> {
        (**self).remove()
    }
}

impl Desired for ServiceTable {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(Self::keys(self).into_iter())
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        Self::port(self, key)
    }
}
