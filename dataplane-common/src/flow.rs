//! Connection tracking: what happens to the packets of one direction of a flow.

/// Both ends of a packet. Addresses and ports are in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple<const N: usize> {
    /// Source address.
    pub src: [u8; N],
    /// Destination address.
    pub dst: [u8; N],
    /// Source port.
    pub src_port: [u8; 2],
    /// Destination port.
    pub dst_port: [u8; 2],
}

impl<const N: usize> Tuple<N> {
    /// The same flow seen from the other end.
    #[inline(always)]
    pub const fn reversed(&self) -> Self {
        Self { src: self.dst, dst: self.src, src_port: self.dst_port, dst_port: self.src_port }
    }
}

/// Key of the maps `FLOWS4` and `FLOWS6`: a packet as it arrives, before any rewrite.
///
/// Aligned for the kernel, which takes 8 bytes of its stack at a time only where they are aligned.
///
/// Each flow has two entries. The forward one is keyed by client and frontend, so two frontends
/// that lead to one endpoint never share it; the reply one by endpoint and (translated) client.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<const N: usize> {
    tuple: Tuple<N>,
    protocol: u8,
    direction: u8,
    pad: [u8; 2],
}

impl<const N: usize> FlowKey<N> {
    /// Key of packets from the client to the frontend.
    #[inline(always)]
    pub const fn forward(tuple: Tuple<N>, protocol: u8) -> Self {
        Self { tuple, protocol, direction: 0, pad: [0; 2] }
    }

    /// Key of packets from the endpoint back.
    #[inline(always)]
    pub const fn reply(tuple: Tuple<N>, protocol: u8) -> Self {
        Self { tuple, protocol, direction: 1, pad: [0; 2] }
    }

    /// The packet's ends before the rewrite.
    #[inline(always)]
    pub const fn tuple(&self) -> Tuple<N> {
        self.tuple
    }

    /// The IANA protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether this is the direction from the endpoint back to the client.
    #[inline(always)]
    pub const fn is_reply(&self) -> bool {
        self.direction != 0
    }

    /// Key of the flow's other direction, given what this direction's packets become.
    #[inline(always)]
    pub const fn partner(&self, to: &Tuple<N>) -> Self {
        Self {
            tuple: to.reversed(),
            protocol: self.protocol,
            direction: self.direction ^ 1,
            pad: [0; 2],
        }
    }
}

/// Value of the maps `FLOWS4` and `FLOWS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<const N: usize> {
    /// The packet's ends after the rewrite.
    pub to: Tuple<N>,
    /// The endpoint that was chosen.
    pub endpoint: u32,
    /// When a packet was last seen, in ticks (see [`tick`]).
    pub seen: u32,
    /// Number of the service port, as in [`crate::Frontend`].
    pub service: u32,
    /// Bits named `Flow::*`.
    pub flags: u32,
    /// Where rewritten packets leave, valid for the tick `link_seen`; used by forwarded flows only.
    pub link: Link,
    /// The tick in which `link` was looked up; 0 means never.
    pub link_seen: u32,
}

impl<const N: usize> Flow<N> {
    /// The sender of this direction has sent FIN.
    pub const FIN: u32 = 1;
    /// The sender of the other direction has sent FIN.
    pub const PARTNER_FIN: u32 = 2;
    /// Either side has sent RST.
    pub const RESET: u32 = 4;
    /// A packet of the other direction has been seen.
    pub const ANSWERED: u32 = 8;
    /// The source was translated too: packets are sent on by route, not handed to the stack.
    pub const FORWARD: u32 = 16;
    /// Where the views in which its endpoint was chosen start: bits of [`crate::Live`].
    pub const VIEWS_SHIFT: u32 = 5;
    /// The endpoint was chosen in the view of the traffic policy `Cluster`.
    pub const CLUSTER: u32 = crate::Live::CLUSTER << Self::VIEWS_SHIFT;
    /// The endpoint was chosen in the view of the traffic policy `Local`.
    pub const LOCAL: u32 = crate::Live::LOCAL << Self::VIEWS_SHIFT;
    /// The client had an endpoint by session affinity.
    pub const AFFINE: u32 = 1 << 7;

    /// The views in which the endpoint was chosen: bits of [`crate::Live`].
    #[inline(always)]
    pub const fn views(flags: u32) -> u32 {
        flags >> Self::VIEWS_SHIFT & (crate::Live::CLUSTER | crate::Live::LOCAL)
    }

    /// Whether a TCP connection with these flags has ended (both FINs, or a RST).
    #[inline(always)]
    pub const fn is_closed(flags: u32) -> bool {
        let both = Self::FIN | Self::PARTNER_FIN;
        flags & Self::RESET != 0 || flags & both == both
    }
}

/// A next hop as the kernel's routing and neighbour tables gave it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Index of the device the packet leaves by.
    pub ifindex: u32,
    /// MAC address of the next hop.
    pub dst_mac: [u8; 6],
    /// MAC address of the device.
    pub src_mac: [u8; 6],
}

/// The coarse clock of flow entries: one tick is 2³⁰ ns (1.07 s) of `CLOCK_MONOTONIC`.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "2^32 ticks are 146 years of uptime")]
pub const fn tick(monotonic_ns: u64) -> u32 {
    (monotonic_ns >> 30) as u32
}

const _: () = assert!(size_of::<FlowKey<4>>() == 16 && align_of::<FlowKey<4>>() == 8);
const _: () = assert!(size_of::<FlowKey<16>>() == 40 && align_of::<FlowKey<16>>() == 8);
const _: () = assert!(size_of::<Flow<4>>() == 48 && align_of::<Flow<4>>() == 4);
const _: () = assert!(size_of::<Flow<16>>() == 72 && align_of::<Flow<16>>() == 4);
const _: () = assert!(size_of::<Link>() == 16);
