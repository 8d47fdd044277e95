//! The packet library on the host: frames in memory, tables in collections.

use std::{collections::BTreeMap, collections::BTreeSet, vec::Vec};

use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey,
    Link, Live, Peer, PeerKey, SourceKey, Tuple, gate,
};

use crate::{
    packet::Packet,
    sockets::Sockets,
    tables::{Insert, Node, Origin, Ports, Route, Tables},
};

/// A frame in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame(pub Vec<u8>);

impl Packet for Frame {
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.0.get_mut(offset..)?.first_chunk_mut()
    }

    fn resize(&mut self, len: usize) -> Option<()> {
        self.0.resize(len, 0);
        Some(())
    }
}

/// The tables of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family<const N: usize> {
    /// By key.
    pub frontends: BTreeMap<FrontendKey<N>, Frontend>,
    /// By slot; slots without an entry hold zeros, as an array map does.
    pub endpoints: BTreeMap<u32, Endpoint<N>>,
    /// Slots of the array.
    pub endpoints_max: u32,
    /// This node's addresses.
    pub node_addresses: BTreeSet<[u8; N]>,
    /// By key.
    pub flows: BTreeMap<FlowKey<N>, Flow<N>>,
    /// Entries that `flows` takes.
    pub flows_max: usize,
    /// Whom service ports with source ranges serve.
    pub sources: BTreeSet<SourceKey<N>>,
    /// What every route lookup says.
    pub route: Option<Route>,
}

/// The tables of both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostTables {
    /// The node's settings; `None` before there are any.
    pub config: Option<Config>,
    /// The clock in ticks.
    pub now: u32,
    /// The clock in ns.
    pub now_ns: u64,
    /// Which endpoints clients stay with.
    pub affinity: BTreeMap<AffinityKey, Affinity>,
    /// Words of the gate that are not zero.
    pub gate: BTreeMap<u32, u64>,
    /// Ids that take new flows, by index.
    pub live: BTreeMap<u32, Live>,
    /// IPv4.
    pub v4: Family<4>,
    /// IPv6.
    pub v6: Family<16>,
    /// Refusals that may still be sent; `None` for any number.
    pub answers_left: Option<u32>,
    /// Index of the only device that packets may leave by, for XDP.
    pub transmits_only_by: Option<u32>,
    /// The socket's cookie.
    pub cookie: u64,
    /// The cookie of the socket's network namespace.
    pub netns_cookie: u64,
    /// The next random number.
    pub random: u32,
    /// What sockets were translated to.
    pub peers: BTreeMap<PeerKey, Peer>,
}

impl HostTables {
    /// Let this address through the gate.
    pub fn open_gate<const N: usize>(&mut self, addr: &[u8; N]) {
        let (word, mask) = gate::bit(addr);
        *self.gate.entry(word).or_default() |= mask;
    }
}

impl Node for HostTables {
    fn ports(&self) -> Option<Ports> {
        Ports::of(self.config.as_ref()?)
    }

    fn now(&self) -> u32 {
        self.now
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn gate(&self, word: u32, mask: u64) -> bool {
        self.gate.get(&word).is_some_and(|bits| bits & mask != 0)
    }

    fn is_live(&self, id: EndpointId, views: u32) -> bool {
        self.live.get(&id.index()).is_some_and(|live| live.takes(id, views))
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinity.get(key).copied()
    }

    fn refresh(&mut self, key: &AffinityKey, now_ns: u64) {
        if let Some(affinity) = self.affinity.get_mut(key) {
            affinity.last_ns = now_ns;
        }
    }

    fn stay(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.affinity.insert(*key, *affinity);
    }

    fn may_answer(&mut self) -> bool {
        match &mut self.answers_left {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn has_stack(&self) -> bool {
        self.transmits_only_by.is_none()
    }

    fn can_leave_by(&self, route: &Route) -> bool {
        match (self.transmits_only_by, route) {
            (None, _) => true,
            (Some(own), Route::Link(link)) => link.ifindex == own,
            (Some(_), Route::Neighbour(_) | Route::None) => false,
        }
    }
}

macro_rules! tables {
    ($len:literal, $family:ident, $masquerade:ident) => {
        impl Tables<$len> for HostTables {
            type Entry = FlowKey<$len>;

            fn frontend(&self, key: &FrontendKey<$len>) -> Option<Frontend> {
                self.$family.frontends.get(key).copied()
            }

            fn endpoint(&self, slot: u32) -> Option<Endpoint<$len>> {
                let empty = Endpoint::new([0; $len], 0, 0, EndpointId::NONE);
                (slot < self.$family.endpoints_max)
                    .then(|| self.$family.endpoints.get(&slot).copied().unwrap_or(empty))
            }

            fn is_node_address(&self, addr: &[u8; $len]) -> bool {
                self.$family.node_addresses.contains(addr)
            }

            fn is_allowed(&self, service: u32, client: &[u8; $len]) -> bool {
                (0..=8 * $len).any(|len| {
                    let range = SourceKey::range(service, cut(*client, len), len);
                    self.$family.sources.contains(&range)
                })
            }

            fn masquerade(&self) -> Option<[u8; $len]> {
                let addr = self.config?.$masquerade;
                (addr != [0; $len]).then_some(addr)
            }

            fn flow(&self, key: &FlowKey<$len>) -> Option<FlowKey<$len>> {
                self.$family.flows.contains_key(key).then_some(*key)
            }

            fn to(&self, entry: FlowKey<$len>) -> Tuple<$len> {
                self.$family.flows[&entry].to
            }

            fn flags(&self, entry: FlowKey<$len>) -> u32 {
                self.$family.flows[&entry].flags
            }

            fn endpoint_of(&self, entry: FlowKey<$len>) -> EndpointId {
                EndpointId::from_bits(self.$family.flows[&entry].endpoint)
            }

            fn seen(&self, entry: FlowKey<$len>) -> u32 {
                self.$family.flows[&entry].seen
            }

            fn link(&self, entry: FlowKey<$len>, now: u32) -> Option<Link> {
                let flow = &self.$family.flows[&entry];
                (flow.link_seen == now).then_some(flow.link)
            }

            fn set_seen(&mut self, entry: FlowKey<$len>, seen: u32) {
                if let Some(flow) = self.$family.flows.get_mut(&entry) {
                    flow.seen = seen;
                }
            }

            fn add_flags(&mut self, entry: FlowKey<$len>, flags: u32) {
                if let Some(flow) = self.$family.flows.get_mut(&entry) {
                    flow.flags |= flags;
                }
            }

            fn set_link(&mut self, entry: FlowKey<$len>, link: Link, seen: u32) {
                if let Some(flow) = self.$family.flows.get_mut(&entry) {
                    flow.link = link;
                    flow.link_seen = seen;
                }
            }

            fn insert_new(
                &mut self,
                key: &FlowKey<$len>,
                to: &Tuple<$len>,
                origin: &Origin,
            ) -> Insert {
                if self.$family.flows.contains_key(key) {
                    Insert::Taken
                } else if Tables::<$len>::insert(self, key, to, origin) {
                    Insert::Done
                } else {
                    Insert::Full
                }
            }

            fn insert(&mut self, key: &FlowKey<$len>, to: &Tuple<$len>, origin: &Origin) -> bool {
                let family = &mut self.$family;
                let fits = family.flows.len() < family.flows_max || family.flows.contains_key(key);
                if fits {
                    family.flows.insert(*key, origin.flow(to));
                }
                fits
            }

            fn remove(&mut self, key: &FlowKey<$len>) {
                self.$family.flows.remove(key);
            }

            fn route(&self, _: &[u8; $len], _: &[u8; $len]) -> Route {
                self.$family.route.unwrap_or(Route::None)
            }
        }
    };
}

tables!(4, v4, masquerade4);
tables!(16, v6, masquerade6);

/// The address with only its first `len` bits.
fn cut<const N: usize>(addr: [u8; N], len: u32) -> [u8; N] {
    let mut left = len;
    addr.map(|byte| {
        let kept = left.min(8);
        left -= kept;
        byte & !0xff_u8.checked_shr(kept).unwrap_or(0)
    })
}

impl Sockets for HostTables {
    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }

    fn host_netns_cookie(&self) -> u64 {
        self.config.map_or(0, |config| config.host_netns_cookie)
    }

    fn config_flags(&self) -> u32 {
        self.config.map_or(0, |config| config.flags)
    }

    fn random(&self) -> u32 {
        self.random
    }

    fn peer(&self, key: &PeerKey) -> Option<Peer> {
        self.peers.get(key).copied()
    }

    fn remember(&mut self, key: &PeerKey, peer: &Peer) {
        self.peers.insert(*key, *peer);
    }
}
