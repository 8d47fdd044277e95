//! What a writer needs of the kernel, and what it finds there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    contents::{Contents, Element, Held},
    error::IpvsError,
    message::SeenDestination,
    server::{Scheduling, ServerKey},
};
use crate::model::Family;

/// The families, each with a table of its own.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// A change of virtual servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A virtual server, new or changed.
    Server {
        /// Which.
        key: ServerKey,
        /// How it schedules.
        scheduling: Scheduling,
        /// Whether it is there already.
        exists: bool,
    },
    /// A virtual server goes, and its destinations with it.
    NoServer(ServerKey),
    /// A destination, new or changed.
    Destination {
        /// Of which server.
        key: ServerKey,
        /// Where.
        to: SocketAddr,
        /// Whether it takes new connections.
        takes_new: bool,
        /// Whether it is there already.
        exists: bool,
    },
    /// A destination goes.
    NoDestination(ServerKey, SocketAddr),
}

/// Some steps were done, the next one failed.
#[derive(Debug)]
pub struct Stopped {
    /// How many were done.
    pub done: usize,
    /// Why the next one was not.
    pub error: IpvsError,
}

/// A change of one family's table; all of it happens, or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// The table is made anew, without elements, before anything else.
    pub rebuild: bool,
    /// Elements that go.
    pub remove: Vec<Element>,
    /// Elements that come; those that change go before.
    pub add: Vec<(Element, Held)>,
}

/// Which destinations are read.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// Those of every virtual server that is there.
    All,
    /// Those of these.
    Of(&'a BTreeSet<ServerKey>),
}

/// A virtual server as it was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// How it schedules; `None` if in a way that we never ask for.
    pub scheduling: Option<Scheduling>,
    /// Whether it bears our flag.
    pub is_ours: bool,
    /// Its destinations, if they were read.
    pub destinations: Option<BTreeMap<SocketAddr, SeenDestination>>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All virtual servers, whoever made them.
    pub servers: BTreeMap<ServerKey, Found>,
    /// Addresses of our device.
    pub addresses: BTreeSet<IpAddr>,
    /// Elements of our tables, family by family; `None` if they were not read, because nobody has
    /// changed any table since.
    pub elements: BTreeMap<Family, Option<BTreeMap<Element, Held>>>,
    /// Families whose table is not there, or not as we make it.
    pub broken: BTreeSet<Family>,
}

/// The kernel, or what a test has in its place.
pub trait System: Send {
    /// Makes sure that IPVS is there and set up; writes nothing that packets would notice.
    fn prepare(&mut self) -> Result<(), IpvsError>;
    /// Reads what is there. Tables are read if somebody may have changed them, or if `all`.
    fn observe(&mut self, which: Which<'_>, all: bool) -> Result<Seen, IpvsError>;
    /// The destinations of a virtual server; none if it is not there.
    fn destinations(
        &mut self,
        key: &ServerKey,
    ) -> Result<BTreeMap<SocketAddr, SeenDestination>, IpvsError>;
    /// Changes virtual servers, one step after the other. A step that was done already succeeds.
    fn change_servers(&mut self, steps: &[Step]) -> Result<(), Stopped>;
    /// Puts an address on the device, or takes it off. A step that was done already succeeds.
    fn change_address(&mut self, address: IpAddr, comes: bool) -> Result<(), IpvsError>;
    /// Changes a family's table.
    fn change_table(&mut self, family: Family, change: &Transaction) -> Result<(), IpvsError>;
    /// Removes device and tables, if they are there.
    fn remove(&mut self) -> Result<(), IpvsError>;
}

impl Contents {
    /// The elements of one family.
    pub(super) fn elements_of(&self, family: Family) -> impl Iterator<Item = (&Element, &Held)> {
        self.elements.iter().filter(move |(element, _)| element.family() == family)
    }
}
