//! Names of maps and programs, and how large a map is unless the daemon says otherwise.

/// Frontends on IPv4: hash, `FrontendKey<4>` to `Frontend`.
pub const FRONTENDS4: &str = "FRONTENDS4";
/// Frontends on IPv6: hash, `FrontendKey<16>` to `Frontend`.
pub const FRONTENDS6: &str = "FRONTENDS6";
/// Endpoints on IPv4: array of `Endpoint<4>`.
pub const ENDPOINTS4: &str = "ENDPOINTS4";
/// Endpoints on IPv6: array of `Endpoint<16>`.
pub const ENDPOINTS6: &str = "ENDPOINTS6";
/// Identities that take new flows: array of [`crate::Live`]. Both families.
pub const LIVE: &str = "LIVE";
/// Addresses that may be a frontend's: array of `u64`, see [`crate::gate`].
pub const GATE: &str = "GATE";
/// IPv4 addresses of this node: hash, `[u8; 4]` to `u32` (always 1).
pub const NODE_ADDRESSES4: &str = "NODE_ADDRESSES4";
/// IPv6 addresses of this node: hash, `[u8; 16]` to `u32` (always 1).
pub const NODE_ADDRESSES6: &str = "NODE_ADDRESSES6";
/// Flows on IPv4: LRU hash, `FlowKey<4>` to `Flow<4>`.
pub const FLOWS4: &str = "FLOWS4";
/// Flows on IPv6: LRU hash, `FlowKey<16>` to `Flow<16>`.
pub const FLOWS6: &str = "FLOWS6";
/// What sockets were translated to: LRU hash, `PeerKey` to `Peer`.
pub const PEERS: &str = "PEERS";
/// Clients that a service port serves, on IPv4: longest-prefix trie, see [`crate::SourceKey`].
pub const SOURCES4: &str = "SOURCES4";
/// Clients that a service port serves, on IPv6: longest-prefix trie, see [`crate::SourceKey`].
pub const SOURCES6: &str = "SOURCES6";
/// Which endpoint a client stays with: LRU hash, `AffinityKey` to `Affinity`. Both families.
pub const AFFINITY: &str = "AFFINITY";
/// The node's settings: array with one `Config`.
pub const CONFIG: &str = "CONFIG";
/// Packets and socket calls by hook and reason: per-CPU array of `u64`, see [`crate::reason`].
pub const COUNTERS: &str = "COUNTERS";

/// Every map that is pinned, in the order in which a reader may open them.
pub const MAPS: [&str; 16] = [
    CONFIG,
    LIVE,
    GATE,
    ENDPOINTS4,
    ENDPOINTS6,
    FRONTENDS4,
    FRONTENDS6,
    NODE_ADDRESSES4,
    NODE_ADDRESSES6,
    FLOWS4,
    FLOWS6,
    PEERS,
    SOURCES4,
    SOURCES6,
    AFFINITY,
    COUNTERS,
];

/// TC program on the host's end of a pod's link, packets from the pod.
pub const POD_INGRESS: &str = "pod_ingress";
/// TC program on the host's end of a pod's link, packets to the pod.
pub const POD_EGRESS: &str = "pod_egress";
/// TC program on a NIC, packets from outside.
pub const NIC_INGRESS: &str = "nic_ingress";
/// TC program on a NIC, packets to outside.
pub const NIC_EGRESS: &str = "nic_egress";
/// XDP program on a NIC, in its driver.
pub const NIC_XDP: &str = "nic_xdp";
/// The same in the network stack, for NICs whose drivers have no XDP.
pub const NIC_XDP_GENERIC: &str = "nic_xdp_generic";
/// The socket hooks.
pub const SOCKETS: [&str; 8] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
];

/// Frontends per family, and one entry more for each address that is a cluster IP.
pub const FRONTENDS_MAX: u32 = 1 << 18;
/// Slots of the endpoint array per family; blocks that move need room beside the old one.
pub const ENDPOINTS_MAX: u32 = 1 << 20;
/// Addresses of a node per family.
pub const NODE_ADDRESSES_MAX: u32 = 1024;
/// Entries of the flow table per family; a flow takes two.
pub const FLOWS_MAX: u32 = 1 << 18;
/// Sockets' translations; a TCP connection takes one, an unconnected UDP socket two per frontend.
pub const PEERS_MAX: u32 = 1 << 17;
/// Source ranges per family.
pub const SOURCES_MAX: u32 = 1 << 16;
/// Clients that stay with an endpoint.
pub const AFFINITY_MAX: u32 = 1 << 17;

/// Frontends, endpoints, node addresses and flows of IPv4.
pub const MAPS4: [&str; 4] = [FRONTENDS4, ENDPOINTS4, NODE_ADDRESSES4, FLOWS4];
/// Frontends, endpoints, node addresses and flows of IPv6.
pub const MAPS6: [&str; 4] = [FRONTENDS6, ENDPOINTS6, NODE_ADDRESSES6, FLOWS6];
