//! Netfilter's netlink: the head of its messages, and batches that the kernel takes whole or not at all.

use super::{Attributes, Message, Received};

/// The families of addresses in netfilter's head.
pub mod family {
    /// None.
    pub const UNSPEC: u8 = 0;
    /// Both families of IP.
    pub const INET: u8 = 1;
    /// IPv4.
    pub const IPV4: u8 = 2;
    /// IPv6.
    pub const IPV6: u8 = 10;
}

/// Subsystems, the upper byte of a message's kind.
pub mod subsystem {
    /// Connection tracking.
    pub const CTNETLINK: u8 = 1;
    /// nftables.
    pub const NFTABLES: u8 = 10;
}

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const HEAD: usize = 4;

/// A message to a subsystem: `flags` beside those that every request has.
pub fn message(
    subsystem: u8,
    number: u8,
    family: u8,
    flags: u16,
    attributes: Attributes,
) -> Message {
    let mut body = vec![family, 0, 0, 0];
    body.extend_from_slice(&attributes.into_bytes());
    Message { kind: u16::from_be_bytes([subsystem, number]), flags, body }
}

/// Family and attributes of a message, if the subsystem sent it as this number.
pub fn parse(received: &Received, subsystem: u8, number: u8) -> Option<(u8, &[u8])> {
    let is_it = received.kind == u16::from_be_bytes([subsystem, number]);
    let family = *received.body.first()?;
    is_it.then_some((family, received.body.get(HEAD..)?))
}

/// Messages of one subsystem that the kernel does all of, or none. It acknowledges those that ask
/// for it, and the end of the batch; give [`super::Socket::transact`] the number of both.
pub fn batch(subsystem: u8, messages: Vec<Message>) -> Vec<Message> {
    let edge = |kind| Message { kind, flags: 0, body: vec![0, 0, 0, subsystem] };
    let mut all = Vec::with_capacity(messages.len() + 2);
    all.push(edge(BATCH_BEGIN));
    all.extend(messages);
    all.push(edge(BATCH_END));
    all
}
