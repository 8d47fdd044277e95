//! Rules as data, and as `iptables-save` prints them: the text is the same, letter by letter.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::names::Chain;
use crate::model::{Cidr, Family, Protocol};

/// A table of `iptables`, in the order in which we write them while we serve: who is refused is known
/// before who is sent on, so that nobody slips through in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Who is refused or dropped.
    Filter,
    /// Who is sent where.
    Nat,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Filter, Self::Nat];

    /// As `iptables` writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// One rule; all of what is set must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where the packet comes from.
    pub source: Option<Cidr>,
    /// Whether `source` must not hold.
    pub not_source: bool,
    /// Where it goes.
    pub destination: Option<Cidr>,
    /// The device that it came in by.
    pub input: Option<Arc<str>>,
    /// The device that it leaves by.
    pub output: Option<&'static str>,
    /// Its protocol.
    pub protocol: Option<Protocol>,
    /// Whatever else must hold.
    pub matches: Vec<Match>,
    /// What becomes of it.
    pub target: Target,
}

/// What an extension asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Nothing: whose rule it is, and what for.
    Comment(Arc<str>, &'static str),
    /// Its destination port is from the first to the last of these.
    Ports(u16, u16),
    /// The bits of the mask are set, or they are not.
    Mark {
        /// The bits.
        mask: u32,
        /// Whether they are set.
        set: bool,
    },
    /// A draw; so many of 2³¹ win.
    Random(u32),
    /// Its source is in the list since so many seconds at most.
    RecentCheck {
        /// The list.
        list: Chain,
        /// How many.
        seconds: u32,
        /// Whose addresses the list has.
        family: Family,
    },
    /// Always, and its source enters the list.
    RecentSet {
        /// The list.
        list: Chain,
        /// Whose addresses the list has.
        family: Family,
    },
    /// It opens a connection.
    New,
    /// It belongs to a connection that is known.
    Known,
    /// Its destination has been, or has not been, translated.
    Translated(bool),
    /// Its connection is neither known nor translated.
    Strange,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Goes through another chain and comes back.
    Jump(Chain),
    /// Goes on in another chain, in the place of this one.
    Goto(Chain),
    /// Goes back to where it came from.
    Return,
    /// Passes the table.
    Accept,
    /// Vanishes.
    Drop,
    /// Is refused.
    Reject(Reject),
    /// Is sent to an endpoint.
    Dnat(SocketAddr),
    /// Gets these bits.
    SetMark(u32),
    /// Loses these bits.
    ClearMark(u32),
    /// Gets an address of this node for its source.
    Masquerade,
}

/// In which words a packet is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// A TCP reset.
    Reset,
    /// An ICMP error of this family: port unreachable.
    Unreachable(Family),
}

impl Rule {
    /// The chain that packets go on in.
    pub(super) fn leads_to(&self) -> Option<Chain> {
        match &self.target {
            Target::Jump(chain) | Target::Goto(chain) => Some(chain.clone()),
            Target::Return
            | Target::Accept
            | Target::Drop
            | Target::Reject(_)
            | Target::Dnat(_)
            | Target::Masquerade
            | Target::SetMark(_)
            | Target::ClearMark(_) => None,
        }
    }

    /// A rule for every packet.
    pub(super) const fn new(target: Target) -> Self {
        Self {
            source: None,
            not_source: false,
            destination: None,
            input: None,
            output: None,
            protocol: None,
            matches: Vec::new(),
            target,
        }
    }

    /// Goes through `chain` and comes back.
    pub(super) fn jump(chain: &Chain) -> Self {
        Self::new(Target::Jump(chain.clone()))
    }

    /// Goes on in `chain`.
    pub(super) fn goto(chain: &Chain) -> Self {
        Self::new(Target::Goto(chain.clone()))
    }

    /// Only from there.
    pub(super) const fn from(mut self, source: Cidr) -> Self {
        self.source = Some(source);
        self
    }

    /// Only to there.
    pub(super) const fn to(mut self, destination: Cidr) -> Self {
        self.destination = Some(destination);
        self
    }

    /// Only what came in by this device.
    pub(super) fn input(mut self, device: &str) -> Self {
        self.input = Some(device.into());
        self
    }

    /// Only this protocol.
    pub(super) const fn protocol(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Only what this asks for as well.
    pub(super) fn with(mut self, of: Match) -> Self {
        self.matches.push(of);
        self
    }

    /// Whose rule it is.
    pub(super) fn comment(self, of: &Arc<str>, what: &'static str) -> Self {
        self.with(Match::Comment(of.clone(), what))
    }
}

/// As `iptables` writes it.
pub(super) const fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(net) = self.source {
            let not = if self.not_source { "! " } else { "" };
            write!(f, "{not}-s {}/{} ", net.address, net.prefix_len)?;
        }
        if let Some(net) = self.destination {
            write!(f, "-d {}/{} ", net.address, net.prefix_len)?;
        }
        if let Some(device) = &self.input {
            write!(f, "-i {device} ")?;
        }
        if let Some(device) = self.output {
            write!(f, "-o {device} ")?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, "-p {} ", protocol_name(protocol))?;
        }
        for of in &self.matches {
            of.write(self.protocol, f)?;
        }
        self.target.fmt(f)
    }
}

impl Match {
    fn write(&self, protocol: Option<Protocol>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = |family: &Family| match family {
            Family::V4 => "255.255.255.255",
            Family::V6 => "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        };
        match self {
            Self::Comment(of, "") => write!(f, "-m comment --comment \"{of}\" "),
            Self::Comment(of, what) => write!(f, "-m comment --comment \"{of} {what}\" "),
            Self::Ports(first, last) => {
                if let Some(protocol) = protocol {
                    write!(f, "-m {} ", protocol_name(protocol))?;
                }
                if first == last {
                    write!(f, "--dport {first} ")
                } else {
                    write!(f, "--dport {first}:{last} ")
                }
            }
            Self::Mark { mask, set } => {
                let not = if *set { "" } else { "! " };
                write!(f, "-m mark {not}--mark {mask:#x}/{mask:#x} ")
            }
            Self::Random(of) => {
                let probability = f64::from(*of) / f64::from(1u32 << 31);
                write!(f, "-m statistic --mode random --probability {probability:.11} ")
            }
            Self::RecentCheck { list, seconds, family } => write!(
                f,
                "-m recent --rcheck --seconds {seconds} --reap --name {list} --mask {} --rsource ",
                mask(family)
            ),
            Self::RecentSet { list, family } => {
                write!(f, "-m recent --set --name {list} --mask {} --rsource ", mask(family))
            }
            Self::New => f.write_str("-m conntrack --ctstate NEW "),
            Self::Known => f.write_str("-m conntrack --ctstate RELATED,ESTABLISHED "),
            Self::Translated(true) => f.write_str("-m conntrack --ctstate DNAT "),
            Self::Translated(false) => f.write_str("-m conntrack ! --ctstate DNAT "),
            Self::Strange => f.write_str("-m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT "),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Jump(chain) => write!(f, "-j {chain}"),
            Self::Goto(chain) => write!(f, "-g {chain}"),
            Self::Return => f.write_str("-j RETURN"),
            Self::Accept => f.write_str("-j ACCEPT"),
            Self::Drop => f.write_str("-j DROP"),
            Self::Reject(Reject::Reset) => f.write_str("-j REJECT --reject-with tcp-reset"),
            Self::Reject(Reject::Unreachable(Family::V4)) => {
                f.write_str("-j REJECT --reject-with icmp-port-unreachable")
            }
            Self::Reject(Reject::Unreachable(Family::V6)) => {
                f.write_str("-j REJECT --reject-with icmp6-port-unreachable")
            }
            Self::Dnat(to) => write!(f, "-j DNAT --to-destination {to}"),
            Self::SetMark(mask) => write!(f, "-j MARK --set-xmark {mask:#x}/{mask:#x}"),
            Self::ClearMark(mask) => write!(f, "-j MARK --set-xmark 0x0/{mask:#x}"),
            Self::Masquerade => f.write_str("-j MASQUERADE --random-fully"),
        }
    }
}
