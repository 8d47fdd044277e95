//! Elements as `nf_tables` has them, and tables written and read back.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    contents::{Element, Held},
    rules::{CLOSED, HAIRPINS, NODES, POD_LINKS, RANGES, Rules, SERVER_MARKS, SERVICES},
    server::Virtual,
    system::Transaction,
    treatment::Treatment,
};
use crate::{
    model::{Cidr, Family, Protocol},
    nftables::{
        batch::Batch,
        dump::SeenHeld,
        expression::{Name, Verdict},
        object::{self, Table},
        socket::{Netfilter, NftablesError},
    },
};

/// The elements of a table.
pub(super) type Elements = BTreeMap<Element, Held>;

/// An element as the kernel has it.
struct Raw {
    set: &'static str,
    key: Vec<u8>,
    until: Option<Vec<u8>>,
}

const SETS: [&str; 7] = [SERVICES, SERVER_MARKS, RANGES, CLOSED, NODES, HAIRPINS, POD_LINKS];
const DEVICE_LEN: usize = 16;

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

/// Protocol and port are padded to four bytes each.
fn frontend(wanted: &Virtual) -> Vec<u8> {
    let mut key = octets(wanted.address);
    key.extend_from_slice(&[protocol_number(wanted.protocol), 0, 0, 0]);
    key.extend_from_slice(&wanted.port.to_be_bytes());
    key.extend_from_slice(&[0, 0]);
    key
}

/// The last address of a range.
fn last(range: &Cidr) -> IpAddr {
    let host = |bits: u32| bits.saturating_sub(range.prefix_len.into());
    match range.address {
        IpAddr::V4(v4) => {
            let rest = 1u32.checked_shl(host(32)).map_or(u32::MAX, |bit| bit - 1);
            IpAddr::V4((v4.to_bits() | rest).into())
        }
        IpAddr::V6(v6) => {
            let rest = 1u128.checked_shl(host(128)).map_or(u128::MAX, |bit| bit - 1);
            IpAddr::V6((v6.to_bits() | rest).into())
        }
    }
}

impl Raw {
    fn of(element: &Element) -> Self {
        let one = |set, key| Self { set, key, until: None };
        match element {
            Element::Service(wanted) => one(SERVICES, frontend(wanted)),
            Element::Mark(wanted) => one(SERVER_MARKS, frontend(wanted)),
            Element::Range(wanted, range) => {
                let end = |address| [frontend(wanted), octets(address)].concat();
                Self { set: RANGES, key: end(range.address), until: Some(end(last(range))) }
            }
            Element::Closed(address) => one(CLOSED, octets(*address)),
            Element::Node(address) => one(NODES, octets(*address)),
            Element::Hairpin(address) => one(HAIRPINS, octets(*address).repeat(2)),
            Element::PodLink(_, link) => {
                let mut key = link.as_bytes().to_vec();
                key.resize(DEVICE_LEN, 0);
                one(POD_LINKS, key)
            }
        }
    }
}

fn read_ip(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::V4 => {
            let (address, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::from(*address), rest))
        }
        Family::V6 => {
            let (address, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::from(*address), rest))
        }
    }
}

fn read_frontend(family: Family, bytes: &[u8]) -> Option<(Virtual, &[u8])> {
    let (address, rest) = read_ip(family, bytes)?;
    let ([number, _, _, _, high, low, _, _], rest) = rest.split_first_chunk::<8>()?;
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|known| protocol_number(*known) == *number)?;
    Some((Virtual { address, protocol, port: u16::from_be_bytes([*high, *low]) }, rest))
}

/// The range from one address to another, if it is one that a prefix says.
fn read_range(first: IpAddr, until: IpAddr) -> Option<Cidr> {
    let len_max: u8 = if first.is_ipv4() { 32 } else { 128 };
    let range = |prefix_len| Cidr { address: first, prefix_len };
    (0..=len_max).map(range).find(|range| last(range) == until && range.contains(first))
}

fn read_element(
    family: Family,
    set: &str,
    key: &[u8],
    until: Option<&[u8]>,
    held: &SeenHeld,
) -> Option<(Element, Held)> {
    let nothing = |element| Some((element, Held::Nothing));
    match set {
        SERVICES => {
            let SeenHeld::Verdict(Some(Verdict::Goto(chain))) = held else { return None };
            let treatment = Treatment::all().find(|it| it.chain() == *chain)?;
            let (wanted, _) = read_frontend(family, key)?;
            Some((Element::Service(wanted), Held::Treatment(treatment)))
        }
        SERVER_MARKS => {
            let SeenHeld::Data(data) = held else { return None };
            let mark = u32::from_ne_bytes(*data.first_chunk()?);
            Some((Element::Mark(read_frontend(family, key)?.0), Held::Mark(mark)))
        }
        RANGES => {
            let (wanted, first) = read_frontend(family, key)?;
            let (first, _) = read_ip(family, first)?;
            // An element of a single key has no end of its own.
            let (_, end) = read_frontend(family, until.unwrap_or(key))?;
            let (end, _) = read_ip(family, end)?;
            nothing(Element::Range(wanted, read_range(first, end)?))
        }
        CLOSED => nothing(Element::Closed(read_ip(family, key)?.0)),
        NODES => nothing(Element::Node(read_ip(family, key)?.0)),
        HAIRPINS => nothing(Element::Hairpin(read_ip(family, key)?.0)),
        POD_LINKS => {
            let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
            let name = String::from_utf8(key[..end].to_vec()).ok()?;
            nothing(Element::PodLink(family, name))
        }
        _ => None,
    }
}

/// One family's table.
#[derive(Clone, Debug)]
pub(super) struct FamilyTable {
    rules: Rules,
    table: Table,
}

impl FamilyTable {
    pub(super) const fn new(rules: Rules, name: String) -> Self {
        Self { rules, table: Table { family: rules.family, name } }
    }

    pub(super) fn is_there(&self, netfilter: &mut Netfilter) -> Result<bool, NftablesError> {
        Ok(netfilter.tables(self.table.family)?.contains(&self.table.name))
    }

    /// Whether sets and chains are as we make them.
    pub(super) fn is_sound(&self, netfilter: &mut Netfilter) -> Result<bool, NftablesError> {
        if !self.is_there(netfilter)? {
            return Ok(false);
        }
        let sets = netfilter.sets(&self.table)?;
        let wanted = self.rules.sets();
        let same_sets = sets.len() == wanted.len()
            && wanted.iter().all(|set| sets.get(&*set.name).is_some_and(|seen| seen.is(set)));
        if !same_sets {
            return Ok(false);
        }
        let chains = netfilter.chains(&self.table)?;
        let wanted = self.rules.chains();
        let is_same = |chain: &object::Chain| {
            chains.get(&*chain.name).is_some_and(|seen| {
                let seat = chain
                    .seat
                    .as_ref()
                    .map(|seat| (seat.kind.name().to_owned(), seat.hook as u32, seat.priority));
                let rules = chain.rules.iter().map(|rule| rule.iter().cloned().map(Some));
                let same = seen.rules.iter().map(|rule| rule.iter().cloned());
                seen.seat == seat && same.map(Vec::from_iter).eq(rules.map(Vec::from_iter))
            })
        };
        Ok(chains.len() == wanted.len() && wanted.iter().all(is_same))
    }

    /// All elements. One that cannot be ours makes the table unsound: `None`.
    pub(super) fn elements(
        &self,
        netfilter: &mut Netfilter,
    ) -> Result<Option<Elements>, NftablesError> {
        let family = self.table.family;
        let mut all = Elements::new();
        for set in SETS {
            type Read = Vec<Option<(Element, Held)>>;
            let read =
                netfilter.elements(&self.table, set, |read: &mut Read, key, until, held| {
                    read.push(read_element(family, set, key, until, &held));
                })?;
            let Some(read) = read.into_iter().collect::<Option<Vec<_>>>() else { return Ok(None) };
            all.extend(read);
        }
        Ok(Some(all))
    }

    /// Makes all of a change, or nothing.
    pub(super) fn change(
        &self,
        netfilter: &mut Netfilter,
        change: &Transaction,
    ) -> Result<(), NftablesError> {
        let mut batch = Batch::new();
        if change.rebuild {
            if self.is_there(netfilter)? {
                batch.delete_table(&self.table);
            }
            batch.add_table(&self.table);
            self.rules.sets().iter().for_each(|set| batch.add_set(&self.table, set));
            for chain in self.rules.chains() {
                batch.add_chain_with_rules(&self.table, &chain);
            }
        }
        let gone: Vec<(Raw, Held)> =
            change.remove.iter().map(|it| (Raw::of(it), Held::Nothing)).collect();
        let come: Vec<(Raw, Held)> =
            change.add.iter().map(|(it, held)| (Raw::of(it), *held)).collect();
        for set in SETS {
            self.elements_of(&mut batch, set, &gone, false);
        }
        for set in SETS {
            self.elements_of(&mut batch, set, &come, true);
        }
        if batch.is_empty() { Ok(()) } else { netfilter.commit(&batch) }
    }

    fn elements_of(&self, batch: &mut Batch, set: &'static str, all: &[(Raw, Held)], comes: bool) {
        let content = |held: &Held| match held {
            Held::Nothing => (None, None),
            Held::Treatment(it) => (Some(Verdict::Goto(it.chain().into())), None),
            Held::Mark(mark) => (None, Some(mark.to_ne_bytes())),
        };
        let of_set = all.iter().filter(|(raw, _)| raw.set == set);
        let all: Vec<_> = of_set.map(|(raw, held)| (raw, content(held))).collect();
        let elements = all.iter().map(|(raw, content)| object::Element {
            key: &raw.key,
            until: raw.until.as_deref(),
            held: match content {
                (Some(verdict), _) => object::Held::Verdict(verdict),
                (None, Some(data)) => object::Held::Data(data),
                (None, None) => object::Held::Nothing,
            },
        });
        let name = Name::from(set);
        if comes {
            batch.add_elements(&self.table, &name, elements);
        } else {
            batch.delete_elements(&self.table, &name, elements);
        }
    }

    /// Removes the table, if it is there.
    pub(super) fn remove(&self, netfilter: &mut Netfilter) -> Result<(), NftablesError> {
        if !self.is_there(netfilter)? {
            return Ok(());
        }
        let mut batch = Batch::new();
        batch.delete_table(&self.table);
        netfilter.commit(&batch)
    }
}

#[cfg(test)]
mod tests;
