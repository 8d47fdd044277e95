//! The device of kube-proxy's IPVS mode, and the virtual servers for its addresses.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Act, Error, Leftover, Outcome};
use crate::netlink::{self, Attribute, Attributes, Message, Socket, attributes, generic};

/// Its device.
const DEVICE: &str = "kube-ipvs0";
const FAMILY: &str = "IPVS";
const VERSION: u8 = 1;
const DELETE_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
/// The attribute that holds those of a virtual server.
const SERVICE: u16 = 1;
/// Attributes of a virtual server by which the kernel finds it.
const KEY: [u16; 4] = [1, 2, 3, 4];
const ADDRESS_FAMILY: u16 = 1;
const ADDRESS: u16 = 3;

const DELETE_LINK: u16 = 17;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const IF_NAME: u16 = 3;
const LOCAL: u16 = 2;
const PREFIX: u16 = 1;
/// `struct ifaddrmsg`, whose last four bytes are the device's index.
const ADDRESS_HEAD: usize = 8;

pub(super) fn kube_proxy(act: Act, outcome: &mut Outcome) {
    let Ok(index) = nix::net::if_::if_nametoindex(DEVICE) else { return };
    match servers(act, index) {
        Ok(count) => {
            let of = "kube-proxy".to_owned();
            let what = format!("device {DEVICE}, and {count} virtual servers for its addresses");
            outcome.leftovers.push(Leftover { of, what });
        }
        Err(source) => outcome.failed.push(Error::Servers { source }),
    }
}

/// Servers first: by the device's addresses we know which of them are kube-proxy's.
fn servers(act: Act, index: u32) -> Result<usize, netlink::Error> {
    let mut route = Socket::open(libc::NETLINK_ROUTE)?;
    let addresses = addresses(&mut route, index)?;
    let mut socket = Socket::open(libc::NETLINK_GENERIC)?;
    let mut count = 0;
    match generic::family(&mut socket, FAMILY) {
        // A device alone: the module has been unloaded since.
        Err(netlink::Error::NoFamily(_)) => {}
        Err(error) => return Err(error),
        Ok(family) => {
            let ask = generic::message(family, GET_SERVICE, VERSION, 0, Attributes::new());
            for server in socket.dump("list virtual servers", &ask)? {
                let Some((_, body)) = generic::parse(&server) else { continue };
                let Some(key) = key_of(body, &addresses) else { continue };
                if act == Act::Remove {
                    let message = generic::message(family, DELETE_SERVICE, VERSION, 0, key);
                    socket.request("delete a virtual server", message)?;
                }
                count += 1;
            }
        }
    }
    if act == Act::Remove {
        let mut attributes = Attributes::new();
        attributes.text(IF_NAME, DEVICE);
        // An empty `struct ifinfomsg`: the name says which device is meant.
        let mut body = vec![0; 16];
        body.extend_from_slice(&attributes.into_bytes());
        route.request("delete a device", Message { kind: DELETE_LINK, flags: 0, body })?;
    }
    Ok(count)
}

/// What names the virtual server, if it is for one of these addresses.
fn key_of(body: &[u8], of: &BTreeSet<IpAddr>) -> Option<Attributes> {
    let service = attributes(body).find(|attribute| attribute.kind == SERVICE)?;
    let find = |kind| service.nested().find(|attribute| attribute.kind == kind);
    let family = find(ADDRESS_FAMILY).and_then(Attribute::u16)?;
    let address = find(ADDRESS)?.value;
    let len = if i32::from(family) == libc::AF_INET { 4 } else { 16 };
    if !of.contains(&ip(address.get(..len)?)?) {
        return None;
    }
    let mut key = Attributes::new();
    key.nested(SERVICE, |inner| {
        for attribute in KEY.into_iter().filter_map(find) {
            inner.bytes(attribute.kind, attribute.value);
        }
    });
    Some(key)
}

fn addresses(route: &mut Socket, index: u32) -> Result<BTreeSet<IpAddr>, netlink::Error> {
    let ask = Message { kind: GET_ADDRESS, flags: 0, body: vec![0; ADDRESS_HEAD] };
    let list = route.dump("list addresses", &ask)?;
    let address = |received: &netlink::Received| {
        let head = received.body.get(..ADDRESS_HEAD)?;
        let of: [u8; 4] = head[4..].try_into().ok()?;
        if received.kind != NEW_ADDRESS || u32::from_ne_bytes(of) != index {
            return None;
        }
        let all: Vec<Attribute<'_>> = attributes(&received.body[ADDRESS_HEAD..]).collect();
        let find = |kind| all.iter().find(|attribute| attribute.kind == kind);
        ip(find(LOCAL).or_else(|| find(PREFIX))?.value)
    };
    Ok(list.iter().filter_map(address).collect())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
