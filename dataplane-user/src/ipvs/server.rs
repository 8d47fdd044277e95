//! Virtual servers as plain data: what IPVS should serve, and by whom.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
};

use crate::model::{Family, Protocol};

/// Address, protocol and port that clients use: a frontend on one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Virtual {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Virtual {
    /// Its family.
    pub fn family(&self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for Virtual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{protocol} {}", SocketAddr::new(self.address, self.port))
    }
}

/// By what IPVS finds a virtual server. A mark is asked for before the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServerKey {
    /// By address, protocol and port.
    Address(Virtual),
    /// By the packet's whole firewall mark, in one family.
    Mark(Family, u32),
}

impl ServerKey {
    /// Its family.
    pub fn family(&self) -> Family {
        match self {
            Self::Address(wanted) => wanted.family(),
            Self::Mark(family, _) => *family,
        }
    }
}

impl fmt::Display for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(wanted) => wanted.fmt(f),
            Self::Mark(Family::V4, mark) => write!(f, "mark {mark:#010x} ip"),
            Self::Mark(Family::V6, mark) => write!(f, "mark {mark:#010x} ip6"),
        }
    }
}

/// Who gets the next client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scheduler {
    /// The next one in turn.
    RoundRobin,
    /// Chosen by a hash of the client's address (Maglev), so that it stays the same.
    Maglev,
}

impl Scheduler {
    /// As the kernel calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "rr",
            Self::Maglev => "mh",
        }
    }
}

/// How a virtual server schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduling {
    /// Who is next.
    pub scheduler: Scheduler,
    /// Seconds for which a client stays with its destination.
    pub persistence_s: Option<u32>,
}

/// A virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// How it schedules.
    pub scheduling: Scheduling,
    /// Who takes new connections; all of the same weight.
    pub destinations: BTreeSet<SocketAddr>,
}
