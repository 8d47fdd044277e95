//! One tracked connection, read from and written to ctnetlink's attributes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::netlink::{Attribute, Attributes, attributes};

/// Attributes of an entry (`linux/netfilter/nfnetlink_conntrack.h`).
mod attribute {
    pub(super) const ORIGINAL: u16 = 1;
    pub(super) const REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOINFO: u16 = 4;
    pub(super) const NAT_SOURCE: u16 = 6;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const MARK: u16 = 8;
    pub(super) const NAT_DESTINATION: u16 = 13;

    pub(super) const TUPLE_IP: u16 = 1;
    pub(super) const TUPLE_PROTO: u16 = 2;
    pub(super) const IPV4: [u16; 2] = [1, 2];
    pub(super) const IPV6: [u16; 2] = [3, 4];
    pub(super) const PROTO_NUMBER: u16 = 1;
    pub(super) const PORTS: [u16; 2] = [2, 3];

    pub(super) const PROTOINFO_TCP: u16 = 1;
    pub(super) const TCP_STATE: u16 = 1;
    pub(super) const TCP_FLAGS: [u16; 2] = [4, 5];

    pub(super) const NAT_IPV4: [u16; 2] = [1, 2];
    pub(super) const NAT_PROTO: u16 = 3;
    pub(super) const NAT_IPV6: [u16; 2] = [4, 5];
    pub(super) const NAT_PORTS: [u16; 2] = [1, 2];
}

/// Bits of an entry's status.
pub mod status {
    /// Packets were seen in both directions.
    pub const SEEN_REPLY: u32 = 1 << 1;
    /// It is not dropped early when the table is full.
    pub const ASSURED: u32 = 1 << 2;
    /// It is in the table.
    pub const CONFIRMED: u32 = 1 << 3;
    /// The source is replaced.
    pub const SOURCE_NAT: u32 = 1 << 4;
    /// The destination is replaced.
    pub const DESTINATION_NAT: u32 = 1 << 5;
}

/// States of TCP as connection tracking has them.
pub mod tcp {
    /// The second packet of a connection was seen.
    pub const SYN_RECEIVED: u8 = 2;
    /// Both ends have agreed.
    pub const ESTABLISHED: u8 = 3;
    /// One end has said its last, and the other one knows.
    pub const CLOSE_WAIT: u8 = 5;
    /// The last one in which packets are still expected: the last acknowledgement.
    pub const LAST_ACK: u8 = 6;
}
/// Sequence numbers are not checked: nobody knows those of a connection that was not seen from its
/// beginning.
const TCP_BE_LIBERAL: u8 = 0x08;

/// Where packets of one direction come from and go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
}

impl Tuple {
    /// The other direction.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// A tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The protocol's number.
    pub protocol: u8,
    /// Packets of the one who began, as he sends them.
    pub original: Tuple,
    /// Packets of the other one, as he sends them.
    pub reply: Tuple,
    /// Bits of [`status`].
    pub status: u32,
    /// Seconds until it is forgotten, if no packet comes.
    pub timeout_s: u32,
    /// One of [`tcp`], for TCP.
    pub tcp_state: Option<u8>,
    /// Its mark.
    pub mark: u32,
}

impl Entry {
    /// The endpoint, where the destination is replaced.
    pub fn endpoint(&self) -> Option<SocketAddr> {
        (self.reply.source != self.original.destination).then_some(self.reply.source)
    }

    /// Whom the endpoint sees, where the source is replaced.
    pub fn masquerade(&self) -> Option<SocketAddr> {
        (self.reply.destination != self.original.source).then_some(self.reply.destination)
    }

    /// From the attributes of a message; nothing for entries without ports.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (mut original, mut reply) = (None, None);
        let (mut status, mut timeout_s, mut mark, mut tcp_state) = (0, 0, 0, None);
        for attribute in attributes(body) {
            match attribute.kind {
                attribute::ORIGINAL => original = tuple(attribute),
                attribute::REPLY => reply = tuple(attribute),
                attribute::STATUS => status = attribute.be32()?,
                attribute::TIMEOUT => timeout_s = attribute.be32()?,
                attribute::MARK => mark = attribute.be32()?,
                attribute::PROTOINFO => tcp_state = state(attribute),
                _ => {}
            }
        }
        let ((protocol, original), (_, reply)) = (original?, reply?);
        Some(Self { protocol, original, reply, status, timeout_s, tcp_state, mark })
    }

    /// What names this entry in a request.
    pub(super) fn name(&self) -> Attributes {
        let mut name = Attributes::new();
        write_tuple(&mut name, attribute::ORIGINAL, self.original, self.protocol);
        name
    }

    /// What makes this entry, with the replacements of addresses that its directions differ by.
    pub(super) fn write(&self) -> Attributes {
        let mut all = self.name();
        write_tuple(&mut all, attribute::REPLY, self.original.reversed(), self.protocol);
        all.be32(attribute::STATUS, self.status | status::CONFIRMED);
        all.be32(attribute::TIMEOUT, self.timeout_s).be32(attribute::MARK, self.mark);
        write_tcp(&mut all, self.tcp_state);
        // Both ends are said, also one that stays: the kernel would choose another source port
        // where this one seems taken, and nobody would hear of it.
        if self.masquerade().is_some() || self.endpoint().is_some() {
            write_nat(&mut all, attribute::NAT_SOURCE, self.reply.destination);
            write_nat(&mut all, attribute::NAT_DESTINATION, self.reply.source);
        }
        all
    }

    /// What makes this entry one whose sequence numbers are not checked.
    pub(super) fn loosen(&self) -> Attributes {
        let mut all = self.name();
        write_tcp(&mut all, self.tcp_state);
        all
    }
}

fn tuple(of: Attribute<'_>) -> Option<(u8, Tuple)> {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [None; 2], None);
    for part in of.nested() {
        for inner in part.nested() {
            match (part.kind, inner.kind) {
                (attribute::TUPLE_IP, kind) => {
                    let is = |kinds: [u16; 2]| kinds.iter().position(|it| *it == kind);
                    if let Some(at) = is(attribute::IPV4).or_else(|| is(attribute::IPV6)) {
                        addresses[at] = address(inner.value);
                    }
                }
                (attribute::TUPLE_PROTO, attribute::PROTO_NUMBER) => protocol = inner.u8(),
                (attribute::TUPLE_PROTO, kind) => {
                    if let Some(at) = attribute::PORTS.iter().position(|it| *it == kind) {
                        ports[at] = inner.be16();
                    }
                }
                _ => {}
            }
        }
    }
    let [source, destination] = [0, 1].map(|at| Some(SocketAddr::new(addresses[at]?, ports[at]?)));
    Some((protocol?, Tuple { source: source?, destination: destination? }))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|octets| Ipv4Addr::from(octets).into());
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).into());
    v4().or_else(v6)
}

fn state(of: Attribute<'_>) -> Option<u8> {
    let tcp = of.nested().find(|part| part.kind == attribute::PROTOINFO_TCP)?;
    tcp.nested().find(|part| part.kind == attribute::TCP_STATE)?.u8()
}

fn write_tuple(to: &mut Attributes, kind: u16, tuple: Tuple, protocol: u8) {
    to.nested(kind, |to| {
        to.nested(attribute::TUPLE_IP, |ip| {
            for (at, end) in [tuple.source, tuple.destination].into_iter().enumerate() {
                match end.ip() {
                    IpAddr::V4(v4) => ip.bytes(attribute::IPV4[at], &v4.octets()),
                    IpAddr::V6(v6) => ip.bytes(attribute::IPV6[at], &v6.octets()),
                };
            }
        });
        to.nested(attribute::TUPLE_PROTO, |proto| {
            proto.u8(attribute::PROTO_NUMBER, protocol);
            proto.be16(attribute::PORTS[0], tuple.source.port());
            proto.be16(attribute::PORTS[1], tuple.destination.port());
        });
    });
}

fn write_tcp(to: &mut Attributes, state: Option<u8>) {
    let Some(state) = state else { return };
    to.nested(attribute::PROTOINFO, |info| {
        info.nested(attribute::PROTOINFO_TCP, |tcp| {
            tcp.u8(attribute::TCP_STATE, state);
            for direction in attribute::TCP_FLAGS {
                tcp.bytes(direction, &[TCP_BE_LIBERAL, TCP_BE_LIBERAL]);
            }
        });
    });
}

fn write_nat(to: &mut Attributes, kind: u16, end: SocketAddr) {
    to.nested(kind, |nat| {
        for at in [0, 1] {
            match end.ip() {
                IpAddr::V4(v4) => nat.bytes(attribute::NAT_IPV4[at], &v4.octets()),
                IpAddr::V6(v6) => nat.bytes(attribute::NAT_IPV6[at], &v6.octets()),
            };
        }
        nat.nested(attribute::NAT_PROTO, |ports| {
            for at in [0, 1] {
                ports.be16(attribute::NAT_PORTS[at], end.port());
            }
        });
    });
}
