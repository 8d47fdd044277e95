//! The steps of a rule, as plain data: what they load, look up, compare and decide.

use std::borrow::Cow;

/// The name of a table, a chain or a set.
pub type Name = Cow<'static, str>;

/// One of the sixteen registers of 4 bytes. Values that are longer take those that follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Register(pub u8);

/// Where a packet's bytes are counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The IP header.
    Network,
    /// The header of TCP, UDP or SCTP.
    Transport,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    /// The firewall mark.
    Mark,
    /// The index of the device by which it arrived.
    InputIndex,
    /// The index of the device by which it leaves.
    OutputIndex,
    /// The name of the device by which it arrived, 16 bytes.
    InputName,
    /// The name of the device by which it leaves, 16 bytes.
    OutputName,
    /// The protocol behind the IP header and its extensions.
    Protocol,
}

/// What connection tracking knows of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Track {
    /// A bit of [`state`].
    State,
    /// Bits such as [`status::DNAT`].
    Status,
}

/// Bits of [`Track::State`].
pub mod state {
    /// The packet belongs to no connection that could be tracked.
    pub const INVALID: u32 = 1;
    /// Packets of both directions were seen.
    pub const ESTABLISHED: u32 = 2;
    /// An error about, or a child of, a connection.
    pub const RELATED: u32 = 4;
    /// No answer was seen yet.
    pub const NEW: u32 = 8;
}

/// Bits of [`Track::Status`].
pub mod status {
    /// The source is translated.
    pub const SNAT: u32 = 1 << 4;
    /// The destination is translated.
    pub const DNAT: u32 = 1 << 5;
}

/// How two values compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same bytes.
    Equal,
    /// Other bytes.
    NotEqual,
}

/// What a rule decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The packet goes on.
    Accept,
    /// The packet ends here, silently.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// To a chain, and back after its last rule.
    Jump(Name),
    /// To a chain, for good.
    Goto(Name),
}

/// Where what is found in a set goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nowhere: it is a set, and the rule goes on if the key is in it.
    Nothing,
    /// Nowhere: it is a set, and the rule goes on if the key is not in it.
    Missing,
    /// The data of a map, to this register and those that follow.
    Data(Register),
    /// The verdict of a map, which is obeyed.
    Verdict,
}

/// What a packet does to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Update {
    /// Adds an element, or renews the timeout of the one that is there, whose data stay.
    Renew,
    /// Removes the element.
    Remove,
}

/// How the sender of a packet is told that nobody is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A TCP reset.
    TcpReset,
    /// ICMP or `ICMPv6` "port unreachable".
    PortUnreachable,
}

/// One step of a rule. A step that does not match ends the rule, and the next rule follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// Loads bytes of the packet; short ones are padded with zeros to 4 bytes.
    Payload {
        /// Counted from here.
        base: Base,
        /// The first byte.
        offset: u32,
        /// How many.
        len: u32,
        /// Where to.
        to: Register,
    },
    /// Loads what is known of the packet.
    Meta {
        /// What.
        key: Meta,
        /// Where to.
        to: Register,
    },
    /// Sets the firewall mark.
    SetMark(Register),
    /// Loads what connection tracking knows.
    Track {
        /// What.
        key: Track,
        /// Where to.
        to: Register,
    },
    /// Goes on if a register compares with a value.
    Compare {
        /// The register.
        from: Register,
        /// How.
        by: Comparison,
        /// The value.
        with: Vec<u8>,
    },
    /// `to = (from & mask) ^ xor`.
    Bitwise {
        /// The first register read.
        from: Register,
        /// The first register written.
        to: Register,
        /// The mask; its length is that of the value.
        mask: Vec<u8>,
        /// As long as the mask.
        xor: Vec<u8>,
    },
    /// Loads a value.
    Immediate {
        /// Where to.
        to: Register,
        /// The value.
        value: Vec<u8>,
    },
    /// Decides.
    Verdict(Verdict),
    /// Looks a key up. If it is not there, the rule ends.
    Lookup {
        /// The set or map.
        set: Name,
        /// The first register of the key.
        key: Register,
        /// What becomes of what is found.
        found: Found,
    },
    /// A random number below `below`, in the host's byte order.
    Random {
        /// The bound, at least 1.
        below: u32,
        /// Where to.
        to: Register,
    },
    /// Changes a set on behalf of the packet. A full set ends the rule.
    Update {
        /// The set or map.
        set: Name,
        /// What is done.
        update: Update,
        /// The first register of the key.
        key: Register,
        /// The first register of the data, for a map.
        data: Option<Register>,
        /// How long the element lives, for a set with timeouts.
        timeout_ms: Option<u64>,
    },
    /// Gives the packet's connection another destination, and accepts it.
    Dnat {
        /// The first register of the address.
        address: Register,
        /// The register of the port.
        port: Option<Register>,
    },
    /// Gives the packet's connection the address of the device by which it leaves, a source port
    /// chosen at random, and accepts it.
    Masquerade,
    /// Answers that nobody is there, and drops the packet.
    Refuse(Refusal),
    /// Counts packets and bytes.
    Counter,
}
