//! What the kernel should hold, or holds: virtual servers, addresses of the dummy device, elements of
//! the nftables sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    server::{Server, ServerKey, Virtual},
    treatment::Treatment,
};
use crate::model::{Cidr, Family};

/// An element of one of the sets, without what it holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// `services`: a frontend; holds its treatment.
    Service(Virtual),
    /// `marks`: a frontend whose clients on this node are served by mark; holds the mark.
    Mark(Virtual),
    /// `ranges`: a frontend, and addresses that it serves.
    Range(Virtual, Cidr),
    /// `closed`: an address whose other ports are refused.
    Closed(IpAddr),
    /// `nodes`: an address of the node.
    Node(IpAddr),
    /// `hairpin`: an endpoint that may be its own client.
    Hairpin(IpAddr),
    /// `pods`: a device by which pods of this node send.
    PodLink(Family, String),
}

impl Element {
    /// The family of its table.
    pub fn family(&self) -> Family {
        match self {
            Self::Service(wanted) | Self::Mark(wanted) | Self::Range(wanted, _) => wanted.family(),
            Self::Closed(address) | Self::Node(address) | Self::Hairpin(address) => {
                Family::of(*address)
            }
            Self::PodLink(family, _) => *family,
        }
    }
}

/// What an element holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Nothing: it is in the set, and that is all.
    Nothing,
    /// What becomes of new connections.
    Treatment(Treatment),
    /// The mark that they get.
    Mark(u32),
}

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Virtual servers.
    pub servers: BTreeMap<ServerKey, Server>,
    /// Addresses of the dummy device: those of frontends that are not the node's already.
    pub addresses: BTreeSet<IpAddr>,
    /// Elements of the nftables sets.
    pub elements: BTreeMap<Element, Held>,
}

/// What may differ from the kernel's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Virtual servers.
    pub servers: BTreeSet<ServerKey>,
    /// Addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Elements.
    pub elements: BTreeSet<Element>,
}

impl Dirty {
    /// How many entries.
    pub fn len(&self) -> usize {
        self.servers.len() + self.addresses.len() + self.elements.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything that either of them has.
    pub fn all(&mut self, contents: &Contents) {
        self.servers.extend(contents.servers.keys().copied());
        self.addresses.extend(contents.addresses.iter().copied());
        self.elements.extend(contents.elements.keys().cloned());
    }
}

impl Contents {
    /// Puts a virtual server into its place, or takes it out; marks it if that changes anything.
    pub(super) fn set_server(&mut self, dirty: &mut Dirty, key: ServerKey, server: Option<Server>) {
        if self.servers.get(&key) == server.as_ref() {
            return;
        }
        dirty.servers.insert(key);
        match server {
            Some(server) => self.servers.insert(key, server),
            None => self.servers.remove(&key),
        };
    }

    /// Puts an address in, or takes it out; marks it if that changes anything.
    pub(super) fn set_address(&mut self, dirty: &mut Dirty, address: IpAddr, is_there: bool) {
        let changed =
            if is_there { self.addresses.insert(address) } else { self.addresses.remove(&address) };
        if changed {
            dirty.addresses.insert(address);
        }
    }

    /// Puts an element in, or takes it out; marks it if that changes anything.
    pub(super) fn set_element(&mut self, dirty: &mut Dirty, element: Element, held: Option<Held>) {
        if self.elements.get(&element) == held.as_ref() {
            return;
        }
        dirty.elements.insert(element.clone());
        match held {
            Some(held) => self.elements.insert(element, held),
            None => self.elements.remove(&element),
        };
    }

    /// The source ranges of a frontend.
    pub(super) fn ranges(&self, wanted: Virtual) -> impl Iterator<Item = Cidr> {
        let least = Cidr { address: LEAST, prefix_len: 0 };
        self.elements.range(Element::Range(wanted, least)..).map_while(move |(element, _)| {
            match element {
                Element::Range(of, range) if *of == wanted => Some(*range),
                Element::Range(..)
                | Element::Service(_)
                | Element::Mark(_)
                | Element::Closed(_)
                | Element::Node(_)
                | Element::Hairpin(_)
                | Element::PodLink(..) => None,
            }
        })
    }
}

/// The first address in order.
pub(super) const LEAST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
