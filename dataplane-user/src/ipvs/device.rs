//! The dummy device that makes frontends' addresses the node's own, through rtnetlink.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::error::IpvsError;
use crate::netlink::{Attributes, Message, Socket, attributes};

const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const GET_LINK: u16 = 18;
const SET_LINK: u16 = 19;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;

/// `IFLA_*`.
const NAME: u16 = 3;
const LINK_DETAIL: u16 = 18;
const FAMILY_SPECIFIC: u16 = 26;
/// `IFLA_INFO_KIND`.
const KIND: u16 = 1;
/// `IFLA_INET6_ADDR_GEN_MODE`, and its value for "no link-local address".
const ADDRESS_MODE: u16 = 8;
const NO_ADDRESS: u8 = 1;
/// `IFA_*`.
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const LIFETIMES: u16 = 6;
/// `IFA_F_NODAD`: nobody else has to be asked.
const NO_DETECTION: u8 = 2;
/// `RT_SCOPE_HOST`: never the source of packets to others, unless one asked for it.
const SCOPE_HOST: u8 = 254;
const SCOPE_GLOBAL: u8 = 0;
const UP: u32 = 1;
/// `AF_INET` and `AF_INET6`.
const INET: u8 = 2;
const INET6: u8 = 10;

/// The instance that has no name of its own.
const DEFAULT_INSTANCE: &str = "default";
const PREFIX: &str = "hashplane";

/// The device of an instance. Names have 15 characters at most, so that most instances are told by
/// six digits of a hash (FNV-1a).
pub fn name(instance: &str) -> String {
    if instance == DEFAULT_INSTANCE {
        return format!("{PREFIX}0");
    }
    let hash = instance.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{PREFIX}{:06x}", hash >> 40)
}

/// Whether a device of this name is one of ours, of whatever instance.
pub fn is_ours(name: &str) -> bool {
    let rest = name.strip_prefix(PREFIX);
    rest.is_some_and(|rest| {
        rest == "0" || rest.len() == 6 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The device, by name.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) name: String,
    route: Socket,
    index: Option<u32>,
}

impl Device {
    pub(super) fn open(name: String) -> Result<Self, IpvsError> {
        Ok(Self { name, route: Socket::open(libc::NETLINK_ROUTE)?, index: None })
    }

    /// The index of the device, if it is there.
    fn find(&mut self) -> Result<Option<u32>, IpvsError> {
        let mut asked = Attributes::new();
        asked.text(NAME, &self.name);
        let message = Message { kind: GET_LINK, flags: 0, body: link(0, 0, 0, asked) };
        match self.route.ask("find a device", message) {
            Ok(answer) => {
                let index = answer.body.get(4..8).and_then(|it| it.first_chunk());
                Ok(index.map(|index| u32::from_ne_bytes(*index)))
            }
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the device, if it is not there, and sets it up.
    pub(super) fn make(&mut self) -> Result<u32, IpvsError> {
        if self.find()?.is_none() {
            let mut of = Attributes::new();
            of.text(NAME, &self.name);
            of.nested(LINK_DETAIL, |of| {
                of.text(KIND, "dummy");
            });
            let flags = CREATE | EXCLUSIVE;
            let message = Message { kind: NEW_LINK, flags, body: link(0, 0, 0, of) };
            match self.route.request("make a dummy device", message) {
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => {
                    return Err(IpvsError::NoDummy);
                }
                Err(error) if error.errno() != Some(libc::EEXIST) => return Err(error.into()),
                Err(_) | Ok(()) => {}
            }
        }
        let index = self.find()?.ok_or_else(|| IpvsError::NoDevice(self.name.clone()))?;
        let mut of = Attributes::new();
        of.nested(FAMILY_SPECIFIC, |of| {
            of.nested(INET6.into(), |of| {
                of.u8(ADDRESS_MODE, NO_ADDRESS);
            });
        });
        let message = Message { kind: SET_LINK, flags: 0, body: link(index, 0, 0, of) };
        // Without IPv6 there is no address to leave out.
        let _no_ipv6 = self.route.request("set up a dummy device", message);
        let message =
            Message { kind: SET_LINK, flags: 0, body: link(index, UP, UP, Attributes::new()) };
        self.route.request("set up a dummy device", message)?;
        self.index = Some(index);
        Ok(index)
    }

    /// The addresses on the device; none if it is not there.
    pub(super) fn addresses(&mut self) -> Result<BTreeSet<IpAddr>, IpvsError> {
        self.index = self.find()?;
        let Some(index) = self.index else { return Ok(BTreeSet::new()) };
        let message = Message { kind: GET_ADDRESS, flags: 0, body: vec![0; 8] };
        let all = self.route.dump("list addresses", &message)?;
        let of_device = all.iter().filter(|it| it.kind == NEW_ADDRESS);
        Ok(of_device.filter_map(|it| read_address(&it.body, index)).collect())
    }

    /// Puts an address on the device, or takes it off. Twice is once.
    pub(super) fn change(&mut self, address: IpAddr, comes: bool) -> Result<(), IpvsError> {
        let index = match self.index {
            Some(index) => index,
            None if comes => self.make()?,
            None => return Ok(()),
        };
        let (kind, flags) =
            if comes { (NEW_ADDRESS, CREATE | EXCLUSIVE) } else { (DELETE_ADDRESS, 0) };
        let message = Message { kind, flags, body: address_body(address, index) };
        let doing = if comes { "put an address on" } else { "take an address off" };
        match self.route.request(&format!("{doing} {}: {address}", self.name), message) {
            Ok(()) => Ok(()),
            Err(error) if comes && error.errno() == Some(libc::EEXIST) => Ok(()),
            Err(error) if !comes && error.errno() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(error) => {
                // Perhaps somebody removed the device.
                self.index = None;
                Err(error.into())
            }
        }
    }

    /// Removes the device, if it is there.
    pub(super) fn remove(&mut self) -> Result<(), IpvsError> {
        self.index = None;
        let mut asked = Attributes::new();
        asked.text(NAME, &self.name);
        let message = Message { kind: DELETE_LINK, flags: 0, body: link(0, 0, 0, asked) };
        match self.route.request("remove a dummy device", message) {
            Err(error) if error.errno() != Some(libc::ENODEV) => Err(error.into()),
            Err(_) | Ok(()) => Ok(()),
        }
    }
}

/// `struct ifinfomsg` and attributes.
fn link(index: u32, flags: u32, change: u32, attributes: Attributes) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [index, flags, change] {
        body.extend_from_slice(&number.to_ne_bytes());
    }
    body.extend_from_slice(&attributes.into_bytes());
    body
}

/// `struct ifaddrmsg` and attributes.
fn address_body(address: IpAddr, index: u32) -> Vec<u8> {
    let mut of = Attributes::new();
    let head = match address {
        IpAddr::V4(v4) => {
            of.bytes(LOCAL, &v4.octets()).bytes(ADDRESS, &v4.octets());
            [INET, 32, 0, SCOPE_HOST]
        }
        IpAddr::V6(v6) => {
            of.bytes(LOCAL, &v6.octets()).bytes(ADDRESS, &v6.octets());
            // Valid for ever and never preferred: as for IPv4, not the source of other packets.
            let lifetimes = [0, u32::MAX, 0, 0].into_iter().flat_map(u32::to_ne_bytes);
            of.bytes(LIFETIMES, &lifetimes.collect::<Vec<u8>>());
            [INET6, 128, NO_DETECTION, SCOPE_GLOBAL]
        }
    };
    let mut body = head.to_vec();
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&of.into_bytes());
    body
}

fn read_address(body: &[u8], index: u32) -> Option<IpAddr> {
    let of = u32::from_ne_bytes(*body.get(4..8)?.first_chunk()?);
    let attribute = |kind| attributes(body.get(8..)?).find(|it| it.kind == kind);
    let address = attribute(LOCAL).or_else(|| attribute(ADDRESS)).filter(|_| of == index)?;
    match *body.first()? {
        INET => address.value.first_chunk::<4>().map(|it| Ipv4Addr::from(*it).into()),
        // The kernel gives every device a link-local address, unless told otherwise in time.
        INET6 => {
            let v6 = Ipv6Addr::from(*address.value.first_chunk::<16>()?);
            (!v6.is_unicast_link_local()).then_some(v6.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_as_the_kernel_reads_it() {
        let body = address_body("10.96.0.1".parse().unwrap(), 7);
        let address = [8, 0, 2, 0, 10, 96, 0, 1, 8, 0, 1, 0, 10, 96, 0, 1];
        assert_eq!(body[..4], [2, 32, 0, 254]);
        assert_eq!(body[4..8], 7u32.to_ne_bytes());
        assert_eq!(body[8..], address);
        assert_eq!(read_address(&body, 7), Some("10.96.0.1".parse().unwrap()));
        assert_eq!(read_address(&body, 8), None, "another device's");
        let v6: IpAddr = "fd00::1".parse().unwrap();
        assert_eq!(read_address(&address_body(v6, 1), 1), Some(v6));
        for end in 0..body.len() {
            let _ = read_address(&body[..end], 7);
        }
    }

    #[test]
    fn devices_have_names_that_fit_and_differ() {
        assert_eq!(name("default"), "hashplane0");
        let (long, other) = (name("a-very-long-instance-1"), name("a-very-long-instance-2"));
        assert!(long.len() <= 15 && other.len() <= 15 && long != other);
        assert!(is_ours(&long) && is_ours("hashplane0") && !is_ours("hashplane-eth"));
    }
}
