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
    /// First port that frontends on every node address may have: `NodePorts`, and host ports if any.
    pub node_port_min: u16,
    /// Last port that frontends on every node address may have.
    pub node_port_max: u16,
}

impl Config {
    /// The TC programs serve pods: UDP sockets of pods may stay untranslated at `connect`, so that
    /// each of their datagrams can be re-selected.
    pub const POD_LINKS: u32 = 1;
    /// Answers to flows whose source stays leave by a NIC and are looked up there: some endpoint has
    /// the node's own address, or some frontend serves clients from outside without masquerade.
    pub const NIC_REPLIES: u32 = 2;
    /// Frontends on every node address are also on the loopback addresses, for the node's own
    /// processes.
    pub const LOOPBACK: u32 = 4;
}

const _: () = assert!(size_of::<Config>() == 40 && align_of::<Config>() == 8);
