//! Two tables of nftables that help connections over to another backend: one lets packets of the way
//! between pass untracked, one keeps the kernel translating what is tracked.

use super::Entry;
use crate::{
    ebpf::octets,
    netlink::{
        Attributes, Error, Message, Socket,
        netfilter::{self, family, subsystem},
    },
};

/// Kinds of messages (`linux/netfilter/nf_tables.h`).
mod kind {
    pub(super) const NEW_TABLE: u8 = 0;
    pub(super) const GET_TABLE: u8 = 1;
    pub(super) const DELETE_TABLE: u8 = 2;
    pub(super) const NEW_CHAIN: u8 = 3;
    pub(super) const NEW_RULE: u8 = 6;
    pub(super) const NEW_SET: u8 = 9;
    pub(super) const NEW_ELEMENTS: u8 = 12;
}

/// Attributes of those messages.
mod attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const CHAIN_HOOK: u16 = 4;
    pub(super) const CHAIN_TYPE: u16 = 7;
    pub(super) const HOOK_NUMBER: u16 = 1;
    pub(super) const HOOK_PRIORITY: u16 = 2;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_KEY_TYPE: u16 = 4;
    pub(super) const SET_KEY_LEN: u16 = 5;
    pub(super) const SET_ID: u16 = 10;
    pub(super) const ELEMENTS_SET: u16 = 2;
    pub(super) const ELEMENTS: u16 = 3;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
}

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const ACK: u16 = 0x4;
/// The hook before routing.
const PREROUTING: u32 = 0;
/// Before connection tracking looks.
const PRIORITY_RAW: i32 = -300;
/// Where destinations are replaced.
const PRIORITY_DNAT: i32 = -100;
/// The first register of 4 bytes.
const REGISTER: u32 = 8;
/// Keys and bases of the expressions `meta`, `ct` and `payload`.
const META_PROTOCOL: u32 = 16;
const CT_STATE: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// Elements in one message: an attribute holds 64 KiB.
const ELEMENTS_MAX: usize = 1000;
/// A number that means nothing to the kernel: bytes as they are.
const KEY_TYPE: u32 = 0;

/// The families, each with the place of its addresses in the IP header.
const FAMILIES: [(u8, u32, u32); 2] = [(family::IPV4, 12, 8), (family::IPV6, 8, 32)];

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Packets from clients that the programs have translated already pass untracked, so that they
    /// never meet the entry that translates the same connection.
    Untracked,
    /// Some chain of type nat is there, so that the kernel goes on translating tracked connections
    /// when no rules are left.
    Translating,
}

impl Guard {
    /// Name of its table.
    pub fn table(self, instance: &str) -> String {
        let role = match self {
            Self::Untracked => "moving",
            Self::Translating => "nat",
        };
        if instance == "default" {
            format!("hashplane-{role}")
        } else {
            format!("hashplane-{instance}-{role}")
        }
    }

    /// Whether it is there, in any family.
    pub fn is_up(self, socket: &mut Socket, instance: &str) -> Result<bool, Error> {
        for (family, ..) in FAMILIES {
            let mut name = Attributes::new();
            name.text(attribute::TABLE, &self.table(instance));
            let get = message(kind::GET_TABLE, family, 0, name);
            match socket.ask("find a table of connections", get) {
                Ok(_found) => return Ok(true),
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Removes it, if it is there.
    pub fn lower(self, socket: &mut Socket, instance: &str) -> Result<(), Error> {
        for (family, ..) in FAMILIES {
            let mut name = Attributes::new();
            name.text(attribute::TABLE, &self.table(instance));
            let delete = message(kind::DELETE_TABLE, family, ACK, name);
            let batch = netfilter::batch(subsystem::NFTABLES, vec![delete]);
            match socket.transact("remove a table of connections", batch, 1) {
                Ok(()) => {}
                Err(error) if error.errno() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Lets what the endpoints of these connections get from the programs pass untracked.
pub fn untrack(socket: &mut Socket, instance: &str, entries: &[Entry]) -> Result<(), Error> {
    Guard::Untracked.lower(socket, instance)?;
    let table = Guard::Untracked.table(instance);
    let mut messages = Vec::new();
    for (family, offset, len) in FAMILIES {
        let keys: Vec<Vec<u8>> = entries.iter().filter_map(|entry| key(entry, family)).collect();
        if keys.is_empty() {
            continue;
        }
        messages.push(new_table(family, &table));
        messages.push(new_chain(family, &table, "filter", PRIORITY_RAW));
        messages.push(new_set(family, &table, len + 8));
        messages.push(new_rule(family, &table, |list| pass_untracked(list, offset, len)));
        messages.extend(keys.chunks(ELEMENTS_MAX).map(|keys| new_elements(family, &table, keys)));
    }
    commit(socket, messages)
}

/// Keeps the kernel translating.
pub fn keep_translating(socket: &mut Socket, instance: &str) -> Result<(), Error> {
    let table = Guard::Translating.table(instance);
    let both = FAMILIES.iter().flat_map(|(family, ..)| {
        [
            new_table(*family, &table),
            new_chain(*family, &table, "nat", PRIORITY_DNAT),
            new_rule(*family, &table, |list| {
                // Without a rule that reads it, connections are not even tracked.
                expression(list, "ct", |state| {
                    state.be32(1, REGISTER).be32(2, CT_STATE);
                });
            }),
        ]
    });
    commit(socket, both.collect())
}

fn commit(socket: &mut Socket, mut messages: Vec<Message>) -> Result<(), Error> {
    let Some(last) = messages.last_mut() else { return Ok(()) };
    last.flags |= ACK;
    let batch = netfilter::batch(subsystem::NFTABLES, messages);
    socket.transact("write a table of connections", batch, 1)
}

/// Addresses, ports and protocol of what the endpoint gets, as the rule reads them.
fn key(entry: &Entry, of: u8) -> Option<Vec<u8>> {
    let to = entry.reply.reversed();
    let (source, destination) = (to.source, to.destination);
    let mut key = if of == family::IPV4 {
        [octets::<4>(source.ip())?, octets(destination.ip())?].concat()
    } else {
        [octets::<16>(source.ip())?, octets(destination.ip())?].concat()
    };
    key.extend(source.port().to_be_bytes());
    key.extend(destination.port().to_be_bytes());
    key.extend([entry.protocol, 0, 0, 0]);
    Some(key)
}

fn message(kind: u8, family: u8, flags: u16, attributes: Attributes) -> Message {
    netfilter::message(subsystem::NFTABLES, kind, family, flags, attributes)
}

fn new_table(family: u8, table: &str) -> Message {
    let mut all = Attributes::new();
    all.text(attribute::TABLE, table);
    message(kind::NEW_TABLE, family, CREATE, all)
}

fn new_chain(family: u8, table: &str, of: &str, priority: i32) -> Message {
    let mut all = Attributes::new();
    all.text(attribute::TABLE, table).text(attribute::CHAIN_NAME, "prerouting");
    all.nested(attribute::CHAIN_HOOK, |hook| {
        hook.be32(attribute::HOOK_NUMBER, PREROUTING);
        hook.be32(attribute::HOOK_PRIORITY, priority.cast_unsigned());
    });
    all.text(attribute::CHAIN_TYPE, of);
    message(kind::NEW_CHAIN, family, CREATE, all)
}

fn new_set(family: u8, table: &str, key_len: u32) -> Message {
    let mut all = Attributes::new();
    all.text(attribute::TABLE, table).text(attribute::SET_NAME, "moving");
    all.be32(attribute::SET_KEY_TYPE, KEY_TYPE).be32(attribute::SET_KEY_LEN, key_len);
    all.be32(attribute::SET_ID, 1);
    message(kind::NEW_SET, family, CREATE, all)
}

fn new_elements(family: u8, table: &str, keys: &[Vec<u8>]) -> Message {
    let mut all = Attributes::new();
    all.text(attribute::TABLE, table).text(attribute::ELEMENTS_SET, "moving");
    all.nested(attribute::ELEMENTS, |list| {
        for key in keys {
            list.nested(attribute::LIST_ELEMENT, |element| {
                element.nested(attribute::ELEMENT_KEY, |data| {
                    data.bytes(attribute::DATA_VALUE, key);
                });
            });
        }
    });
    message(kind::NEW_ELEMENTS, family, CREATE, all)
}

fn new_rule(family: u8, table: &str, write: impl FnOnce(&mut Attributes)) -> Message {
    let mut all = Attributes::new();
    all.text(attribute::TABLE, table).text(attribute::RULE_CHAIN, "prerouting");
    all.nested(attribute::RULE_EXPRESSIONS, write);
    message(kind::NEW_RULE, family, CREATE | APPEND, all)
}

/// Addresses, ports and protocol into registers, one after the other; whoever is in the set passes
/// untracked.
fn pass_untracked(list: &mut Attributes, offset: u32, len: u32) {
    let ports = REGISTER + len / 4;
    expression(list, "meta", |meta| {
        meta.be32(1, ports + 1).be32(2, META_PROTOCOL);
    });
    expression(list, "payload", |load| {
        load.be32(1, REGISTER).be32(2, NETWORK_HEADER).be32(3, offset).be32(4, len);
    });
    expression(list, "payload", |load| {
        load.be32(1, ports).be32(2, TRANSPORT_HEADER).be32(3, 0).be32(4, 4);
    });
    expression(list, "lookup", |lookup| {
        lookup.text(1, "moving").be32(2, REGISTER);
    });
    expression(list, "notrack", |_| {});
}

fn expression(list: &mut Attributes, name: &str, write: impl FnOnce(&mut Attributes)) {
    list.nested(attribute::LIST_ELEMENT, |one| {
        one.text(attribute::EXPRESSION_NAME, name);
        one.nested(attribute::EXPRESSION_DATA, write);
    });
}
