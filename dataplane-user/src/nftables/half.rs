//! One family's part of a program: service ports, frontends, views, and what follows from them.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use ahash::AHashMap;
use dataplane_common::FrontendKey;

use super::{
    edits::{Edits, SetId, Value},
    expression::Name,
    layout::Layout,
    object::Chain,
    treatment::{Place, Treatment},
};
use crate::model::{Family, FrontendKind, PortKey, Protocol};

/// The length of the longest device name, with the zero at its end.
const DEVICE_LEN: usize = 16;

/// An endpoint of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Target<const N: usize> {
    pub(super) addr: [u8; N],
    pub(super) port: u16,
}

/// A frontend and what is done for its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: u32,
    pub(super) kind: FrontendKind,
    /// For the host, pods and outside.
    pub(super) treatments: [Treatment; 3],
    /// Whether source ranges hold for it.
    pub(super) is_ranged: bool,
}

/// Some clients: the first and the last address.
pub(super) type Range<const N: usize> = ([u8; N], [u8; N]);

/// One service port.
#[derive(Clone, Debug)]
pub(super) struct Port<const N: usize> {
    pub(super) key: PortKey,
    pub(super) protocol: Protocol,
    /// The frontends that it asked for.
    pub(super) frontends: Box<[FrontendKey<N>]>,
    /// Its endpoints in the view of `Cluster` and in that of `Local`, by index.
    pub(super) views: [Vec<Target<N>>; 2],
    /// Those of them that are not this host.
    pub(super) away: Box<[[u8; N]]>,
    pub(super) affinity_s: u32,
    /// Clients that its load balancer frontends serve.
    pub(super) ranges: Box<[Range<N>]>,
}

/// What was found in the kernel, to give service ports their numbers again.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen<const N: usize> {
    pub(super) slots: AHashMap<FrontendKey<N>, u32>,
    pub(super) views: AHashMap<u32, Vec<Target<N>>>,
}

/// One family's part of a program.
#[derive(Clone, Debug)]
pub(super) struct Half<const N: usize> {
    pub(super) layout: Layout,
    pub(super) ports: Vec<Option<Port<N>>>,
    slots_free: VecDeque<u32>,
    index: AHashMap<PortKey, u32>,
    pub(super) frontends: AHashMap<FrontendKey<N>, Entry>,
    pub(super) cluster_ips: AHashMap<[u8; N], u32>,
    pub(super) hairpins: AHashMap<[u8; N], u32>,
    /// How many frontends and scopes have each treatment.
    plans: BTreeMap<(Place, Treatment), u32>,
    /// All chains by name.
    pub(super) chains: BTreeMap<Name, Chain>,
    pub(super) node_addresses: BTreeSet<[u8; N]>,
    pub(super) pod_links: BTreeSet<[u8; DEVICE_LEN]>,
    pub(super) loopback: bool,
    pub(super) seen: Seen<N>,
    /// `None`: the kernel may differ in anything.
    pub(super) edits: Option<Edits>,
}

/// The bytes of an address, if it is of the family with `N` bytes.
pub(super) fn octets<const N: usize>(address: IpAddr) -> Option<[u8; N]> {
    match address {
        IpAddr::V4(v4) => v4.octets().as_slice().try_into().ok(),
        IpAddr::V6(v6) => v6.octets().as_slice().try_into().ok(),
    }
}

/// The address of these bytes.
pub(super) fn address<const N: usize>(octets: [u8; N]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets.as_slice()).map(IpAddr::from)).ok()
}

impl<const N: usize> Half<N> {
    pub(super) fn new(family: Family, masquerade_bit: u32) -> Self {
        let layout = Layout { family, masquerade_bit };
        let chains = layout.chains().into_iter().map(|chain| (chain.name.clone(), chain));
        Self {
            layout,
            ports: Vec::new(),
            slots_free: VecDeque::new(),
            index: AHashMap::new(),
            frontends: AHashMap::new(),
            cluster_ips: AHashMap::new(),
            hairpins: AHashMap::new(),
            plans: BTreeMap::new(),
            chains: chains.collect(),
            node_addresses: BTreeSet::new(),
            pod_links: BTreeSet::new(),
            loopback: false,
            seen: Seen::default(),
            edits: None,
        }
    }

    /// The number of a service port in the kernel. The next one is that of its local view.
    pub(super) const fn number(slot: u32) -> u32 {
        (slot + 1) << 1
    }

    /// The slot of a number or a view, and whether it is the local one.
    pub(super) fn slot_of(number: u32) -> Option<(u32, bool)> {
        Some(((number >> 1).checked_sub(1)?, number & 1 == 1))
    }

    pub(super) fn find(&self, key: &PortKey) -> Option<u32> {
        self.index.get(key).copied()
    }

    pub(super) fn port(&self, slot: u32) -> Option<&Port<N>> {
        self.ports.get(slot as usize)?.as_ref()
    }

    /// Puts a port into the slot that its frontends had in the kernel, or into a free one.
    pub(super) fn insert(&mut self, port: Port<N>) -> u32 {
        let had = port.frontends.iter().find_map(|frontend| self.seen.slots.get(frontend));
        let mut slot = had.copied().filter(|slot| self.port(*slot).is_none());
        while slot.is_none() {
            let Some(free) = self.slots_free.pop_front() else { break };
            // It may have been found in the kernel meanwhile.
            slot = self.port(free).is_none().then_some(free);
        }
        let next = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
        let slot = slot.unwrap_or(next);
        while self.ports.len() <= slot as usize {
            self.slots_free.push_back(u32::try_from(self.ports.len()).unwrap_or(slot));
            self.ports.push(None);
        }
        self.index.insert(port.key.clone(), slot);
        self.ports[slot as usize] = Some(port);
        slot
    }

    pub(super) fn remove(&mut self, slot: u32) -> Option<Port<N>> {
        let port = self.ports.get_mut(slot as usize)?.take()?;
        self.index.remove(&port.key);
        self.slots_free.push_back(slot);
        Some(port)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &PortKey> {
        self.ports.iter().flatten().map(|port| &port.key)
    }

    /// Notes that an element changes.
    pub(super) fn edit(
        &mut self,
        set: SetId,
        key: &[u8],
        before: Option<Value>,
        after: Option<Value>,
    ) {
        if let Some(edits) = &mut self.edits {
            edits.element(set, key.to_vec(), before, after);
        }
    }

    /// A frontend has another entry, or none any more.
    pub(super) fn set_entry(&mut self, key: FrontendKey<N>, entry: Option<Entry>) {
        let before = match entry {
            Some(entry) => self.frontends.insert(key, entry),
            None => self.frontends.remove(&key),
        };
        if before == entry {
            return;
        }
        let name = frontend_key(&key);
        let value = |entry: Option<Entry>| entry.map(service_value::<N>);
        self.edit(SetId::Services, &name, value(before), value(entry));
        let ranged = |entry: Option<Entry>| {
            entry.filter(|entry| entry.is_ranged).map(|entry| ranged_value::<N>(entry.slot))
        };
        self.edit(SetId::Ranged, &name, ranged(before), ranged(entry));
        let place = if key.addr() == [0; N] { Place::Node } else { Place::Address };
        for treatment in entry.iter().flat_map(|entry| entry.treatments) {
            self.count_plan(place, treatment, true);
        }
        for treatment in before.iter().flat_map(|entry| entry.treatments) {
            self.count_plan(place, treatment, false);
        }
        let is_cluster = |entry: Option<Entry>| {
            entry.is_some_and(|entry| entry.kind == FrontendKind::ClusterIp)
                && place == Place::Address
        };
        match (is_cluster(before), is_cluster(entry)) {
            (false, true) => self.count_address(SetId::ClusterIps, key.addr(), true),
            (true, false) => self.count_address(SetId::ClusterIps, key.addr(), false),
            (true, true) | (false, false) => {}
        }
    }

    fn count_plan(&mut self, place: Place, treatment: Treatment, more: bool) {
        let count = self.plans.entry((place, treatment)).or_insert(0);
        *count = if more { *count + 1 } else { *count - 1 };
        let (came, went) = (more && *count == 1, !more && *count == 0);
        if went {
            self.plans.remove(&(place, treatment));
        }
        if !came && !went {
            return;
        }
        let there = Some(Vec::new());
        let (before, after) = if came { (None, there) } else { (there, None) };
        self.edit(plan_set(place), &treatment.code().to_ne_bytes(), before, after);
        let Some(chain) = self.layout.pick(place, treatment) else { return };
        if let Some(edits) = &mut self.edits {
            edits.chain(&chain.name, came);
        }
        if came {
            self.chains.insert(chain.name.clone(), chain);
        } else {
            self.chains.remove(&chain.name);
        }
    }

    /// An address is named once more, or once less.
    pub(super) fn count_address(&mut self, set: SetId, addr: [u8; N], more: bool) {
        let counts =
            if set == SetId::ClusterIps { &mut self.cluster_ips } else { &mut self.hairpins };
        let count = counts.entry(addr).or_insert(0);
        *count = if more { *count + 1 } else { *count - 1 };
        let (came, went) = (more && *count == 1, !more && *count == 0);
        if went {
            counts.remove(&addr);
        }
        let key = if set == SetId::Hairpins { hairpin_key(&addr) } else { addr.to_vec() };
        if came {
            self.edit(set, &key, None, Some(Vec::new()));
        } else if went {
            self.edit(set, &key, Some(Vec::new()), None);
        }
    }

    /// The treatments that have chains, in order.
    pub(super) fn plans(&self) -> impl Iterator<Item = (Place, Treatment)> {
        self.plans.keys().copied()
    }

    /// Whether a treatment has a chain.
    pub(super) fn has_plan(&self, place: Place, treatment: Treatment) -> bool {
        self.plans.contains_key(&(place, treatment))
    }

    /// How many elements all sets have together.
    pub(super) fn len(&self) -> usize {
        let endpoints: usize =
            self.ports.iter().flatten().flat_map(|port| &port.views).map(Vec::len).sum();
        endpoints + self.frontends.len() + self.cluster_ips.len() + self.hairpins.len()
    }
}

/// The map of the chains of a place.
pub(super) const fn plan_set(place: Place) -> SetId {
    match place {
        Place::Address => SetId::Plans,
        Place::Node => SetId::NodePlans,
    }
}

/// The key of a frontend.
pub(super) fn frontend_key<const N: usize>(key: &FrontendKey<N>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(N + 8);
    bytes.extend_from_slice(&key.addr());
    bytes.extend_from_slice(&[key.protocol(), 0, 0, 0]);
    bytes.extend_from_slice(&key.port().to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

/// The frontend of a key.
pub(super) fn read_frontend<const N: usize>(key: &[u8]) -> Option<FrontendKey<N>> {
    let (addr, rest) = key.split_first_chunk::<N>()?;
    let &[protocol, _, _, _, high, low, ..] = rest else { return None };
    Some(FrontendKey::new(*addr, u16::from_be_bytes([high, low]), protocol))
}

/// The number by which maps name the kind of a frontend.
const fn kind_number(kind: FrontendKind) -> u32 {
    match kind {
        FrontendKind::ClusterIp => 1,
        FrontendKind::NodePort => 2,
        FrontendKind::LoadBalancer => 3,
        FrontendKind::ExternalIp => 4,
        FrontendKind::HostPort => 5,
    }
}

/// What `services` says of a frontend.
pub(super) fn service_value<const N: usize>(entry: Entry) -> Value {
    let [host, pod, outside] = entry.treatments.map(Treatment::code);
    let number = Half::<N>::number(entry.slot);
    numbers(&[kind_number(entry.kind), number, host, pod, outside])
}

/// What `ranged` says of a frontend.
pub(super) fn ranged_value<const N: usize>(slot: u32) -> Value {
    numbers(&[0, Half::<N>::number(slot)])
}

/// Numbers in the host's byte order.
pub(super) fn numbers(of: &[u32]) -> Vec<u8> {
    of.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

/// The key of an endpoint.
pub(super) fn endpoint_key(view: u32, index: usize) -> Vec<u8> {
    numbers(&[view, u32::try_from(index).unwrap_or(u32::MAX)])
}

/// A view and an endpoint: what `endpoints` says, and the key of `members`.
pub(super) fn member<const N: usize>(view: u32, target: &Target<N>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(N + 8);
    bytes.extend_from_slice(&view.to_ne_bytes());
    bytes.extend_from_slice(&target.addr);
    bytes.extend_from_slice(&target.port.to_be_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes
}

/// The key of a hairpin.
pub(super) fn hairpin_key<const N: usize>(addr: &[u8; N]) -> Vec<u8> {
    [addr.as_slice(), addr.as_slice()].concat()
}

/// The first and the last key of a range of clients, one after the other.
pub(super) fn range_key<const N: usize>(slot: u32, (first, last): &Range<N>) -> Vec<u8> {
    let number = Half::<N>::number(slot).to_ne_bytes();
    [number.as_slice(), first, &number, last].concat()
}

/// A device's name as the kernel compares it.
pub(super) fn device(name: &str) -> [u8; DEVICE_LEN] {
    let mut bytes = [0; DEVICE_LEN];
    let len = name.len().min(DEVICE_LEN - 1);
    bytes[..len].copy_from_slice(&name.as_bytes()[..len]);
    bytes
}

/// The loopback network, as the rules mask addresses.
pub(super) const LOOPBACK_NETWORK: [u8; 4] = [127, 0, 0, 0];
