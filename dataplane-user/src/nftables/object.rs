//! Tables, chains, rules, sets and elements as plain data.

use super::expression::{Expression, Name, Verdict};
use crate::model::Family;

/// A table: where it is and how it is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Table {
    /// `ip` or `ip6`.
    pub family: Family,
    /// Its name.
    pub name: String,
}

/// Where the packets of a base chain come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// All that arrive, before they are routed.
    Prerouting,
    /// Those for this host.
    Input,
    /// Those that are forwarded.
    Forward,
    /// Those of this host's own sockets.
    Output,
    /// All that leave.
    Postrouting,
}

impl Hook {
    /// All of them, at their numbers.
    pub const ALL: [Self; 5] =
        [Self::Prerouting, Self::Input, Self::Forward, Self::Output, Self::Postrouting];

    /// As `nft` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Look at every packet.
    Filter,
    /// Translate: only the first packet of a connection comes here.
    Nat,
}

impl ChainKind {
    /// As the kernel and `nft` write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where a base chain sits. Its policy is to accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// What it may do.
    pub kind: ChainKind,
    /// Where its packets come from.
    pub hook: Hook,
    /// Its place among the others at this hook; the least comes first.
    pub priority: i32,
}

/// The steps of one rule.
pub type Rule = Vec<Expression>;

/// A chain with all of its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: Name,
    /// For a base chain: where it sits.
    pub seat: Option<Seat>,
    /// In the order in which they are tried.
    pub rules: Vec<Rule>,
}

/// What `nft` calls the type of a value, so that it can show one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// An address.
    Address4,
    /// An address.
    Address6,
    /// The number of a protocol, padded to 4 bytes.
    Protocol,
    /// A port, padded to 4 bytes.
    Port,
    /// Any 4 bytes, shown as a number in the host's byte order.
    Number,
    /// The name of a device.
    Device,
}

impl Type {
    /// How many bytes it takes in a key or in data.
    pub const fn width(self) -> u32 {
        match self {
            Self::Address4 | Self::Protocol | Self::Port | Self::Number => 4,
            Self::Address6 | Self::Device => 16,
        }
    }

    /// The number that `nft` knows it by.
    pub const fn number(self) -> u32 {
        match self {
            Self::Address4 => 7,
            Self::Address6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
            Self::Device => 41,
        }
    }

    /// As `nft` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address4 => "ipv4_addr",
            Self::Address6 => "ipv6_addr",
            Self::Protocol => "inet_proto",
            Self::Port => "inet_service",
            Self::Number => "mark",
            Self::Device => "ifname",
        }
    }
}

/// What the elements of a set hold beside their key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing.
    Nothing,
    /// Data: fields of these types, five at most, since `nft` shows no more.
    Data(&'static [Type]),
    /// A verdict.
    Verdict,
}

/// Which elements a set takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Single keys.
    Hash,
    /// From one key to another, field by field. At least two fields.
    Ranges,
    /// Single keys that packets write, and that end by themselves.
    Dynamic {
        /// How many at most.
        size: u32,
        /// How long they live if the rule does not say.
        timeout_ms: u64,
    },
}

/// A set or a map, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: Name,
    /// The fields of its keys, five at most, since `nft` shows no more.
    pub key: &'static [Type],
    /// What elements hold.
    pub content: Content,
    /// Which elements it takes.
    pub kind: SetKind,
}

impl Set {
    /// How many bytes its keys have.
    pub fn key_len(&self) -> u32 {
        self.key.iter().map(|field| field.width()).sum()
    }
}

/// What an element holds beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held<'a> {
    /// Nothing.
    Nothing,
    /// Data.
    Data(&'a [u8]),
    /// A verdict.
    Verdict(&'a Verdict),
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// Its key, or the least key of a range.
    pub key: &'a [u8],
    /// The greatest key of a range.
    pub until: Option<&'a [u8]>,
    /// What it holds.
    pub held: Held<'a>,
}
