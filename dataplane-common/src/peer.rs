//! What the socket hooks remember about a socket, so that it sees the frontend and never the pod.

/// Key of the map `PEERS`. IPv4 addresses are stored as `::ffff:a.b.c.d`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The socket (`bpf_get_socket_cookie`).
    pub cookie: u64,
    /// A frontend (forward) or an endpoint (reply).
    pub addr: [u8; 16],
    /// Its port, in network order.
    pub port: [u8; 2],
    /// The IANA protocol number.
    pub protocol: u8,
    /// 0: from a frontend to the endpoint chosen for it; 1: from an endpoint to its frontend.
    pub direction: u8,
    /// Always 0.
    pub pad: [u8; 4],
}

/// Value of the map `PEERS`: the endpoint (forward) or the frontend (reply).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub addr: [u8; 16],
    /// Its port, in network order.
    pub port: [u8; 2],
    /// The views in which the endpoint was chosen: bits of [`crate::Live`].
    pub views: u16,
    /// Identity of the endpoint, as in [`crate::EndpointId`].
    pub endpoint: u32,
}

const _: () = assert!(size_of::<PeerKey>() == 32 && align_of::<PeerKey>() == 8);
const _: () = assert!(size_of::<Peer>() == 24 && align_of::<Peer>() == 8);
