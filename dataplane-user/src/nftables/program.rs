//! What the kernel's tables should hold, as plain data, and how it changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    change::{change, is_known, of_family},
    edits::{Edits, SetId},
    half::{Half, LOOPBACK_NETWORK, device},
    treatment::{AMONG_MAX, Place},
};
use crate::{
    backend::{CapacityError, Departed, Desired, Limit, Node, ServicePort},
    limits,
    model::{Family, Frontend, FrontendAddress, PortKey, PortState},
};

/// The bit of the mark that says "masquerade" unless another is chosen: kube-proxy's.
pub const MASQUERADE_BIT: u32 = 0x4000;

/// What both tables should hold, and what of it the kernel may not hold yet.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) v4: Half<4>,
    pub(super) v6: Half<16>,
    /// Every address of the node: packets to these stay here.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Whether processes of the node may use its loopback addresses for node ports.
    loopback: bool,
    /// IPv6 service ports on every address of the node.
    on_node6: BTreeSet<PortKey>,
    limits: BTreeMap<PortKey, Vec<&'static str>>,
    left_out: BTreeMap<PortKey, CapacityError>,
    departed: Vec<Departed>,
}

/// What nftables cannot do.
pub const LIMITS: &[Limit] = &[LOOPBACK6, ENDPOINTS];

pub(super) const LOOPBACK6: Limit = Limit {
    feature: limits::LOOPBACK6,
    why: "the kernel routes nothing from ::1 past the loopback device, and no setting changes that",
};

const ENDPOINTS: Limit = Limit {
    feature: "more than 8,191 endpoints in one view of a service port",
    why: "the number of endpoints has 13 bits in the maps; those that sort last get no clients",
};

impl Default for Program {
    fn default() -> Self {
        Self::new(MASQUERADE_BIT)
    }
}

impl Program {
    /// An empty program that uses this bit of the mark.
    pub fn new(masquerade_bit: u32) -> Self {
        Self {
            v4: Half::new(Family::V4, masquerade_bit),
            v6: Half::new(Family::V6, masquerade_bit),
            addresses: BTreeSet::new(),
            loopback: false,
            on_node6: BTreeSet::new(),
            limits: BTreeMap::new(),
            left_out: BTreeMap::new(),
            departed: Vec::new(),
        }
    }

    /// Makes the program right for this node.
    pub fn set_node(&mut self, node: &Node) {
        self.addresses.clone_from(&node.addresses);
        set_node(&mut self.v4, node, node.loopback);
        // The kernel routes nothing from or to ::1 past the loopback device.
        set_node(&mut self.v6, node, false);
        if self.loopback != node.loopback {
            self.loopback = node.loopback;
            for key in self.on_node6.clone() {
                self.set_limits(&key);
            }
        }
    }

    /// Makes the program right for one service port; `None` when it is gone. Costs O(change).
    pub fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        let is_cut = match key.family {
            Family::V4 => change(&mut self.v4, key, state, &mut self.departed),
            Family::V6 => change(&mut self.v6, key, state, &mut self.departed),
        };
        if is_cut {
            let error =
                CapacityError { key: key.clone(), map: SetId::Endpoints.name(), max: AMONG_MAX };
            self.left_out.insert(key.clone(), error);
        } else {
            self.left_out.remove(key);
        }
        let is_on_node = |frontend: &Frontend| frontend.address == FrontendAddress::NodeAddresses;
        let frontends = state.into_iter().flat_map(|state| &state.frontends);
        if key.family == Family::V6 && frontends.into_iter().any(is_on_node) {
            self.on_node6.insert(key.clone());
        } else {
            self.on_node6.remove(key);
        }
        self.set_limits(key);
    }

    fn set_limits(&mut self, key: &PortKey) {
        let mut limits = Vec::new();
        if self.loopback && self.on_node6.contains(key) {
            limits.push(LOOPBACK6.feature);
        }
        if self.left_out.contains_key(key) {
            limits.push(ENDPOINTS.feature);
        }
        if limits.is_empty() {
            self.limits.remove(key);
        } else {
            self.limits.insert(key.clone(), limits);
        }
    }

    /// What cannot be done for service ports that are served otherwise.
    pub fn limits(&self) -> &BTreeMap<PortKey, Vec<&'static str>> {
        &self.limits
    }

    /// Whether the node's own processes use node ports on IPv4 loopback addresses.
    pub(super) fn needs_route_localnet(&self) -> bool {
        self.v4.loopback && self.v4.plans().any(|(place, _)| place == Place::Node)
    }

    /// Makes the program right for the whole table.
    pub fn compile(&mut self, desired: &dyn Desired) {
        let gone = |key: &&PortKey| desired.port(key).is_none();
        let gone: Vec<PortKey> =
            self.v4.keys().chain(self.v6.keys()).filter(gone).cloned().collect();
        for key in gone {
            self.change(&key, None);
        }
        // Those that the kernel knows first, so that nobody takes their numbers.
        let mut fresh = Vec::new();
        for key in desired.keys() {
            let Some(state) = desired.port(&key) else { continue };
            if self.is_known(&key, &state) {
                self.change(&key, Some(&state));
            } else {
                fresh.push(key);
            }
        }
        for key in fresh {
            self.change(&key, desired.port(&key).as_ref());
        }
        self.v4.seen = super::half::Seen::default();
        self.v6.seen = super::half::Seen::default();
    }

    fn is_known(&self, key: &PortKey, state: &PortState) -> bool {
        match key.family {
            Family::V4 => is_known(&self.v4, state),
            Family::V6 => is_known(&self.v6, state),
        }
    }

    /// Service ports of which not everything fits.
    pub fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        &self.left_out
    }

    /// Endpoints that left; empties the list.
    pub fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    /// How many elements and chains may differ from the kernel's.
    pub fn pending(&self) -> usize {
        let of = |edits: &Option<Edits>, len: usize| edits.as_ref().map_or(len + 1, Edits::count);
        of(&self.v4.edits, self.v4.len()) + of(&self.v6.edits, self.v6.len())
    }

    /// Every service port.
    pub fn services(&self) -> Vec<ServicePort> {
        let mut all = services(&self.v4, 0);
        all.extend(services(&self.v6, 1));
        all.sort_by_key(|service| service.number);
        all
    }
}

fn services<const N: usize>(half: &Half<N>, family_bit: u32) -> Vec<ServicePort> {
    let ports = (0u32..).zip(&half.ports);
    let port = |(slot, port): (u32, &Option<super::half::Port<N>>)| {
        let port = port.as_ref()?;
        let [cluster, local] = &port.views;
        let endpoints: BTreeSet<_> = cluster.iter().chain(local).collect();
        Some(ServicePort {
            number: Half::<N>::number(slot) | family_bit,
            key: Some(port.key.clone()),
            frontends: port.frontends.len(),
            endpoints: endpoints.len(),
        })
    };
    ports.filter_map(port).collect()
}

fn set_node<const N: usize>(half: &mut Half<N>, node: &Node, loopback: bool) {
    let there = || Some(Vec::new());
    let addresses = of_family::<N>(&node.node_port_addresses);
    let before = std::mem::replace(&mut half.node_addresses, addresses.clone());
    for addr in before.difference(&addresses) {
        half.edit(SetId::NodeAddresses, addr, there(), None);
    }
    for addr in addresses.difference(&before) {
        half.edit(SetId::NodeAddresses, addr, None, there());
    }
    let links: BTreeSet<_> = node.pod_links.iter().map(|link| device(link)).collect();
    let before = std::mem::replace(&mut half.pod_links, links.clone());
    for link in before.difference(&links) {
        half.edit(SetId::PodLinks, link, there(), None);
    }
    for link in links.difference(&before) {
        half.edit(SetId::PodLinks, link, None, there());
    }
    let had = std::mem::replace(&mut half.loopback, loopback);
    let is = |has: bool| has.then(Vec::new);
    if had != loopback {
        half.edit(SetId::Loopback, &LOOPBACK_NETWORK, is(had), is(loopback));
    }
}
