//! Where a client is: by the device through which the kernel would answer it.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    backend::Node,
    model::Scope,
    netlink::{Attribute, Attributes, Error, Message, Socket, attributes},
};

const GET_ROUTE: u16 = 26;
/// Bytes of a route's head (`struct rtmsg`).
const HEAD: usize = 12;
const DESTINATION: u16 = 1;
const DEVICE: u16 = 4;
const FAMILIES: [u8; 2] = [2, 10];
/// Clients that are remembered; then all are forgotten.
const CLIENTS_MAX: usize = 65_536;

/// Tells where clients are, and remembers it.
#[derive(Debug)]
pub struct Places {
    socket: Socket,
    node: Node,
    known: BTreeMap<IpAddr, Scope>,
}

impl Places {
    /// Knows no node yet.
    pub fn open() -> Result<Self, Error> {
        let socket = Socket::open(libc::NETLINK_ROUTE)?;
        Ok(Self { socket, node: Node::default(), known: BTreeMap::new() })
    }

    /// Of this node.
    pub fn set_node(&mut self, node: &Node) {
        if self.node != *node {
            self.node.clone_from(node);
            self.known.clear();
        }
    }

    /// Where a client is.
    pub fn scope(&mut self, client: IpAddr) -> Result<Scope, Error> {
        if client.is_loopback() || self.node.addresses.contains(&client) {
            return Ok(Scope::Host);
        }
        if let Some(scope) = self.known.get(&client) {
            return Ok(*scope);
        }
        let is_pod = device(&mut self.socket, client)?
            .is_some_and(|name| self.node.pod_links.contains(&name));
        let scope = if is_pod { Scope::Pod } else { Scope::Outside };
        if self.known.len() >= CLIENTS_MAX {
            self.known.clear();
        }
        self.known.insert(client, scope);
        Ok(scope)
    }
}

/// The device by which the kernel reaches an address; nothing without a route.
fn device(socket: &mut Socket, to: IpAddr) -> Result<Option<String>, Error> {
    let mut wanted = Attributes::new();
    let (family, bits) = match to {
        IpAddr::V4(ip) => {
            wanted.bytes(DESTINATION, &ip.octets());
            (FAMILIES[0], 32)
        }
        IpAddr::V6(ip) => {
            wanted.bytes(DESTINATION, &ip.octets());
            (FAMILIES[1], 128)
        }
    };
    let mut body = vec![0; HEAD];
    (body[0], body[1]) = (family, bits);
    body.extend(wanted.into_bytes());
    let found = match socket.ask("find a route", Message { kind: GET_ROUTE, flags: 0, body }) {
        Ok(found) => found,
        Err(error) if matches!(error.errno(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let all = found.body.get(HEAD..).unwrap_or_default();
    let index = attributes(all).find(|one| one.kind == DEVICE).and_then(Attribute::u32);
    let name = index.and_then(|index| nix::net::if_::if_indextoname(index).ok());
    Ok(name.map(|name| name.to_string_lossy().into_owned()))
}
