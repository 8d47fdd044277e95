//! Maps in memory, and their contents as the tools tell them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use dataplane_common::{Frontend, FrontendKey, V4, V6, names};
use dataplane_user::{
    ebpf::{
        Limits, Program,
        kernel::{Plain, bytes, value},
        maps::{MapError, MapWriter},
    },
    model::{PortKey, ServiceTable},
    view::{Names, ServiceName, read, table},
};

/// More than any scenario needs.
const ENTRIES_MAX: u32 = 1024;

/// What a node's maps hold: bytes by the bytes of their keys.
#[derive(Default)]
pub(crate) struct Maps(BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>);

impl MapWriter for Maps {
    fn update<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: &[K],
        values: &[V],
    ) -> Result<(), MapError> {
        let entries = self.0.entry(map).or_default();
        for (key, value) in keys.iter().zip(values) {
            entries.insert(one(key), one(value));
        }
        Ok(())
    }

    fn delete<K: Plain>(&mut self, map: &'static str, keys: &[K]) -> Result<(), MapError> {
        let entries = self.0.entry(map).or_default();
        for key in keys {
            entries.remove(&one(key));
        }
        Ok(())
    }

    fn entries<K: Plain, V: Plain>(&mut self, map: &'static str) -> Result<Vec<(K, V)>, MapError> {
        let entries = self.0.entry(map).or_default();
        Ok(entries
            .iter()
            .map(|(key, found)| (value(key).unwrap(), value(found).unwrap()))
            .collect())
    }

    fn lookup<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        key: &K,
    ) -> Result<Option<V>, MapError> {
        let entries = self.0.entry(map).or_default();
        let found = match map {
            names::SOURCES4 | names::SOURCES6 => longest_prefix(entries, &one(key)),
            _ => entries.get(&one(key)),
        };
        Ok(found.and_then(|found| value(found)))
    }

    fn max_entries(&self, _map: &'static str) -> Result<u32, MapError> {
        Ok(ENTRIES_MAX)
    }
}

/// What a trie finds: keys begin with how many of the bits after it count.
fn longest_prefix<'a>(entries: &'a BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> Option<&'a Vec<u8>> {
    let bit = |data: &[u8], at: usize| data[at / 8] >> (7 - at % 8) & 1;
    let prefix_len = |entry: &[u8]| {
        let (len, prefix) = entry.split_first_chunk::<4>()?;
        let len = usize::try_from(u32::from_ne_bytes(*len)).ok()?;
        (0..len).all(|at| bit(prefix, at) == bit(&key[4..], at)).then_some(len)
    };
    let found = entries.iter().filter_map(|(entry, found)| Some((prefix_len(entry)?, found)));
    found.max_by_key(|(len, _)| *len).map(|(_, found)| found)
}

fn one<T: Plain>(value: &T) -> Vec<u8> {
    bytes(std::slice::from_ref(value)).to_vec()
}

/// A program for maps as large as these.
pub(crate) fn program(maps: &Maps) -> Program {
    Program::new(Limits { live: ENTRIES_MAX, ..maps.limits().unwrap() })
}

/// Makes the maps hold what the table says, given what has changed.
pub(crate) fn apply(
    table: &ServiceTable,
    changed: &BTreeSet<PortKey>,
    program: &mut Program,
    maps: &mut Maps,
    now_ms: u64,
) {
    for key in changed {
        program.change(key, table.port(key).as_ref()).unwrap();
    }
    program.apply(maps, now_ms).unwrap();
}

/// Frontends and endpoints as `hashplane services -o wide` and `endpoints -o wide` show them, and
/// the addresses whose other ports are refused.
pub(crate) fn tell(program: &Program, maps: &mut Maps) -> String {
    let names = names(program);
    let frontends = read::frontends(maps, &names).unwrap();
    if frontends.is_empty() {
        return "nothing\n".to_owned();
    }
    let mut text = table::frontends(&frontends, true);
    let endpoints = read::endpoints(maps, &names).unwrap();
    if !endpoints.is_empty() {
        text.push_str(&table::endpoints(&endpoints, true));
    }
    let refused = [marked::<V4>(maps, names::FRONTENDS4), marked::<V6>(maps, names::FRONTENDS6)];
    let refused: Vec<String> = refused.concat().iter().map(IpAddr::to_string).collect();
    if !refused.is_empty() {
        writeln!(text, "other ports are refused at {}", refused.join(", ")).unwrap();
    }
    text
}

fn names(program: &Program) -> Names {
    let name = |port: dataplane_user::ebpf::program::ServicePort| {
        let key = port.key?;
        let name = ServiceName {
            number: port.number,
            namespace: key.namespace.to_string(),
            service: key.service.to_string(),
            port: key.port.to_string(),
        };
        Some((port.number, name))
    };
    program.services().into_iter().filter_map(name).collect()
}

/// Addresses with an entry for port 0.
fn marked<const N: usize>(maps: &mut Maps, map: &'static str) -> Vec<IpAddr>
where
    IpAddr: From<[u8; N]>,
{
    let entries = maps.entries::<FrontendKey<N>, Frontend>(map).unwrap();
    let marked = entries.into_iter().filter(|(key, _)| key.port() == 0);
    marked.map(|(key, _)| IpAddr::from(key.addr())).collect()
}
