//! Builds the messages of one transaction.

use super::{
    attributes::Attributes,
    encode::{expressions, protocol_family, value, verdict},
    expression::{Expression, Name},
    object::{Chain, Content, Element, Held, Set, SetKind, Table},
};

/// `NFNL_SUBSYS_NFTABLES`, where the kernel looks for it in a message's type.
pub(super) const SUBSYSTEM: u16 = 10 << 8;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DELETE_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const GET_CHAIN: u16 = 4;
pub(super) const DELETE_CHAIN: u16 = 5;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const GET_RULE: u16 = 7;
pub(super) const DELETE_RULE: u16 = 8;
pub(super) const NEW_SET: u16 = 9;
pub(super) const GET_SET: u16 = 10;
pub(super) const NEW_ELEMENTS: u16 = 12;
pub(super) const GET_ELEMENTS: u16 = 13;
pub(super) const DELETE_ELEMENTS: u16 = 14;
pub(super) const GET_GENERATION: u16 = 16;

const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const MAP: u32 = 0x8;
const INTERVAL: u32 = 0x4;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;
const CONCAT: u32 = 0x80;
const TYPE_VERDICT: u32 = 0xffff_ff00;

/// A nest holds less than 64 KiB; no element takes more than this many bytes.
const ELEMENTS_LEN_MAX: usize = 60 * 1024;

/// The bytes of a netlink header.
pub(super) const HEADER_LEN: usize = 16;
/// Those of the header that all netfilter messages begin with.
pub(super) const FAMILY_LEN: usize = 4;

/// What a message does, for errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// The verb and the kind of thing.
    pub verb: &'static str,
    /// What it is called.
    pub name: Name,
}

/// The messages of one transaction, in order.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) bytes: Vec<u8>,
    /// Where each message begins, and what it does. Its number is its sequence number.
    pub(super) messages: Vec<(usize, Deed)>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many bytes its messages have.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    fn message(
        &mut self,
        kind: u16,
        flags: u16,
        table: &Table,
        deed: (&'static str, &Name),
        write: impl FnOnce(&mut Attributes<'_>),
    ) {
        let at = self.bytes.len();
        let sequence = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.messages.push((at, Deed { verb: deed.0, name: deed.1.clone() }));
        header(&mut self.bytes, SUBSYSTEM | kind, flags, sequence, protocol_family(table.family));
        write(&mut Attributes(&mut self.bytes));
        finish(&mut self.bytes, at);
    }

    /// Adds a table. It may be there already.
    pub fn add_table(&mut self, table: &Table) {
        let name = Name::from(table.name.clone());
        self.message(NEW_TABLE, CREATE, table, ("add table", &name), |a| {
            a.text(1, &table.name);
            a.u32(2, 0);
        });
    }

    /// Removes a table and all that is in it. It must be there.
    pub fn delete_table(&mut self, table: &Table) {
        let name = Name::from(table.name.clone());
        self.message(DELETE_TABLE, 0, table, ("delete table", &name), |a| a.text(1, &table.name));
    }

    /// Adds a chain without its rules.
    pub fn add_chain(&mut self, table: &Table, chain: &Chain) {
        self.message(NEW_CHAIN, CREATE, table, ("add chain", &chain.name), |a| {
            a.text(1, &table.name);
            a.text(3, &chain.name);
            if let Some(seat) = &chain.seat {
                a.nest(4, |hook| {
                    hook.u32(1, seat.hook as u32);
                    hook.u32(2, seat.priority.cast_unsigned());
                });
                a.u32(5, 1);
                a.text(7, seat.kind.name());
            }
        });
    }

    /// Removes a chain. Nothing may lead to it any more; its rules go with it.
    pub fn delete_chain(&mut self, table: &Table, name: &Name) {
        self.flush_chain(table, name);
        self.message(DELETE_CHAIN, 0, table, ("delete chain", name), |a| {
            a.text(1, &table.name);
            a.text(3, name);
        });
    }

    /// Removes every rule of a chain.
    pub fn flush_chain(&mut self, table: &Table, name: &Name) {
        self.message(DELETE_RULE, 0, table, ("flush chain", name), |a| {
            a.text(1, &table.name);
            a.text(2, name);
        });
    }

    /// Adds a rule to the end of a chain.
    pub fn add_rule(&mut self, table: &Table, chain: &Name, rule: &[Expression]) {
        self.message(NEW_RULE, CREATE | APPEND, table, ("add rule to chain", chain), |a| {
            a.text(1, &table.name);
            a.text(2, chain);
            expressions(a, 4, table.family, rule);
        });
    }

    /// Adds a chain and its rules. All sets and chains that the rules name must be there.
    pub fn add_chain_with_rules(&mut self, table: &Table, chain: &Chain) {
        self.add_chain(table, chain);
        for rule in &chain.rules {
            self.add_rule(table, &chain.name, rule);
        }
    }

    /// Adds a set without elements.
    pub fn add_set(&mut self, table: &Table, set: &Set) {
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.message(NEW_SET, CREATE, table, ("add set", &set.name), |a| {
            a.text(1, &table.name);
            a.text(2, &set.name);
            a.u32(3, set_flags(set));
            a.u32(4, type_number(set.key));
            a.u32(5, set.key_len());
            match set.content {
                Content::Nothing => {}
                Content::Data(fields) => {
                    a.u32(6, type_number(fields));
                    a.u32(7, fields.iter().map(|field| field.width()).sum());
                }
                Content::Verdict => {
                    a.u32(6, TYPE_VERDICT);
                    // A verdict's own length, as the kernel checks it.
                    a.u32(7, 16);
                }
            }
            match set.kind {
                SetKind::Hash => {}
                SetKind::Ranges => a.nest(9, |desc| {
                    desc.nest(2, |fields| {
                        for field in set.key {
                            fields.nest(1, |one| one.u32(1, field.width()));
                        }
                    });
                }),
                SetKind::Dynamic { size, timeout_ms } => {
                    a.nest(9, |desc| desc.u32(1, size));
                    a.u64(11, timeout_ms);
                }
            }
            a.u32(10, id + 1);
        });
    }

    /// Adds elements to a set.
    #[expect(single_use_lifetimes, reason = "it cannot be left out of `impl Trait` yet")]
    pub fn add_elements<'a>(
        &mut self,
        table: &Table,
        set: &Name,
        elements: impl IntoIterator<Item = Element<'a>>,
    ) {
        self.elements(NEW_ELEMENTS, CREATE, table, ("add elements to set", set), elements);
    }

    /// Removes elements from a set. They must be there; what they hold does not matter.
    #[expect(single_use_lifetimes, reason = "it cannot be left out of `impl Trait` yet")]
    pub fn delete_elements<'a>(
        &mut self,
        table: &Table,
        set: &Name,
        elements: impl IntoIterator<Item = Element<'a>>,
    ) {
        self.elements(DELETE_ELEMENTS, 0, table, ("delete elements from set", set), elements);
    }

    #[expect(single_use_lifetimes, reason = "it cannot be left out of `impl Trait` yet")]
    fn elements<'a>(
        &mut self,
        kind: u16,
        flags: u16,
        table: &Table,
        deed: (&'static str, &Name),
        elements: impl IntoIterator<Item = Element<'a>>,
    ) {
        let mut elements = elements.into_iter().peekable();
        while elements.peek().is_some() {
            self.message(kind, flags, table, deed, |a| {
                a.text(1, &table.name);
                a.text(2, deed.1);
                a.nest(3, |list| {
                    let begin = list.0.len();
                    while list.0.len() - begin < ELEMENTS_LEN_MAX
                        && let Some(element) = elements.next()
                    {
                        write_element(list, &element, kind == NEW_ELEMENTS);
                    }
                });
            });
        }
    }
}

fn write_element(list: &mut Attributes<'_>, element: &Element<'_>, with_content: bool) {
    list.nest(1, |item| {
        value(item, 1, element.key);
        if let Some(until) = element.until {
            value(item, 10, until);
        }
        match element.held {
            Held::Data(data) if with_content => value(item, 2, data),
            Held::Verdict(of) if with_content => verdict(item, 2, of),
            Held::Nothing | Held::Data(_) | Held::Verdict(_) => {}
        }
    });
}

/// The flags of a set.
pub(super) fn set_flags(set: &Set) -> u32 {
    let content = match set.content {
        Content::Nothing => 0,
        Content::Data(_) | Content::Verdict => MAP,
    };
    let kind = match set.kind {
        SetKind::Hash => 0,
        SetKind::Ranges => INTERVAL | CONCAT,
        SetKind::Dynamic { .. } => EVAL | TIMEOUT,
    };
    content | kind
}

/// Fields as `nft` packs them into one number: six bits each.
pub(super) fn type_number(fields: &[super::object::Type]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | field.number())
}

/// Begins a message: the netlink header, whose length comes later, and that of netfilter.
pub(super) fn header(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8) {
    const REQUEST: u16 = 1;
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family, 0, 0, 0]);
}

/// Writes the length of the message that began at `at`.
pub(super) fn finish(bytes: &mut [u8], at: usize) {
    let len = u32::try_from(bytes.len() - at).unwrap_or(u32::MAX);
    bytes[at..at + 4].copy_from_slice(&len.to_ne_bytes());
}
