//! Which expressions of `nf_tables` the kernel takes, and whether conntrack speaks netlink.

use super::{Answer, Feature, Probes};
use crate::netlink::{
    Attributes, Error, Message, Socket,
    netfilter::{batch, family, message, subsystem},
};

/// Table, chain and set of the probe, in a namespace where nobody else has any.
const TABLE: &str = "hashplane-probe";
const CHAIN: &str = "chain";
const SET: &str = "set";

const NEW_TABLE: u8 = 0;
const DELETE_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const NEW_RULE: u8 = 6;
const NEW_SET: u8 = 9;
const GET_CONNECTIONS: u8 = 1;
/// Flags of messages: acknowledge, create, append.
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The first register of 4 bytes.
const REGISTER: u32 = 8;

/// Where a chain stands, and of which kind it is.
struct Seat {
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const PREROUTING: Seat = Seat { kind: "nat", hook: 0, priority: -100 };
const FORWARD: Seat = Seat { kind: "filter", hook: 2, priority: 0 };
const POSTROUTING: Seat = Seat { kind: "nat", hook: 4, priority: 100 };

/// What a set of 4-byte addresses and ports can do.
#[derive(Clone, Copy)]
struct Set {
    flags: u32,
    data_len: u32,
    timeout_ms: Option<u64>,
}

/// A map from two fields to a value.
const MAP: Set = Set { flags: 0x8, data_len: 4, timeout_ms: None };
/// A map that rules fill and that forgets.
const DYNAMIC: Set = Set { flags: 0x8 | 0x10 | 0x20, data_len: 4, timeout_ms: Some(10_000) };

/// Writes one step of a rule for a family.
type Expression = fn(u8, &mut Attributes);

pub(super) fn run(probes: &mut Probes) {
    let mut socket = match Socket::open(libc::NETLINK_NETFILTER) {
        Ok(socket) => socket,
        Err(error) => {
            probes.set(Feature::NfTables, Err::<(), _>(error).into());
            return untried(probes, "there is no netlink socket to netfilter");
        }
    };
    let conntrack =
        message(subsystem::CTNETLINK, GET_CONNECTIONS, family::UNSPEC, 0, Attributes::new());
    let conntrack = socket.dump("list connections", &conntrack).map(drop);
    probes.set(Feature::ConntrackNetlink, conntrack.into());
    probes.set(Feature::NfTables, transaction(&mut socket, None, None, &[]).into());
    if !probes.has(Feature::NfTables) {
        return untried(probes, "there is no nf_tables");
    }
    let load: Expression = load;
    let tries: [(Feature, Seat, Option<Set>, &[Expression]); 6] = [
        (Feature::NftConcatenation, PREROUTING, Some(MAP), &[load, lookup]),
        (Feature::NftNumgen, PREROUTING, None, &[numgen]),
        (Feature::NftNat, PREROUTING, None, &[load, dnat]),
        (Feature::NftMasquerade, POSTROUTING, None, &[masquerade]),
        (Feature::NftDynamicSets, PREROUTING, Some(DYNAMIC), &[load, update]),
        (Feature::NftReject, FORWARD, None, &[reject]),
    ];
    for (feature, seat, set, rule) in tries {
        probes.set(feature, transaction(&mut socket, Some(&seat), set, rule).into());
    }
}

fn untried(probes: &mut Probes, why: &str) {
    let all = [
        Feature::NftConcatenation,
        Feature::NftNumgen,
        Feature::NftNat,
        Feature::NftMasquerade,
        Feature::NftDynamicSets,
        Feature::NftReject,
        Feature::ConntrackNetlink,
    ];
    for feature in all {
        if probes.answer(feature).is_none() {
            probes.set(feature, Answer::Untried(why.to_owned()));
        }
    }
}

/// Table, chain, set and rule at once, in both families. What was there before stays.
fn transaction(
    socket: &mut Socket,
    seat: Option<&Seat>,
    set: Option<Set>,
    rule: &[Expression],
) -> Result<(), Error> {
    for family in [family::IPV4, family::IPV6] {
        let mut messages = vec![new(NEW_TABLE, family, 0, |a| {
            a.be32(2, 0);
        })];
        if let Some(set) = set {
            messages.push(new(NEW_SET, family, 0, |a| write_set(a, set)));
        }
        if let Some(seat) = seat {
            messages.push(new(NEW_CHAIN, family, 0, |a| write_chain(a, seat)));
            messages.push(new(NEW_RULE, family, APPEND, |a| write_rule(a, family, rule)));
        }
        if let Some(last) = messages.last_mut() {
            last.flags |= ACK;
        }
        socket.transact("add a rule", batch(subsystem::NFTABLES, messages), 1)?;
        if seat.is_some() {
            // The next try has a chain of another kind and another set by the same names.
            let delete = new(DELETE_TABLE, family, ACK, |_| {});
            socket.transact("delete a table", batch(subsystem::NFTABLES, vec![delete]), 1)?;
        }
    }
    Ok(())
}

fn new(number: u8, family: u8, flags: u16, write: impl FnOnce(&mut Attributes)) -> Message {
    let mut attributes = Attributes::new();
    attributes.text(1, TABLE);
    write(&mut attributes);
    message(subsystem::NFTABLES, number, family, CREATE | flags, attributes)
}

fn write_chain(attributes: &mut Attributes, seat: &Seat) {
    attributes.text(3, CHAIN).nested(4, |hook| {
        hook.be32(1, seat.hook).be32(2, seat.priority.cast_unsigned());
    });
    attributes.be32(5, 1).text(7, seat.kind);
}

fn write_set(attributes: &mut Attributes, set: Set) {
    attributes.text(2, SET).be32(3, set.flags).be32(4, 0).be32(5, 8);
    attributes.be32(6, 0).be32(7, set.data_len).nested(9, |desc| {
        desc.be32(1, 1024);
    });
    if let Some(timeout_ms) = set.timeout_ms {
        attributes.be64(11, timeout_ms);
    }
    attributes.be32(10, 1);
}

fn write_rule(attributes: &mut Attributes, family: u8, rule: &[Expression]) {
    attributes.text(2, CHAIN).nested(4, |list| {
        for write in rule {
            list.nested(1, |item| write(family, item));
        }
    });
}

fn expression(item: &mut Attributes, name: &str, write: impl FnOnce(&mut Attributes)) {
    item.text(1, name).nested(2, write);
}

/// Values for the registers that the next expression reads: twenty bytes, as long as an address and
/// a port. One value fills a block of sixteen at most.
fn load(_family: u8, item: &mut Attributes) {
    expression(item, "immediate", |data| {
        data.be32(1, REGISTER).nested(2, |value| {
            value.bytes(1, &[1; 16]);
        });
    });
}

fn lookup(_family: u8, item: &mut Attributes) {
    expression(item, "lookup", |data| {
        data.text(1, SET).be32(2, REGISTER).be32(3, REGISTER + 4);
    });
}

fn numgen(_family: u8, item: &mut Attributes) {
    expression(item, "numgen", |data| {
        data.be32(1, REGISTER).be32(2, 3).be32(3, 1);
    });
}

fn dnat(family: u8, item: &mut Attributes) {
    expression(item, "nat", |data| {
        data.be32(1, 1).be32(2, family.into()).be32(3, REGISTER);
    });
}

fn masquerade(_family: u8, item: &mut Attributes) {
    const RANDOM_FULLY: u32 = 1 << 4;
    expression(item, "masq", |data| {
        data.be32(1, RANDOM_FULLY);
    });
}

fn update(_family: u8, item: &mut Attributes) {
    expression(item, "dynset", |data| {
        data.text(1, SET).be32(3, 1).be32(4, REGISTER).be32(5, REGISTER + 2).be64(6, 5_000);
    });
}

fn reject(of: u8, item: &mut Attributes) {
    let code = if of == family::IPV4 { 3 } else { 4 };
    expression(item, "reject", |data| {
        data.be32(1, 0).u8(2, code);
    });
}
