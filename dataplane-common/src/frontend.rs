//! What clients connect to, and where its endpoints stand.

/// Key of the maps `FRONTENDS4` and `FRONTENDS6`: address, port and protocol.
///
/// The all-zero address stands for every address of this node (NodePort).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey<const N: usize> {
    addr: [u8; N],
    port: [u8; 2],
    protocol: u8,
    pad: u8,
}

impl<const N: usize> FrontendKey<N> {
    /// A frontend on one address.
    #[inline(always)]
    pub const fn new(addr: [u8; N], port: u16, protocol: u8) -> Self {
        Self { addr, port: port.to_be_bytes(), protocol, pad: 0 }
    }

    /// A frontend on every address of this node.
    #[inline(always)]
    pub const fn any_node_address(port: u16, protocol: u8) -> Self {
        Self::new([0; N], port, protocol)
    }

    /// The address; all zero means every address of this node.
    #[inline(always)]
    pub const fn addr(&self) -> [u8; N] {
        self.addr
    }

    /// The port, in the machine's order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// The IANA protocol number.
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }
}

/// Slots next to each other in `ENDPOINTS4` or `ENDPOINTS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slots {
    /// Index of the first endpoint.
    pub base: u32,
    /// How many there are. With 0 the frontend refuses, or drops where its flags say so.
    pub count: u32,
}

/// Value of the maps `FRONTENDS4` and `FRONTENDS6`: who serves clients on this node, and who others.
///
/// All endpoints of a service port stand in one block: those that only clients with the cluster-wide
/// view may use, then those that both views share, then those of the local view alone. So each view
/// is contiguous. Writing the value commits a change of the service: readers see the old block or the
/// new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Endpoints for clients on this node: its pods and its own processes.
    pub inside: Slots,
    /// Endpoints for all other clients.
    pub outside: Slots,
    /// Bits named `Frontend::*`.
    pub flags: u32,
    /// Number of the service port, stable over restarts; frontends of one service port share it.
    pub service: u32,
    /// With [`Self::AFFINITY`]: seconds for which a client stays with its endpoint after its last
    /// new flow.
    pub affinity_s: u32,
    /// Always 0.
    pub pad: u32,
}

impl Frontend {
    /// The source of pods' packets becomes the node's address, so that answers come back through
    /// this node.
    pub const MASQUERADE_INSIDE: u32 = 1;
    /// The same for packets from outside.
    pub const MASQUERADE_OUTSIDE: u32 = 1 << 1;
    /// `inside` is the view of the traffic policy `Local`.
    pub const LOCAL_INSIDE: u32 = 1 << 2;
    /// `outside` is the view of the traffic policy `Local`.
    pub const LOCAL_OUTSIDE: u32 = 1 << 3;
    /// With no slots in `inside`, packets are dropped, not refused: other nodes have endpoints.
    pub const DROP_INSIDE: u32 = 1 << 4;
    /// The same for `outside`.
    pub const DROP_OUTSIDE: u32 = 1 << 5;
    /// Clients stay with their endpoint (`sessionAffinity: ClientIP`, see [`crate::Affinity`]).
    pub const AFFINITY: u32 = 1 << 6;
    /// Only clients in `SOURCES4` or `SOURCES6` are served (see [`crate::SourceKey`]).
    pub const SOURCE_RANGES: u32 = 1 << 7;
    /// Where the kind starts: 4 bits, one of [`FrontendKind`]. For people; the datapath never asks.
    pub const KIND_SHIFT: u32 = 8;

    /// What part of which object the frontend comes from.
    #[inline(always)]
    pub const fn kind(&self) -> Option<FrontendKind> {
        FrontendKind::from_bits(self.flags >> Self::KIND_SHIFT & 0xf)
    }
}

/// What part of an object a frontend comes from.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// `spec.clusterIPs` of a Service.
    ClusterIp = 0,
    /// `spec.ports[].nodePort` of a Service.
    NodePort = 1,
    /// `status.loadBalancer.ingress[].ip` of a Service.
    LoadBalancer = 2,
    /// `spec.externalIPs` of a Service.
    ExternalIp = 3,
    /// `hostPort` of a Pod.
    HostPort = 4,
}

impl FrontendKind {
    /// The kind with this number.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            0 => Some(Self::ClusterIp),
            1 => Some(Self::NodePort),
            2 => Some(Self::LoadBalancer),
            3 => Some(Self::ExternalIp),
            4 => Some(Self::HostPort),
            _ => None,
        }
    }

    /// The bits in [`Frontend::flags`].
    #[inline(always)]
    pub const fn flags(self) -> u32 {
        (self as u32) << Frontend::KIND_SHIFT
    }
}

const _: () = assert!(size_of::<FrontendKey<4>>() == 8 && align_of::<FrontendKey<4>>() == 1);
const _: () = assert!(size_of::<FrontendKey<16>>() == 20 && align_of::<FrontendKey<16>>() == 1);
const _: () = assert!(size_of::<Frontend>() == 32 && align_of::<Frontend>() == 4);
