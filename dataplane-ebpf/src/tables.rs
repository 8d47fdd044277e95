//! What the datapath looks up and remembers. Maps in the kernel, plain collections on the host.

use dataplane_common::{Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Link};

/// What both families share.
pub trait Node {
    /// The node's settings; `None` only when the map is missing.
    fn config(&self) -> Option<&Config>;

    /// The current tick (see [`dataplane_common::flow::tick`]).
    fn now(&self) -> u32;

    /// Whether any bit of `mask` is set in this word of the gate.
    fn gate(&self, word: u32, mask: u64) -> bool;

    /// Whether this endpoint takes new flows.
    fn is_live(&self, id: EndpointId) -> bool;

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

    /// The source of masqueraded packets, if the node has an address of this family.
    fn masquerade(&self) -> Option<[u8; N]>;

    /// Find a flow.
    fn flow(&self, key: &FlowKey<N>) -> Option<Self::Entry>;

    /// What it says.
    fn read(&self, entry: Self::Entry) -> Flow<N>;

    /// Note when it was seen.
    fn set_seen(&mut self, entry: Self::Entry, seen: u32);

    /// Set flags, beside those that it has.
    fn add_flags(&mut self, entry: Self::Entry, flags: u32);

    /// Keep its next hop for this tick.
    fn set_link(&mut self, entry: Self::Entry, link: Link, seen: u32);

    /// Add a flow unless its key is taken.
    fn insert_new(&mut self, key: &FlowKey<N>, flow: &Flow<N>) -> Insert;

    /// Add a flow or replace what stands there; `false` when the table takes none.
    fn insert(&mut self, key: &FlowKey<N>, flow: &Flow<N>) -> bool;

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
