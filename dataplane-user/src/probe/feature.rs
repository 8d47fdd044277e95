//! The features, and what follows for people from having one or not.

use crate::backend::Mode;

macro_rules! features {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal, $with:literal, $without:literal;)+) => {
        /// Something that backends use and that not every node has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Feature {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Feature {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// As tables and JSON name it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            /// What follows from having it, or from not having it.
            pub const fn consequence(self, found: bool) -> &'static str {
                match (self, found) {
                    $((Self::$name, true) => $with, (Self::$name, false) => $without,)+
                }
            }
        }
    };
}

features! {
    /// The process may change the kernel's network.
    Root = "root",
        "the node can be programmed", "nothing can be programmed: run as root";
    /// This binary holds the programs.
    Object = "eBPF programs in this binary",
        "ebpf needs no files", "no ebpf: build with the BPF tools (`cargo xtask setup`)";
    /// The system call, and maps.
    Bpf = "bpf system call and maps",
        "ebpf can hold services", "no ebpf";
    /// Room for the maps of the default sizes.
    MapMemory = "memory for maps",
        "ebpf's maps fit", "no ebpf with maps of the default sizes: make them smaller and ask for ebpf";
    /// Programs of cgroups that see `connect` and `sendmsg`.
    SocketPrograms = "cgroup socket programs",
        "ebpf serves sockets at connect", "no ebpf: the node's own processes would reach no service";
    /// `bpf_set_retval`.
    SetRetval = "bpf_set_retval",
        "refused connects say ECONNREFUSED", "no ebpf: a refused connect could not say why";
    /// Programs of TC.
    TcPrograms = "TC programs",
        "ebpf serves pod links and NICs", "no ebpf";
    /// Programs of XDP.
    XdpPrograms = "XDP programs",
        "ebpf serves NICs in the driver where it can", "ebpf serves NICs by TC alone";
    /// Links of TC programs.
    Tcx = "tcx",
        "TC programs are attached by tcx", "TC programs are attached by clsact";
    /// The qdisc that TC programs stand in without tcx.
    Clsact = "clsact qdisc",
        "TC programs can do without tcx", "ebpf needs tcx";
    /// A mounted cgroup2.
    Cgroup2 = "cgroup2 is mounted",
        "socket programs have a place", "no ebpf: mount cgroup2";
    /// The BPF file system.
    Bpffs = "BPF file system",
        "maps and links outlive the daemon", "no ebpf: nothing would outlive the daemon";
    /// Our own programs, in front of this kernel's verifier.
    Verified = "our programs pass the verifier",
        "ebpf runs on this kernel", "no ebpf on this kernel";
    /// `nf_tables` over netlink, tables of both families.
    NfTables = "nf_tables",
        "nftables can hold services", "no nftables, and no ipvs, which needs it for masquerade";
    /// Maps whose keys are several fields, looked up from registers.
    NftConcatenation = "nf_tables: concatenated keys",
        "one lookup finds a frontend", "no nftables";
    /// Endpoints by chance.
    NftNumgen = "nf_tables: numgen",
        "endpoints are picked by chance", "no nftables";
    /// Destination NAT.
    NftNat = "nf_tables: nat",
        "destinations are translated", "no nftables";
    /// Masquerade.
    NftMasquerade = "nf_tables: masquerade",
        "sources become the node's address", "no nftables, no ipvs";
    /// Sets that rules fill and that forget.
    NftDynamicSets = "nf_tables: sets filled by rules, with timeouts",
        "session affinity works", "no nftables: clients would not stay with their endpoint";
    /// Refusals.
    NftReject = "nf_tables: reject",
        "services without endpoints refuse", "no nftables: clients would wait for nothing";
    /// The connection tracking table over netlink.
    ConntrackNetlink = "conntrack over netlink",
        "stale UDP entries are removed, connections move between backends",
        "no nftables, ipvs or iptables: UDP clients would stay with endpoints that left";
    /// Connection tracking of SCTP.
    ConntrackSctp = "conntrack of SCTP",
        "netfilter translates SCTP", "SCTP services work with ebpf only";
    /// The IPVS family of generic netlink.
    Ipvs = "ip_vs",
        "ipvs can hold services", "no ipvs";
    /// Schedulers.
    IpvsScheduler = "ip_vs: scheduler rr",
        "virtual servers share their load evenly", "no ipvs";
    /// Dummy devices.
    Dummy = "dummy device",
        "ipvs has a device for service addresses", "no ipvs";
    /// `iptables-restore` on `nf_tables`, tables nat and filter, both families.
    IptablesNft = "iptables (nf_tables)",
        "iptables can hold services", "iptables needs its legacy variant";
    /// `iptables-restore` on the old interface.
    IptablesLegacy = "iptables (legacy)",
        "iptables can hold services beside rules of legacy tools", "iptables needs its nf_tables variant";
    /// `-m statistic`.
    IptablesStatistic = "iptables: statistic",
        "endpoints are picked by chance", "no iptables";
    /// `-m conntrack`.
    IptablesConntrack = "iptables: conntrack",
        "only new connections are refused", "no iptables";
    /// `-m mark` and `-j MARK`.
    IptablesMark = "iptables: mark",
        "masquerade is asked for by a bit of the mark", "no iptables";
    /// `-m comment`.
    IptablesComment = "iptables: comment",
        "rules say which service they are for", "no iptables";
    /// `-m addrtype`.
    IptablesAddrtype = "iptables: addrtype",
        "node ports are found by the kind of the address", "no iptables";
    /// `-m recent`.
    IptablesRecent = "iptables: recent",
        "session affinity works", "iptables ignores session affinity";
    /// `-j REJECT`.
    IptablesReject = "iptables: reject",
        "services without endpoints refuse", "no iptables: clients would wait for nothing";
    /// `-j MASQUERADE --random-fully`.
    IptablesRandomFully = "iptables: masquerade, fully random",
        "source ports do not collide", "no iptables: its masquerade loses packets under load";
    /// `route_localnet`.
    RouteLocalnet = "route_localnet can be set",
        "node ports work on 127.0.0.1 with netfilter too",
        "node ports work on 127.0.0.1 with ebpf only: --nodeport-addresses without loopback";
}

impl Feature {
    /// What a mode needs: one of each group.
    pub const fn needed(mode: Mode) -> &'static [&'static [Self]] {
        match mode {
            Mode::Ebpf => EBPF,
            Mode::Nftables => NFTABLES,
            Mode::Ipvs => IPVS,
            Mode::Iptables => IPTABLES,
        }
    }
}

const EBPF: &[&[Feature]] = &[
    &[Feature::Root],
    &[Feature::Object],
    &[Feature::Bpf],
    &[Feature::MapMemory],
    &[Feature::SocketPrograms],
    &[Feature::SetRetval],
    &[Feature::TcPrograms],
    &[Feature::Tcx, Feature::Clsact],
    &[Feature::Cgroup2],
    &[Feature::Bpffs],
    &[Feature::Verified],
];

const NFTABLES: &[&[Feature]] = &[
    &[Feature::Root],
    &[Feature::NfTables],
    &[Feature::NftConcatenation],
    &[Feature::NftNumgen],
    &[Feature::NftNat],
    &[Feature::NftMasquerade],
    &[Feature::NftDynamicSets],
    &[Feature::NftReject],
    &[Feature::ConntrackNetlink],
];

const IPVS: &[&[Feature]] = &[
    &[Feature::Root],
    &[Feature::Ipvs],
    &[Feature::IpvsScheduler],
    &[Feature::Dummy],
    &[Feature::NfTables],
    &[Feature::NftConcatenation],
    &[Feature::NftMasquerade],
    &[Feature::NftReject],
    &[Feature::ConntrackNetlink],
];

const IPTABLES: &[&[Feature]] = &[
    &[Feature::Root],
    &[Feature::IptablesNft, Feature::IptablesLegacy],
    &[Feature::IptablesStatistic],
    &[Feature::IptablesConntrack],
    &[Feature::IptablesMark],
    &[Feature::IptablesComment],
    &[Feature::IptablesAddrtype],
    &[Feature::IptablesReject],
    &[Feature::IptablesRandomFully],
    &[Feature::ConntrackNetlink],
];
