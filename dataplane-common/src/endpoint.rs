//! Where a service sends a flow.

/// Entry of the arrays `ENDPOINTS4` and `ENDPOINTS6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint<const N: usize> {
    addr: [u8; N],
    port: [u8; 2],
    flags: u16,
    id: u32,
}

impl<const N: usize> Endpoint<N> {
    /// The address belongs to this node itself (a pod with `hostNetwork`): the kernel's own stack
    /// answers, and a packet to it is never masqueraded.
    pub const HOST: u16 = 1;
    /// A pod on this node.
    pub const LOCAL: u16 = 2;

    /// An endpoint with its identity.
    #[inline(always)]
    pub const fn new(addr: [u8; N], port: u16, flags: u16, id: EndpointId) -> Self {
        Self { addr, port: port.to_be_bytes(), flags, id: id.0 }
    }

    /// The address of the pod.
    #[inline(always)]
    pub const fn addr(&self) -> [u8; N] {
        self.addr
    }

    /// The target port, in the machine's order.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Bits [`Self::HOST`] and [`Self::LOCAL`].
    #[inline(always)]
    pub const fn flags(&self) -> u16 {
        self.flags
    }

    /// Who this endpoint is, however often its service's block moves.
    #[inline(always)]
    pub const fn id(&self) -> EndpointId {
        EndpointId(self.id)
    }
}

/// Identity of one endpoint of one service port: an index into `LIVE` and a generation.
///
/// `LIVE[index]` holds the whole id while the endpoint takes new flows, and 0 afterwards (see
/// [`Live`]). A flow keeps the id, so one array read tells whether its endpoint is still there. The generation makes
/// an index that is used again a different id.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(u32);

impl EndpointId {
    const INDEX_BITS: u32 = 20;
    /// Greatest number of endpoints with an identity at one time, index 0 included.
    pub const INDEX_MAX: u32 = 1 << Self::INDEX_BITS;
    /// Nobody: never live.
    pub const NONE: Self = Self(0);

    /// The id for `index` (1 .. [`Self::INDEX_MAX`]) in its `generation` (modulo 4096).
    #[inline(always)]
    pub const fn new(index: u32, generation: u32) -> Self {
        Self((generation << Self::INDEX_BITS) | (index & (Self::INDEX_MAX - 1)))
    }

    /// Index into `LIVE`.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & (Self::INDEX_MAX - 1)
    }

    /// How often the index was given away before, modulo 4096.
    #[inline(always)]
    pub const fn generation(self) -> u32 {
        self.0 >> Self::INDEX_BITS
    }

    /// The number as it stands in a map.
    #[inline(always)]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The id read from a map.
    #[inline(always)]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
}

/// Entry of the array `LIVE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The [`EndpointId`] that takes new flows, or 0.
    pub id: u32,
    /// The views in which it does: bits [`Self::CLUSTER`] and [`Self::LOCAL`].
    pub views: u32,
}

impl Live {
    /// The view of the traffic policy `Cluster`.
    pub const CLUSTER: u32 = 1;
    /// The view of the traffic policy `Local`.
    pub const LOCAL: u32 = 2;

    /// Whether this endpoint takes new flows in one of these views.
    #[inline(always)]
    pub const fn takes(&self, id: EndpointId, views: u32) -> bool {
        id.0 != 0 && self.id == id.0 && self.views & views != 0
    }
}

const _: () = assert!(size_of::<Live>() == 8 && align_of::<Live>() == 4);
const _: () = assert!(size_of::<Endpoint<4>>() == 12 && align_of::<Endpoint<4>>() == 4);
const _: () = assert!(size_of::<Endpoint<16>>() == 24 && align_of::<Endpoint<16>>() == 4);
