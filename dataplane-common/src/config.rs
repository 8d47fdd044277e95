//! What the programs know about this node; the one entry of the array `CONFIG`.

/// Settings of this node. User space may rewrite them at any time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`).
    pub host_netns_cookie: u64,
    /// Bits named `Config::*`.
    pub flags: u32,
    /// Source of masqueraded IPv4 packets; all zero when the node has none.
    pub masquerade4: [u8; 4],
    /// Source of masqueraded IPv6 packets; all zero when the node has none.
    pub masquerade6: [u8; 16],
    /// First port that a translated source may get.
    pub source_port_min: u16,
    /// How many ports from there a translated source may get; never 0.
    pub source_port_count: u16,
    /// First NodePort.
    pub node_port_min: u16,
    /// Last NodePort.
    pub node_port_max: u16,
}

impl Config {
    /// The TC programs serve pods: UDP sockets of pods may stay untranslated at `connect`, so that
    /// each of their datagrams can be re-selected.
    pub const POD_LINKS: u32 = 1;
    /// Some endpoint has the node's own address: answers that leave the node by a NIC are looked up.
    pub const HOST_ENDPOINTS: u32 = 2;
}

const _: () = assert!(size_of::<Config>() == 40 && align_of::<Config>() == 8);
