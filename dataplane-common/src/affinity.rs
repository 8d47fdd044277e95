//! Which endpoint a client stays with (`sessionAffinity: ClientIP`).

/// Key of the map `AFFINITY`: one client of one service port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey {
    /// The client's address, IPv4 as `::ffff:a.b.c.d`; for the sockets of a network namespace, eight
    /// bytes of 0xff and its cookie.
    pub client: [u8; 16],
    /// Number of the service port, as in [`crate::Frontend`].
    pub service: u32,
    /// Always 0.
    pub pad: u32,
}

impl AffinityKey {
    /// A client that is known by its address.
    #[inline(always)]
    pub const fn of_address(service: u32, client: [u8; 16]) -> Self {
        Self { client, service, pad: 0 }
    }

    /// A client that is known by its network namespace, since its socket has no address yet.
    #[inline(always)]
    pub const fn of_namespace(service: u32, cookie: u64) -> Self {
        let client = (u64::MAX as u128) << 64 | cookie as u128;
        Self { client: client.to_be_bytes(), service, pad: 0 }
    }
}

/// Value of the map `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// When the client began its last flow, in ns of `CLOCK_MONOTONIC`.
    pub last_ns: u64,
    /// The endpoint's address, IPv4 as `::ffff:a.b.c.d`.
    pub addr: [u8; 16],
    /// Its port, in network order.
    pub port: [u8; 2],
    /// Its flags, as in [`crate::Endpoint`].
    pub flags: u16,
    /// Its [`crate::EndpointId`]. Once that is not live any more, the client chooses again.
    pub endpoint: u32,
}

const _: () = assert!(size_of::<AffinityKey>() == 24 && align_of::<AffinityKey>() == 4);
const _: () = assert!(size_of::<Affinity>() == 32 && align_of::<Affinity>() == 8);
