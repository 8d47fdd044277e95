//! Reads tables back: what is there, whoever put it there.

use std::collections::BTreeMap;

use super::{
    attributes::{Attributes, find, find_text, find_u32, read},
    batch::{
        GET_CHAIN, GET_ELEMENTS, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, set_flags,
        type_number,
    },
    encode::{protocol_family, read_expressions, read_value, read_verdict},
    expression::{Expression, Verdict},
    object::{Content, Set, Table},
    socket::{Netfilter, NftablesError},
};
use crate::model::Family;

/// A chain of a table, as the kernel has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SeenChain {
    /// For a base chain: its kind, hook and priority.
    pub seat: Option<(String, u32, i32)>,
    /// Its rules; steps that we do not write are `None`.
    pub rules: Vec<Vec<Option<Expression>>>,
}

/// A set of a table, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSet {
    flags: u32,
    key: (u32, u32),
    data: (u32, u32),
}

impl SeenSet {
    /// Whether it takes the same elements.
    pub fn is(&self, set: &Set) -> bool {
        let data = match set.content {
            Content::Nothing => (0, 0),
            Content::Data(fields) => {
                (type_number(fields), fields.iter().map(|field| field.width()).sum())
            }
            Content::Verdict => self.data,
        };
        self.flags == set_flags(set)
            && self.key == (type_number(set.key), set.key_len())
            && self.data == data
    }
}

/// What an element holds, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeenHeld {
    /// Nothing.
    Nothing,
    /// Data.
    Data(Vec<u8>),
    /// A verdict.
    Verdict(Option<Verdict>),
}

impl Netfilter {
    /// The number of the kernel's tables' state: every transaction of anybody makes it another.
    pub fn generation(&mut self) -> Result<u32, NftablesError> {
        let answer = self.get("the generation", GET_GENERATION, 0, &[])?;
        Ok(find_u32(&answer, 1).unwrap_or(0))
    }

    /// The names of all tables of a family.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, NftablesError> {
        let of = protocol_family(family);
        self.dump("tables", GET_TABLE, of, &[], |all: &mut Vec<String>, table| {
            all.extend(find_text(table, 1).map(str::to_owned));
        })
    }

    /// The chains of a table with their rules.
    pub fn chains(&mut self, table: &Table) -> Result<BTreeMap<String, SeenChain>, NftablesError> {
        type Chains = BTreeMap<String, SeenChain>;
        let of = protocol_family(table.family);
        // Kernels do not filter chains by table.
        let is_ours = |message: &[u8]| find_text(message, 1) == Some(&table.name);
        let mut chains = self.dump("chains", GET_CHAIN, of, &[], |all: &mut Chains, message| {
            let Some(name) = find_text(message, 3).filter(|_| is_ours(message)) else { return };
            let seat = find(message, 4).map(|hook| {
                let kind = find_text(message, 7).unwrap_or_default().to_owned();
                let priority = find_u32(hook, 2).unwrap_or(0).cast_signed();
                (kind, find_u32(hook, 1).unwrap_or(u32::MAX), priority)
            });
            all.insert(name.to_owned(), SeenChain { seat, rules: Vec::new() });
        })?;
        let mut filter = Vec::new();
        Attributes(&mut filter).text(1, &table.name);
        let rules =
            self.dump("rules", GET_RULE, of, &filter, |all: &mut Vec<(String, _)>, message| {
                let Some(chain) = find_text(message, 2).filter(|_| is_ours(message)) else {
                    return;
                };
                let steps = read_expressions(find(message, 4).unwrap_or(&[]));
                all.push((chain.to_owned(), steps));
            })?;
        for (chain, steps) in rules {
            chains.entry(chain).or_default().rules.push(steps);
        }
        Ok(chains)
    }

    /// The sets of a table.
    pub fn sets(&mut self, table: &Table) -> Result<BTreeMap<String, SeenSet>, NftablesError> {
        type Sets = BTreeMap<String, SeenSet>;
        let of = protocol_family(table.family);
        let mut filter = Vec::new();
        Attributes(&mut filter).text(1, &table.name);
        self.dump("sets", GET_SET, of, &filter, |all: &mut Sets, message| {
            let number = |kind| find_u32(message, kind).unwrap_or(0);
            if find_text(message, 1) == Some(&table.name)
                && let Some(name) = find_text(message, 2)
            {
                let set = SeenSet {
                    flags: number(3),
                    key: (number(4), number(5)),
                    data: (number(6), number(7)),
                };
                all.insert(name.to_owned(), set);
            }
        })
    }

    /// The elements of a set: `each` takes in the key, the end of the range, and what is held.
    pub fn elements<T: Default>(
        &mut self,
        table: &Table,
        set: &str,
        mut each: impl FnMut(&mut T, &[u8], Option<&[u8]>, SeenHeld),
    ) -> Result<T, NftablesError> {
        let mut filter = Vec::new();
        let mut attributes = Attributes(&mut filter);
        attributes.text(1, &table.name);
        attributes.text(2, set);
        let of = protocol_family(table.family);
        self.dump("elements", GET_ELEMENTS, of, &filter, |all: &mut T, message| {
            let list = find(message, 3).unwrap_or(&[]);
            for (_, item) in read(list).filter(|(kind, _)| *kind == 1) {
                let (mut key, mut until, mut held) = (None, None, SeenHeld::Nothing);
                for (kind, value) in read(item) {
                    match kind {
                        1 => key = read_value(value),
                        2 => {
                            held = match read_value(value) {
                                Some(data) => SeenHeld::Data(data.to_vec()),
                                None => SeenHeld::Verdict(read_verdict(value)),
                            }
                        }
                        10 => until = read_value(value),
                        _ => {}
                    }
                }
                if let Some(key) = key {
                    each(all, key, until, held);
                }
            }
        })
    }
}
