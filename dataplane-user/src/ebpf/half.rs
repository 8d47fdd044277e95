//! One family's part of a program: service ports, frontends, the endpoint array.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

use ahash::{AHashMap, RandomState};
use dataplane_common::{Endpoint, EndpointId, Frontend, FrontendKey, FrontendKind, SCTP, UDP};
use hashbrown::HashTable;

use super::{
    blocks::{Block, Blocks},
    grace::Grace,
    owners::{Owner, Tally, is_marker},
    program::{Fill, ServicePort},
    shape::Shape,
    sources::Sources,
};
use crate::model::{Family, PortKey, Protocol};

/// A frontend that a service port wants, and the bits of its value ([`Frontend::flags`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim<const N: usize> {
    pub(crate) key: FrontendKey<N>,
    pub(crate) flags: u32,
}

impl<const N: usize> Claim<N> {
    /// What part of an object it comes from.
    pub(crate) fn kind(&self) -> Option<FrontendKind> {
        Frontend { flags: self.flags, ..Frontend::default() }.kind()
    }

    /// Whether its address is a cluster IP.
    pub(crate) fn is_cluster_ip(&self) -> bool {
        self.kind() == Some(FrontendKind::ClusterIp)
    }
}

/// One service port.
#[derive(Clone, Debug)]
pub(crate) struct Port<const N: usize> {
    /// `None`: found in the maps, and no object has claimed it yet.
    pub(crate) key: Option<PortKey>,
    /// The frontends that it wants, whoever has them: sorted.
    pub(crate) frontends: Box<[FrontendKey<N>]>,
    pub(crate) shape: Shape,
}

impl<const N: usize> Port<N> {
    /// The protocol of all its frontends.
    pub(crate) fn protocol(&self) -> Protocol {
        match self.frontends.first() {
            Some(frontend) if frontend.protocol() == UDP => Protocol::Udp,
            Some(frontend) if frontend.protocol() == SCTP => Protocol::Sctp,
            Some(_) | None => Protocol::Tcp,
        }
    }
}

/// One family's part of a program.
#[derive(Clone, Debug)]
pub(crate) struct Half<const N: usize> {
    family: Family,
    hasher: RandomState,
    frontends_max: u32,
    pub(crate) blocks: Blocks,
    /// The endpoint array up to its highest slot in use.
    pub(crate) endpoints: Vec<Endpoint<N>>,
    pub(crate) frontends: AHashMap<FrontendKey<N>, Owner>,
    pub(crate) tally: Tally<N>,
    pub(crate) sources: Sources<N>,
    /// Frontends that more than one port wants: those who do not have it.
    pub(crate) contested: BTreeMap<FrontendKey<N>, BTreeMap<PortKey, Owner>>,
    pub(crate) ports: Vec<Option<Port<N>>>,
    /// By slot, for the few ports with session affinity: for how many seconds.
    affinities: BTreeMap<u32, u32>,
    slots_free: VecDeque<u32>,
    /// Slots on their way to be free. Their numbers stand in maps, beside ranges of clients that the
    /// next port must not take over.
    slots_resting: Grace<u32>,
    index: HashTable<u32>,
    /// Frontends and blocks that may differ from the kernel's.
    pub(crate) frontends_dirty: Vec<FrontendKey<N>>,
    pub(crate) blocks_dirty: Vec<Block>,
}

/// Makes room for `more` and little else: doubling would leave up to half of the room unused.
fn grow<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        vec.reserve_exact(more + vec.len() / 16);
    }
}

/// The bytes of an address, if it is of the family with `N` bytes.
pub(crate) fn octets<const N: usize>(address: IpAddr) -> Option<[u8; N]> {
    match address {
        IpAddr::V4(v4) => v4.octets().as_slice().try_into().ok(),
        IpAddr::V6(v6) => v6.octets().as_slice().try_into().ok(),
    }
}

/// The address of these bytes.
pub(crate) fn address<const N: usize>(octets: [u8; N]) -> IpAddr {
    if let Ok(v4) = <[u8; 4]>::try_from(octets.as_slice()) {
        return IpAddr::from(v4);
    }
    <[u8; 16]>::try_from(octets.as_slice()).unwrap_or(Ipv6Addr::UNSPECIFIED.octets()).into()
}

impl<const N: usize> Half<N> {
    /// Nothing yet, for maps of these sizes.
    pub(crate) fn new(
        family: Family,
        frontends_max: u32,
        endpoints_max: u32,
        sources_max: u32,
    ) -> Self {
        Self {
            family,
            // Fixed seeds: equal tables give equal programs, and names come from a trusted server.
            hasher: RandomState::with_seeds(1, 2, 3, 4),
            frontends_max,
            blocks: Blocks::new(endpoints_max),
            endpoints: Vec::new(),
            frontends: AHashMap::new(),
            tally: Tally::new(),
            sources: Sources::new(sources_max),
            contested: BTreeMap::new(),
            ports: Vec::new(),
            affinities: BTreeMap::new(),
            slots_free: VecDeque::new(),
            slots_resting: Grace::default(),
            index: HashTable::new(),
            frontends_dirty: Vec::new(),
            blocks_dirty: Vec::new(),
        }
    }

    /// Number of the port in `slot`: never 0, and odd for IPv6.
    pub(crate) fn number(&self, slot: u32) -> u32 {
        ((slot + 1) << 1) | u32::from(self.family == Family::V6)
    }

    /// The slot of a number, if it is of this family.
    pub(crate) fn slot_of(&self, number: u32) -> Option<u32> {
        let ours = (number & 1 == 1) == (self.family == Family::V6);
        if ours { (number >> 1).checked_sub(1) } else { None }
    }

    /// Makes room for new ports, so that filling an empty half moves nothing.
    pub(crate) fn expect(&mut self, ports: usize) {
        grow(&mut self.ports, ports);
        self.frontends.reserve(ports);
        self.tally.expect(ports);
        let (ports_now, hasher) = (&self.ports, &self.hasher);
        self.index.reserve(ports, |slot| rehash(ports_now, hasher, *slot));
    }

    /// The slot of a port.
    pub(crate) fn find(&self, key: &PortKey) -> Option<u32> {
        let same = |slot: &u32| self.port(*slot).is_some_and(|port| port.key.as_ref() == Some(key));
        self.index.find(self.hasher.hash_one(key), same).copied()
    }

    /// The port in a slot.
    pub(crate) fn port(&self, slot: u32) -> Option<&Port<N>> {
        self.ports.get(slot as usize)?.as_ref()
    }

    /// The port in a slot, to change.
    pub(crate) fn port_mut(&mut self, slot: u32) -> Option<&mut Port<N>> {
        self.ports.get_mut(slot as usize)?.as_mut()
    }

    /// Puts a port without a name into a free slot.
    pub(crate) fn insert(&mut self, port: Port<N>) -> u32 {
        while let Some(slot) = self.slots_free.pop_front() {
            if self.ports[slot as usize].is_none() {
                self.ports[slot as usize] = Some(port);
                return slot;
            }
        }
        grow(&mut self.ports, 1);
        self.ports.push(Some(port));
        u32::try_from(self.ports.len() - 1)
            .expect("a port has a frontend, and maps have 2^32 at most")
    }

    /// Puts a port without a name into this slot; `false` when it is taken or out of bounds.
    pub(crate) fn insert_at(&mut self, slot: u32, port: Port<N>) -> bool {
        if slot >= self.frontends_max.saturating_mul(4) || self.port(slot).is_some() {
            return false;
        }
        while self.ports.len() <= slot as usize {
            self.slots_free.push_back(u32::try_from(self.ports.len()).unwrap_or(slot));
            self.ports.push(None);
        }
        self.ports[slot as usize] = Some(port);
        true
    }

    /// Names the port in a slot.
    pub(crate) fn name(&mut self, slot: u32, key: &PortKey) {
        let hash = self.hasher.hash_one(key);
        let Some(port) = self.ports.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        port.key = Some(key.clone());
        let (ports, hasher) = (&self.ports, &self.hasher);
        self.index.insert_unique(hash, slot, |slot| rehash(ports, hasher, *slot));
    }

    /// Takes the port out of its slot.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<Port<N>> {
        let port = self.ports.get_mut(slot as usize)?.take()?;
        self.slots_resting.release(slot);
        self.affinities.remove(&slot);
        if let Some(key) = &port.key
            && let Ok(entry) =
                self.index.find_entry(self.hasher.hash_one(key), |other| *other == slot)
        {
            entry.remove();
        }
        Some(port)
    }

    /// Seconds for which clients of the port in a slot stay with their endpoint; 0 means never.
    pub(crate) fn affinity_s(&self, slot: u32) -> u32 {
        self.affinities.get(&slot).copied().unwrap_or(0)
    }

    /// Sets what [`Self::affinity_s`] says.
    pub(crate) fn set_affinity(&mut self, slot: u32, affinity_s: u32) {
        if affinity_s == 0 {
            self.affinities.remove(&slot);
        } else {
            self.affinities.insert(slot, affinity_s);
        }
    }

    /// What was given back is no longer in the maps.
    pub(crate) fn applied(&mut self, now_ms: u64) {
        self.blocks.applied(now_ms);
        self.slots_resting.applied(now_ms);
    }

    /// Frees what has rested; says whether that was anything.
    pub(crate) fn reclaim(&mut self, now_ms: u64) -> bool {
        let slots = self.slots_resting.ready(now_ms);
        self.slots_free.extend(&slots);
        self.blocks.reclaim(now_ms) || !slots.is_empty()
    }

    /// Whether something rests or waits for that.
    pub(crate) fn is_resting(&self) -> bool {
        self.blocks.is_resting() || !self.slots_resting.is_empty()
    }

    /// What the kernel's entry for `key` should be.
    pub(crate) fn frontend(&self, key: &FrontendKey<N>) -> Option<Frontend> {
        if is_marker(key) {
            return (self.tally.cluster_ip(&key.addr()) > 0).then(Frontend::default);
        }
        let owner = self.frontends.get(key)?;
        let shape = self.port(owner.slot)?.shape;
        let (number, affinity_s) = (self.number(owner.slot), self.affinity_s(owner.slot));
        Some(shape.value(number, owner.flags, affinity_s))
    }

    /// The endpoints of a block.
    pub(crate) fn slice(&self, block: Block) -> &[Endpoint<N>] {
        self.endpoints.get(block.base as usize..(block.base + block.len) as usize).unwrap_or(&[])
    }

    /// Writes a block of the endpoint array.
    pub(crate) fn write(&mut self, block: Block, endpoints: &[Endpoint<N>]) {
        if block.len == 0 {
            return;
        }
        let range = block.base as usize..(block.base + block.len) as usize;
        if self.endpoints.len() < range.end {
            let more = range.end - self.endpoints.len();
            grow(&mut self.endpoints, more);
            self.endpoints.resize(range.end, Endpoint::new([0; N], 0, 0, EndpointId::NONE));
        }
        self.endpoints[range].copy_from_slice(endpoints);
        self.blocks_dirty.push(block);
    }

    /// How many entries are in the map of frontends.
    fn frontends_used(&self) -> usize {
        self.frontends.len() + self.tally.markers_len()
    }

    /// How many frontends fit beside those which are there. A frontend that more than one port wants
    /// may pass to one for which its address is a cluster IP, and then needs a marker.
    pub(crate) fn frontends_room(&self) -> usize {
        (self.frontends_max as usize).saturating_sub(self.frontends_used() + self.contested.len())
    }

    /// Frontends, blocks and ranges that may differ from the kernel's.
    pub(crate) fn pending(&self) -> usize {
        self.frontends_dirty.len() + self.blocks_dirty.len() + self.sources.dirty.len()
    }

    /// Every port with its number.
    pub(crate) fn services(&self) -> impl Iterator<Item = ServicePort> {
        (0u32..).zip(&self.ports).filter_map(|(slot, port)| {
            let port = port.as_ref()?;
            Some(ServicePort {
                number: self.number(slot),
                key: port.key.clone(),
                frontends: port.frontends.len(),
                endpoints: port.shape.block.len as usize,
            })
        })
    }

    /// The port with this number.
    pub(crate) fn key(&self, number: u32) -> Option<&PortKey> {
        self.port(self.slot_of(number)?)?.key.as_ref()
    }

    pub(crate) fn frontends_max(&self) -> u32 {
        self.frontends_max
    }

    pub(crate) fn frontends_fill(&self, map: &'static str) -> Fill {
        Fill { map, used: self.frontends_used(), max: self.frontends_max as usize }
    }

    pub(crate) fn endpoints_fill(&self, map: &'static str) -> Fill {
        Fill { map, used: self.blocks.used() as usize, max: self.blocks.max() as usize }
    }

    pub(crate) fn sources_fill(&self, map: &'static str) -> Fill {
        let (used, max) = self.sources.fill();
        Fill { map, used, max }
    }
}

/// The hash by which the index finds a slot.
fn rehash<const N: usize>(ports: &[Option<Port<N>>], hasher: &RandomState, slot: u32) -> u64 {
    let key = ports[slot as usize].as_ref().and_then(|port| port.key.as_ref());
    hasher.hash_one(key.expect("only ports with a name are in the index"))
}
