//! What the datapath looks up and remembers. Maps in the kernel, plain collections on the host.

use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey,
    Link, Tuple,
};

/// The port ranges of [`Config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// First port that a translated source may get.
    pub source_min: u16,
    /// How many ports from there a translated source may get; never 0.
    pub source_count: u16,
    /// First NodePort.
    pub node_min: u16,
    /// Last NodePort.
    pub node_max: u16,
}

impl Ports {
    /// The ranges of a configured node; `None` before it is configured.
    #[inline(always)]
    pub const fn of(config: &Config) -> Option<Self> {
        if config.source_port_count == 0 {
            return None;
        }
        Some(Self {
            source_min: config.source_port_min,
            source_count: config.source_port_count,
            node_min: config.node_port_min,
            node_max: config.node_port_max,
        })
    }

    /// Whether a translated source may have this port.
    #[inline(always)]
    pub const fn is_source(&self, port: u16) -> bool {
        port.wrapping_sub(self.source_min) < self.source_count
    }

    /// Whether this may be a NodePort.
    #[inline(always)]
    pub const fn is_node(&self, port: u16) -> bool {
        self.node_min <= port && port <= self.node_max
    }
}

/// What both directions of a new flow have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The endpoint that was chosen.
    pub endpoint: EndpointId,
    /// Number of the service port.
    pub service: u32,
    /// Flags of `Flow`.
    pub flags: u32,
    /// The tick.
    pub seen: u32,
}

impl Origin {
    /// The entry of one direction.
    #[inline(always)]
    pub fn flow<const N: usize>(&self, to: &Tuple<N>) -> Flow<N> {
        Flow {
            to: *to,
            endpoint: self.endpoint.to_bits(),
            seen: self.seen,
            service: self.service,
            flags: self.flags,
            link: Link::default(),
            link_seen: 0,
        }
    }
}

/// What both families share.
pub trait Node {
    /// The node's port ranges; `None` before it is configured.
    fn ports(&self) -> Option<Ports>;

    /// The current tick (see [`dataplane_common::flow::tick`]).
    fn now(&self) -> u32;

    /// The same clock in ns.
    fn now_ns(&self) -> u64;

    /// Whether any bit of `mask` is set in this word of the gate.
    fn gate(&self, word: u32, mask: u64) -> bool;

    /// Whether this endpoint takes new flows in one of these views (see [`dataplane_common::Live`]).
    fn is_live(&self, id: EndpointId, views: u32) -> bool;

    /// The endpoint that a client had last time.
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;

    /// Note that the client has begun another flow with its endpoint.
    fn refresh(&mut self, key: &AffinityKey, now_ns: u64);

    /// Note the endpoint that a client has from now on.
    fn stay(&mut self, key: &AffinityKey, affinity: &Affinity);

    /// Whether this CPU may send one more refusal (see [`crate::limit`]); counts it if so.
    fn may_answer(&mut self) -> bool;

    /// Whether rewritten packets may be handed to the stack. XDP may not: its packets are sent on
    /// by the device they came from, or left to TC.
    fn has_stack(&self) -> bool;

    /// Whether a packet can leave by this hop from here.
    fn can_leave_by(&self, route: &Route) -> bool;
}

/// What one family looks up.
pub trait Tables<const N: usize>: Node {
    /// A flow that was found: where it is, not what it says.
    type Entry: Copy;

    /// The frontend with this key.
    fn frontend(&self, key: &FrontendKey<N>) -> Option<Frontend>;

    /// The endpoint in this slot; `None` beyond the array.
    fn endpoint(&self, slot: u32) -> Option<Endpoint<N>>;

    /// Whether the address is one of this node.
    fn is_node_address(&self, addr: &[u8; N]) -> bool;

    /// Whether a source range of the service port has this client.
    fn is_allowed(&self, service: u32, client: &[u8; N]) -> bool;

    /// The source of masqueraded packets, if the node has an address of this family.
    fn masquerade(&self) -> Option<[u8; N]>;

    /// Find a flow.
    fn flow(&self, key: &FlowKey<N>) -> Option<Self::Entry>;

    /// What the flow's packets become.
    fn to(&self, entry: Self::Entry) -> Tuple<N>;

    /// The flow's flags.
    fn flags(&self, entry: Self::Entry) -> u32;

    /// The endpoint that the flow goes to.
    fn endpoint_of(&self, entry: Self::Entry) -> EndpointId;

    /// The tick in which the flow was last seen.
    fn seen(&self, entry: Self::Entry) -> u32;

    /// The flow's next hop, if it was looked up in the tick `now`.
    fn link(&self, entry: Self::Entry, now: u32) -> Option<Link>;

    /// Note when it was seen.
    fn set_seen(&mut self, entry: Self::Entry, seen: u32);

    /// Set flags, beside those that it has.
    fn add_flags(&mut self, entry: Self::Entry, flags: u32);

    /// Keep its next hop for this tick.
    fn set_link(&mut self, entry: Self::Entry, link: Link, seen: u32);

    /// Add a flow unless its key is taken.
    fn insert_new(&mut self, key: &FlowKey<N>, to: &Tuple<N>, origin: &Origin) -> Insert;

    /// Add a flow or replace what stands there; `false` when the table takes none.
    fn insert(&mut self, key: &FlowKey<N>, to: &Tuple<N>, origin: &Origin) -> bool;

    /// Forget a flow.
    fn remove(&mut self, key: &FlowKey<N>);

    /// Where a packet with these addresses leaves.
    fn route(&self, src: &[u8; N], dst: &[u8; N]) -> Route;
}

/// What became of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// The entry is there.
    Done,
    /// The key belongs to another flow.
    Taken,
    /// The table takes no entry.
    Full,
}

/// What the routing and neighbour tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Device and both MAC addresses are known.
    Link(Link),
    /// Leaves by the device with this index; the kernel has yet to ask for the next hop's MAC.
    Neighbour(u32),
    /// Nowhere.
    None,
}
