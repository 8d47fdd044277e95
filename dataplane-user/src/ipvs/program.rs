//! What the kernel should hold for a table: computed port by port, without looking at the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    contents::{Contents, Dirty, Element, Held},
    derive::{self, Derived},
    limits,
    marks::Marks,
    server::{ServerKey, Virtual},
};
use crate::{
    backend::{Departed, Desired, Node, ServicePort},
    model::{Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState},
};

/// A service port that wants a frontend. The least one of them has it: an address that is named
/// comes before one that is meant by "every address of the node".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    is_node: bool,
    key: PortKey,
}

/// How many frontends name an address.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    all: usize,
    cluster_ips: usize,
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default)]
pub struct Program {
    contents: Contents,
    dirty: Dirty,
    node: Node,
    ports: BTreeMap<PortKey, PortState>,
    claims: BTreeMap<Virtual, BTreeSet<Claim>>,
    named: BTreeMap<IpAddr, Named>,
    /// How many service ports have an endpoint at an address.
    hairpins: BTreeMap<IpAddr, usize>,
    marks: Marks,
    departed: Vec<Departed>,
    limits: BTreeMap<PortKey, Vec<&'static str>>,
}

impl Program {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the kernel should hold.
    pub const fn contents(&self) -> &Contents {
        &self.contents
    }

    /// What of it changed since [`Self::take_dirty`].
    pub const fn dirty(&self) -> &Dirty {
        &self.dirty
    }

    /// What changed, for whoever looks after it from now on.
    pub fn take_dirty(&mut self) -> Dirty {
        std::mem::take(&mut self.dirty)
    }

    /// Endpoints that left since the last call.
    pub fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    /// What IPVS cannot do for service ports, in words.
    pub const fn limits(&self) -> &BTreeMap<PortKey, Vec<&'static str>> {
        &self.limits
    }

    /// Marks that the kernel has keep their meaning.
    pub fn keep_marks(&mut self, seen: &Contents) {
        for (element, held) in &seen.elements {
            if let (Element::Mark(wanted), Held::Mark(mark)) = (element, held) {
                self.marks.keep(*wanted, *mark);
            }
        }
    }

    /// Frontends that more than one service port wants.
    pub fn contested(&self) -> usize {
        self.claims.values().filter(|claims| claims.len() > 1).count()
    }

    /// Every service port, numbered in order.
    pub fn services(&self) -> Vec<ServicePort> {
        let port = |(number, (key, state)): (usize, (&PortKey, &PortState))| ServicePort {
            number: u32::try_from(number).unwrap_or(u32::MAX),
            key: Some(key.clone()),
            frontends: state.frontends.len(),
            endpoints: state.endpoints.len(),
        };
        self.ports.iter().enumerate().map(port).collect()
    }

    /// Who has a frontend.
    pub(super) fn owner(&self, of: &Virtual) -> Option<PortKey> {
        self.claims.get(of)?.first().map(|claim| claim.key.clone())
    }

    /// Makes it right for the whole table.
    pub fn compile(&mut self, table: &dyn Desired) {
        let wanted: BTreeSet<PortKey> = table.keys().collect();
        let gone: Vec<PortKey> =
            self.ports.keys().filter(|key| !wanted.contains(key)).cloned().collect();
        for key in gone {
            self.change(&key, None);
        }
        for key in wanted {
            self.change(&key, table.port(&key).as_ref());
        }
    }

    /// Makes it right for one service port; `None` when it is gone.
    pub fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        let old = match state {
            Some(state) => self.ports.insert(key.clone(), state.clone()),
            None => self.ports.remove(key),
        };
        if old.as_ref() == state {
            return;
        }
        let frontends = |state: Option<&PortState>| -> Vec<Frontend> {
            state.map(|state| state.frontends.clone()).unwrap_or_default()
        };
        let (before, after) = (frontends(old.as_ref()), frontends(state));
        let mut touched = BTreeSet::new();
        for frontend in before.iter().filter(|frontend| !after.contains(frontend)) {
            self.claim(key, frontend, false, &mut touched);
        }
        for frontend in &after {
            let is_new = !before.contains(frontend);
            if is_new {
                self.claim(key, frontend, true, &mut touched);
            } else {
                touched.extend(self.places(key.family, frontend));
            }
        }
        self.count_endpoints(old.as_ref(), state);
        for wanted in touched {
            self.derive(wanted);
        }
        let protocol = before.iter().chain(&after).map(|frontend| frontend.protocol).next();
        if let (Some(old), Some(protocol)) = (&old, protocol) {
            self.departed.extend(derive::departed(old, state, protocol));
        }
        self.tell_limits(key);
    }

    /// Makes it right for this node.
    pub fn set_node(&mut self, node: &Node) {
        let old = std::mem::replace(&mut self.node, node.clone());
        if old == *node {
            return;
        }
        let moved = old.node_port_addresses.symmetric_difference(&node.node_port_addresses);
        let moved: BTreeSet<IpAddr> = moved.copied().collect();
        if !moved.is_empty() {
            self.move_node_ports(&moved);
        }
        for address in old.addresses.symmetric_difference(&node.addresses) {
            let held = node.addresses.contains(address).then_some(Held::Nothing);
            self.contents.set_element(&mut self.dirty, Element::Node(*address), held);
            self.name(*address);
        }
        for link in old.pod_links.symmetric_difference(&node.pod_links) {
            let held = node.pod_links.contains(link).then_some(Held::Nothing);
            for family in [Family::V4, Family::V6] {
                let element = Element::PodLink(family, link.clone());
                self.contents.set_element(&mut self.dirty, element, held);
            }
        }
        if old.loopback != node.loopback {
            let keys: Vec<PortKey> = self.ports.keys().cloned().collect();
            for key in &keys {
                self.tell_limits(key);
            }
        }
    }

    /// The node ports of all service ports, on addresses that came or went.
    fn move_node_ports(&mut self, moved: &BTreeSet<IpAddr>) {
        let mut touched = Vec::new();
        for (key, state) in &self.ports {
            let on_node =
                state.frontends.iter().filter(|it| it.address == FrontendAddress::NodeAddresses);
            for frontend in on_node {
                for address in moved.iter().filter(|it| Family::of(**it) == key.family) {
                    touched.push((key.clone(), place(*address, frontend)));
                }
            }
        }
        for (key, wanted) in touched {
            let comes = self.node.node_port_addresses.contains(&wanted.address);
            self.set_claim(wanted, Claim { is_node: true, key }, comes);
            self.derive(wanted);
        }
    }

    /// The addresses that a frontend stands for on this node.
    fn places(&self, family: Family, frontend: &Frontend) -> Vec<Virtual> {
        match frontend.address {
            FrontendAddress::Ip(address) => vec![place(address, frontend)],
            FrontendAddress::NodeAddresses => {
                let of_family = |address: &&IpAddr| Family::of(**address) == family;
                let addresses = self.node.node_port_addresses.iter().filter(of_family);
                addresses.map(|address| place(*address, frontend)).collect()
            }
        }
    }

    fn claim(
        &mut self,
        key: &PortKey,
        frontend: &Frontend,
        comes: bool,
        touched: &mut BTreeSet<Virtual>,
    ) {
        let is_node = frontend.address == FrontendAddress::NodeAddresses;
        for wanted in self.places(key.family, frontend) {
            let claim = Claim { is_node, key: key.clone() };
            self.set_claim(wanted, claim, comes);
            touched.insert(wanted);
        }
        if let FrontendAddress::Ip(address) = frontend.address {
            let named = self.named.entry(address).or_default();
            let is_cluster_ip = usize::from(frontend.kind == FrontendKind::ClusterIp);
            if comes {
                named.all += 1;
                named.cluster_ips += is_cluster_ip;
            } else {
                named.all = named.all.saturating_sub(1);
                named.cluster_ips = named.cluster_ips.saturating_sub(is_cluster_ip);
            }
            self.name(address);
        }
    }

    fn set_claim(&mut self, wanted: Virtual, claim: Claim, comes: bool) {
        let claims = self.claims.entry(wanted).or_default();
        if comes {
            claims.insert(claim);
        } else {
            claims.remove(&claim);
        }
        if claims.is_empty() {
            self.claims.remove(&wanted);
        }
    }

    /// Makes right what follows from an address being named by frontends.
    fn name(&mut self, address: IpAddr) {
        let named = self.named.get(&address).copied().unwrap_or_default();
        if named.all == 0 {
            self.named.remove(&address);
        }
        let is_own = self.node.addresses.contains(&address);
        let is_closed = named.cluster_ips > 0 || named.all > 0 && !is_own;
        self.contents.set_address(&mut self.dirty, address, named.all > 0 && !is_own);
        let held = is_closed.then_some(Held::Nothing);
        self.contents.set_element(&mut self.dirty, Element::Closed(address), held);
    }

    /// Makes right what follows from who has a frontend, and from that one's state.
    fn derive(&mut self, wanted: Virtual) {
        let derived = self.winner(wanted).map(|(state, kind)| Derived::new(state, kind, wanted));
        let Derived { treatment, server, marked, ranges } = derived.unwrap_or_default();
        let (contents, dirty) = (&mut self.contents, &mut self.dirty);
        contents.set_server(dirty, ServerKey::Address(wanted), server);
        let old = self.marks.of(wanted);
        let mark = if marked.is_some() { self.marks.take(wanted) } else { None };
        match mark {
            Some(mark) => {
                let key = ServerKey::Mark(wanted.family(), mark);
                contents.set_server(dirty, key, marked);
            }
            None => {
                if let Some(mark) = old {
                    contents.set_server(dirty, ServerKey::Mark(wanted.family(), mark), None);
                    self.marks.give_back(wanted);
                }
            }
        }
        contents.set_element(dirty, Element::Mark(wanted), mark.map(Held::Mark));
        // Without a number left, clients on this node get what those outside get.
        let treatment = treatment.map(|it| Held::Treatment(it.marked_if(mark.is_some())));
        contents.set_element(dirty, Element::Service(wanted), treatment);
        let gone: Vec<_> = contents.ranges(wanted).filter(|it| !ranges.contains(it)).collect();
        for range in gone {
            contents.set_element(dirty, Element::Range(wanted, range), None);
        }
        for range in ranges {
            contents.set_element(dirty, Element::Range(wanted, range), Some(Held::Nothing));
        }
    }

    /// Whose frontend it is.
    fn winner(&self, wanted: Virtual) -> Option<(&PortState, FrontendKind)> {
        let claim = self.claims.get(&wanted)?.first()?;
        let state = self.ports.get(&claim.key)?;
        let address = if claim.is_node {
            FrontendAddress::NodeAddresses
        } else {
            FrontendAddress::Ip(wanted.address)
        };
        let is_it = |frontend: &&Frontend| {
            (frontend.address, frontend.port, frontend.protocol)
                == (address, wanted.port, wanted.protocol)
        };
        Some((state, state.frontends.iter().find(is_it)?.kind))
    }

    fn count_endpoints(&mut self, before: Option<&PortState>, after: Option<&PortState>) {
        let addresses = |state: Option<&PortState>| -> BTreeSet<IpAddr> {
            let all = state.map(|state| state.endpoints.as_slice()).unwrap_or_default();
            let elsewhere = all.iter().filter(|it| it.placement != Placement::Host);
            elsewhere.map(|endpoint| endpoint.address).collect()
        };
        let (before, after) = (addresses(before), addresses(after));
        for address in after.difference(&before) {
            *self.hairpins.entry(*address).or_default() += 1;
            let element = Element::Hairpin(*address);
            self.contents.set_element(&mut self.dirty, element, Some(Held::Nothing));
        }
        for address in before.difference(&after) {
            let Some(count) = self.hairpins.get_mut(address) else { continue };
            *count -= 1;
            if *count == 0 {
                self.hairpins.remove(address);
                self.contents.set_element(&mut self.dirty, Element::Hairpin(*address), None);
            }
        }
    }

    fn tell_limits(&mut self, key: &PortKey) {
        let words = self.ports.get(key).map(|state| limits::of(state, &self.node));
        match words.filter(|words| !words.is_empty()) {
            Some(words) => self.limits.insert(key.clone(), words),
            None => self.limits.remove(key),
        };
    }

    /// Whether this is a cluster IP.
    pub(super) fn is_cluster_ip(&self, address: IpAddr) -> bool {
        self.named.get(&address).is_some_and(|named| named.cluster_ips > 0)
    }
}

const fn place(address: IpAddr, frontend: &Frontend) -> Virtual {
    Virtual { address, protocol: frontend.protocol, port: frontend.port }
}
