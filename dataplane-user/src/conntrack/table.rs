//! The kernel's table of tracked connections in this network namespace.

use crate::{
    model::Family,
    netlink::{
        Attributes, Error, Message, Socket,
        netfilter::{self, family, subsystem},
    },
};

use super::entry::{Entry, Tuple};

const NEW: u8 = 0;
const GET: u8 = 1;
const DELETE: u8 = 2;
/// Flags of a request that makes an entry: it must not be there.
const CREATE: u16 = 0x400 | 0x200;

/// The table.
#[derive(Debug)]
pub struct Table {
    pub(super) socket: Socket,
}

impl Table {
    /// Opens it; the error says if this kernel has none.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(libc::NETLINK_NETFILTER)? })
    }

    /// Every entry of a family that has ports.
    pub fn entries(&mut self, of: Family) -> Result<Vec<Entry>, Error> {
        let all = message(GET, number(of), 0, Attributes::new());
        let list = self.socket.dump("list tracked connections", &all)?;
        let entry = |received| {
            let (_, body) = netfilter::parse(received, subsystem::CTNETLINK, NEW)?;
            Entry::parse(body)
        };
        Ok(list.iter().filter_map(entry).collect())
    }

    /// Forgets an entry; whether it was still there.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, Error> {
        let request = message(DELETE, family_of(entry), 0, entry.name());
        match self.socket.request("forget a tracked connection", request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets an entry of which these are the packets of either direction; whether there was one.
    pub fn forget(&mut self, packets: Tuple, protocol: u8) -> Result<bool, Error> {
        let (original, reply) = (packets, packets.reversed());
        let (status, timeout_s, tcp_state, mark) = (0, 0, None, 0);
        self.delete(&Entry { protocol, original, reply, status, timeout_s, tcp_state, mark })
    }

    /// Sequence numbers of an entry of TCP are no longer checked: from now on it sees the packets of
    /// one direction only.
    pub fn loosen(&mut self, entry: &Entry) -> Result<(), Error> {
        let request = message(NEW, family_of(entry), 0, entry.loosen());
        self.socket.request("follow one direction of a tracked connection", request)
    }

    /// Makes an entry, with the replacements of addresses by which its directions differ; whether it
    /// was not there yet. NAT takes place only where some chain of type nat is registered.
    pub fn create(&mut self, entry: &Entry) -> Result<bool, Error> {
        let request = message(NEW, family_of(entry), CREATE, entry.write());
        match self.socket.request("track a connection", request) {
            Ok(()) => Ok(true),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn message(number: u8, family: u8, flags: u16, attributes: Attributes) -> Message {
    netfilter::message(subsystem::CTNETLINK, number, family, flags, attributes)
}

fn number(of: Family) -> u8 {
    match of {
        Family::V4 => family::IPV4,
        Family::V6 => family::IPV6,
    }
}

fn family_of(entry: &Entry) -> u8 {
    number(Family::of(entry.original.destination.ip()))
}

#[cfg(test)]
pub(crate) mod tests;
