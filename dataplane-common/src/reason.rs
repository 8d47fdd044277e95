//! Why a packet or a socket call ended as it did. Every outcome is counted under its name.

/// Where a program sits.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// TC, from a pod.
    PodIngress = 0,
    /// TC, to a pod.
    PodEgress = 1,
    /// TC, from outside.
    NicIngress = 2,
    /// TC, to outside.
    NicEgress = 3,
    /// XDP, from outside.
    NicXdp = 4,
    /// `connect` of a socket.
    Connect = 5,
    /// `sendmsg` of an unconnected UDP socket.
    Sendmsg = 6,
    /// `recvmsg` of a UDP socket.
    Recvmsg = 7,
    /// `getpeername` of a socket.
    Getpeername = 8,
}

impl Hook {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 9] = [
        Self::PodIngress,
        Self::PodEgress,
        Self::NicIngress,
        Self::NicEgress,
        Self::NicXdp,
        Self::Connect,
        Self::Sendmsg,
        Self::Recvmsg,
        Self::Getpeername,
    ];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PodIngress => "pod_ingress",
            Self::PodEgress => "pod_egress",
            Self::NicIngress => "nic_ingress",
            Self::NicEgress => "nic_egress",
            Self::NicXdp => "nic_xdp",
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::Recvmsg => "recvmsg",
            Self::Getpeername => "getpeername",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
        /// Why a packet or a socket call ended as it did.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $number,)+ }

        impl Reason {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in metrics and log records.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }
    };
}

reasons! {
    /// Passed: neither IPv4 nor IPv6.
    NotIp = 0, "not_ip";
    /// Passed: the packet ends inside a header.
    Short = 1, "short";
    /// Passed: a header contradicts itself, or there are more extension headers than we follow.
    Malformed = 2, "malformed";
    /// Passed: a fragment; only whole packets carry their ports.
    Fragment = 3, "fragment";
    /// Passed: none of TCP, UDP and SCTP.
    NotTransport = 4, "not_transport";
    /// Passed: nobody's frontend.
    NotAService = 5, "not_a_service";
    /// Passed: not the answer of a translated flow.
    NotAReply = 6, "not_a_reply";
    /// Passed by XDP, untouched: TC has to do it (local endpoint, no neighbour yet, another device).
    LeftToTc = 7, "left_to_tc";
    /// Passed: the programs have not been configured yet.
    NotConfigured = 8, "not_configured";
    /// Translated to an endpoint, first packet of its flow.
    New = 9, "new";
    /// Translated to an endpoint, later packet of its flow.
    Established = 10, "established";
    /// An answer translated back.
    Reply = 11, "reply";
    /// UDP flow or ended connection that got another endpoint, since its own had left.
    Reselected = 12, "reselected";
    /// Refused with RST or ICMP port unreachable: the frontend has no endpoint.
    Refused = 13, "refused";
    /// Dropped: the frontend has no endpoint, and the packet is one that nobody answers.
    RefusedSilently = 14, "refused_silently";
    /// Dropped: no source port left for this endpoint.
    NoSourcePort = 15, "no_source_port";
    /// Dropped: the node has no address of this family to masquerade with.
    NoSourceAddress = 16, "no_source_address";
    /// Dropped: no route to where the rewritten packet should go.
    NoRoute = 17, "no_route";
    /// Dropped: the hop limit ended here.
    HopLimit = 18, "hop_limit";
    /// Dropped: the endpoint array has no such entry; the maps are wrong.
    NoSuchEndpoint = 19, "no_such_endpoint";
    /// Dropped: the flow table took no entry.
    FlowTable = 20, "flow_table";
    /// Passed by a socket hook: TC will translate each datagram of this pod's UDP socket.
    LeftToPodLink = 21, "left_to_pod_link";
    /// Dropped: the packet could not be resized into an answer.
    CannotAnswer = 22, "cannot_answer";
    /// Dropped: the client is in none of the frontend's source ranges.
    SourceNotAllowed = 23, "source_not_allowed";
    /// Dropped: the traffic policy is Local, and only other nodes have endpoints.
    NoLocalEndpoint = 24, "no_local_endpoint";
    /// Translated without a flow entry, since the table took none: each packet chooses by its hash.
    Stateless = 25, "stateless";
    /// An ICMP error about a translated packet, translated back.
    IcmpError = 26, "icmp_error";
    /// Dropped: refused, but answers are limited and this one would be too many.
    RefusalLimited = 27, "refusal_limited";
}

/// Room for reasons per hook, so that a new one does not move the others.
pub const REASONS_MAX: u32 = 32;
/// Entries of the map `COUNTERS`.
pub const COUNTERS_MAX: u32 = 16 * REASONS_MAX;

/// Index into `COUNTERS`.
#[inline(always)]
pub const fn counter(hook: Hook, reason: Reason) -> u32 {
    hook as u32 * REASONS_MAX + reason as u32
}
