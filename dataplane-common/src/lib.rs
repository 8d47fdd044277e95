//! The bytes both sides of the kernel boundary agree on: keys, values, limits, reasons, map names.
//!
//! Everything here is plain data with a layout asserted where it is declared. Addresses and ports
//! are kept in network order; integers that only we read are in the machine's order.
#![no_std]
#![forbid(unsafe_code)]

pub mod affinity;
pub mod config;
pub mod endpoint;
pub mod flow;
pub mod frontend;
pub mod gate;
pub mod names;
pub mod peer;
pub mod reason;
pub mod source;

pub use affinity::{Affinity, AffinityKey};
pub use config::Config;
pub use endpoint::{Endpoint, EndpointId, Live};
pub use flow::{Flow, FlowKey, Link, Tuple};
pub use frontend::{Frontend, FrontendKey, FrontendKind, Slots};
pub use peer::{Peer, PeerKey};
pub use reason::{Hook, Reason};
pub use source::SourceKey;

/// Number of the layout of every map. It is part of the pin path: a change of any layout bumps it.
pub const ABI: u32 = 2;

/// Bytes of an IPv4 address.
pub const V4: usize = 4;
/// Bytes of an IPv6 address.
pub const V6: usize = 16;

/// IANA protocol number of TCP.
pub const TCP: u8 = 6;
/// IANA protocol number of UDP.
pub const UDP: u8 = 17;
/// IANA protocol number of SCTP.
pub const SCTP: u8 = 132;

/// `a.b.c.d` as `::ffff:a.b.c.d` (RFC 4291, section 2.5.5.2).
#[inline(always)]
pub const fn mapped(addr: [u8; V4]) -> [u8; V6] {
    let [a, b, c, d] = addr;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The IPv4 address inside `::ffff:a.b.c.d`, or `None` for any other IPv6 address.
#[inline(always)]
pub const fn unmapped(addr: [u8; V6]) -> Option<[u8; V4]> {
    match addr {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    }
}
