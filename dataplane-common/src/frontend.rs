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

/// Value of the maps `FRONTENDS4` and `FRONTENDS6`: a contiguous block of the endpoint array.
///
/// Writing it commits a change of the service: readers see the old block or the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// Index of the first endpoint in `ENDPOINTS4` or `ENDPOINTS6`.
    pub base: u32,
    /// Endpoints in the block. With 0 the frontend refuses.
    pub count: u32,
    /// Bits named `Frontend::*`.
    pub flags: u32,
    /// Number of the service port, stable over restarts; frontends of one service port share it.
    pub service: u32,
}

impl Frontend {
    /// The source becomes the node's address, so that the answer comes back through this node.
    pub const MASQUERADE: u32 = 1;
}

const _: () = assert!(size_of::<FrontendKey<4>>() == 8 && align_of::<FrontendKey<4>>() == 1);
const _: () = assert!(size_of::<FrontendKey<16>>() == 20 && align_of::<FrontendKey<16>>() == 1);
const _: () = assert!(size_of::<Frontend>() == 16 && align_of::<Frontend>() == 4);
