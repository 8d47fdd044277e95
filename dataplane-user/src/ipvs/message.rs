//! Virtual servers and destinations as generic netlink says them (`linux/ip_vs.h`).

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::server::{Scheduling, ServerKey, Virtual};
use crate::{
    model::{Family, Protocol},
    netlink::{Attribute, Attributes, attributes},
};

/// `IPVS_GENL_NAME`.
pub(super) const FAMILY: &str = "IPVS";
/// `IPVS_GENL_VERSION`.
pub(super) const VERSION: u8 = 1;

/// `IPVS_CMD_*`.
pub(super) mod command {
    pub(in crate::ipvs) const NEW_SERVICE: u8 = 1;
    pub(in crate::ipvs) const SET_SERVICE: u8 = 2;
    pub(in crate::ipvs) const DELETE_SERVICE: u8 = 3;
    pub(in crate::ipvs) const GET_SERVICE: u8 = 4;
    pub(in crate::ipvs) const NEW_DESTINATION: u8 = 5;
    pub(in crate::ipvs) const SET_DESTINATION: u8 = 6;
    pub(in crate::ipvs) const DELETE_DESTINATION: u8 = 7;
    pub(in crate::ipvs) const GET_DESTINATION: u8 = 8;
    pub(in crate::ipvs) const SET_CONFIG: u8 = 12;
    pub(in crate::ipvs) const GET_CONFIG: u8 = 13;
}

/// `IPVS_CMD_ATTR_*`.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;
const TIMEOUT_TCP: u16 = 4;

/// `IPVS_SVC_ATTR_*`.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const MARK: u16 = 5;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// `IPVS_DEST_ATTR_*`.
mod destination {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const FORWARDING: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER: u16 = 5;
    pub(super) const LOWER: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
}

/// `IP_VS_SVC_F_PERSISTENT`.
const PERSISTENT: u32 = 0x1;
/// `IP_VS_SVC_F_SCHED3`: a flag for schedulers that none of ours looks at. It says that a virtual
/// server is ours, since IPVS has no place for names.
const OURS: u32 = 0x20;
/// The flags that we set or clear.
const FLAGS_MASK: u32 = u32::MAX;
/// `IP_VS_CONN_F_MASQ`: translate addresses and ports.
const TRANSLATE: u32 = 0;

/// A virtual server as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SeenService {
    /// By what it is found.
    pub key: ServerKey,
    /// The name of its scheduler.
    pub scheduler: String,
    /// Seconds for which a client stays with its destination.
    pub persistence_s: Option<u32>,
    /// Whether it bears our flag.
    pub is_ours: bool,
}

/// A destination as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeenDestination {
    /// 0 if it takes no new connections.
    pub weight: u32,
    /// Connections that it has, in whatever state; clients that would come back to it do not count.
    pub connections: u32,
}

/// `AF_INET` and `AF_INET6`.
const fn family_number(family: Family) -> u16 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// `IPPROTO_*`.
const fn protocol_number(protocol: Protocol) -> u16 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// `union nf_inet_addr`: 16 bytes, of which IPv4 uses the first four.
fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn read_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(*bytes.first_chunk::<16>()?)),
    })
}

fn write_key(of: &mut Attributes, key: &ServerKey) {
    of.u16(service::FAMILY, family_number(key.family()));
    match key {
        ServerKey::Address(wanted) => {
            of.u16(service::PROTOCOL, protocol_number(wanted.protocol));
            of.bytes(service::ADDRESS, &address_bytes(wanted.address));
            of.be16(service::PORT, wanted.port);
        }
        ServerKey::Mark(_, mark) => {
            of.u32(service::MARK, *mark);
        }
    }
}

/// What names a virtual server.
pub(super) fn name(key: &ServerKey) -> Attributes {
    let mut all = Attributes::new();
    all.nested(SERVICE, |of| write_key(of, key));
    all
}

/// A virtual server in full.
pub(super) fn server(key: &ServerKey, scheduling: &Scheduling) -> Attributes {
    let persistent = if scheduling.persistence_s.is_some() { PERSISTENT } else { 0 };
    let flags: Vec<u8> =
        [persistent | OURS, FLAGS_MASK].into_iter().flat_map(u32::to_ne_bytes).collect();
    // A client is one address: the mask has all bits, and for IPv6 is a length.
    let netmask: u32 = match key.family() {
        Family::V4 => u32::MAX,
        Family::V6 => 128,
    };
    let mut all = Attributes::new();
    all.nested(SERVICE, |of| {
        write_key(of, key);
        of.text(service::SCHEDULER, scheduling.scheduler.name());
        of.bytes(service::FLAGS, &flags);
        of.u32(service::TIMEOUT, scheduling.persistence_s.unwrap_or(0));
        of.u32(service::NETMASK, netmask);
    });
    all
}

/// A destination of a virtual server; in full if it has a weight.
pub(super) fn destination(key: &ServerKey, to: SocketAddr, weight: Option<u32>) -> Attributes {
    let mut all = name(key);
    all.nested(DESTINATION, |of| {
        of.bytes(destination::ADDRESS, &address_bytes(to.ip()));
        of.be16(destination::PORT, to.port());
        of.u16(destination::FAMILY, family_number(Family::of(to.ip())));
        if let Some(weight) = weight {
            of.u32(destination::FORWARDING, TRANSLATE);
            of.u32(destination::WEIGHT, weight);
            of.u32(destination::UPPER, 0);
            of.u32(destination::LOWER, 0);
        }
    });
    all
}

/// How long a silent TCP connection is remembered.
pub(super) fn tcp_timeout(seconds: u32) -> Attributes {
    let mut all = Attributes::new();
    all.u32(TIMEOUT_TCP, seconds);
    all
}

/// How long a silent TCP connection is remembered, from the answer to `GET_CONFIG`.
pub(super) fn read_tcp_timeout(bytes: &[u8]) -> Option<u32> {
    attributes(bytes).find(|it| it.kind == TIMEOUT_TCP).and_then(Attribute::u32)
}

fn inside(bytes: &[u8], kind: u16) -> BTreeMap<u16, Attribute<'_>> {
    let found = attributes(bytes).find(|it| it.kind == kind);
    let all = found.map(|it| it.nested().map(|it| (it.kind, it)).collect());
    all.unwrap_or_default()
}

fn read_family(number: u16) -> Option<Family> {
    [Family::V4, Family::V6].into_iter().find(|family| family_number(*family) == number)
}

/// A virtual server from the answer to `GET_SERVICE`; `None` if it has a family or protocol that no
/// frontend has.
pub(super) fn read_service(bytes: &[u8]) -> Option<SeenService> {
    let all = inside(bytes, SERVICE);
    let number = |kind| all.get(&kind).and_then(|it| it.u32());
    let family = read_family(all.get(&service::FAMILY)?.u16()?)?;
    // The kernel tells either the mark or the rest.
    let key = if let Some(mark) = number(service::MARK).filter(|mark| *mark != 0) {
        ServerKey::Mark(family, mark)
    } else {
        let protocol = all.get(&service::PROTOCOL)?.u16()?;
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|known| protocol_number(*known) == protocol)?;
        let address = read_address(family, all.get(&service::ADDRESS)?.value)?;
        let port = all.get(&service::PORT)?.be16()?;
        ServerKey::Address(Virtual { address, protocol, port })
    };
    let flags = all.get(&service::FLAGS)?.value.first_chunk().map(|it| u32::from_ne_bytes(*it))?;
    let timeout = number(service::TIMEOUT).unwrap_or(0);
    Some(SeenService {
        key,
        scheduler: all.get(&service::SCHEDULER)?.text().to_owned(),
        persistence_s: (flags & PERSISTENT != 0).then_some(timeout),
        is_ours: flags & OURS != 0,
    })
}

/// A destination from the answer to `GET_DESTINATION`. Kernels before 3.18 do not tell its family,
/// which is the server's then.
pub(super) fn read_destination(
    bytes: &[u8],
    family: Family,
) -> Option<(SocketAddr, SeenDestination)> {
    let all = inside(bytes, DESTINATION);
    let number = |kind| all.get(&kind).and_then(|it| it.u32()).unwrap_or(0);
    let told = all.get(&destination::FAMILY).and_then(|it| it.u16());
    let family = told.and_then(read_family).unwrap_or(family);
    let address = read_address(family, all.get(&destination::ADDRESS)?.value)?;
    let port = all.get(&destination::PORT)?.be16()?;
    let connections = [destination::ACTIVE, destination::INACTIVE];
    let seen = SeenDestination {
        weight: number(destination::WEIGHT),
        connections: connections.into_iter().map(number).fold(0, u32::saturating_add),
    };
    Some((SocketAddr::new(address, port), seen))
}

#[cfg(test)]
mod tests;
