//! Maps in memory that fail one call in ten, in the middle of the batch.

use std::{collections::BTreeMap, io};

use dataplane_common::names;

use super::{
    kernel::{Plain, bytes, value},
    maps::{MapError, MapWriter, Operation},
    program::Limits,
};

/// What real maps would hold, and which call fails next.
#[derive(Clone, Debug)]
pub(crate) struct FakeMaps {
    pub(crate) contents: BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(crate) limits: Limits,
    /// One call in so many fails; 0 means none.
    pub(crate) fail_one_in: u64,
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    /// Calls that deleted frontends.
    pub(crate) deletes: u64,
    pub(crate) seed: u64,
    /// How many entries can still be written or deleted before every call fails.
    pub(crate) entries_left: Option<usize>,
}

impl FakeMaps {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            contents: BTreeMap::new(),
            limits,
            fail_one_in: 10,
            calls: 0,
            failures: 0,
            deletes: 0,
            seed: 0x9e37_79b9_7f4a_7c15,
            entries_left: None,
        }
    }

    fn fails(&mut self) -> bool {
        self.calls += 1;
        // xorshift64: the same failures in every run, but no pattern that a caller could be in step with.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        let fails = self.fail_one_in != 0 && self.seed.is_multiple_of(self.fail_one_in);
        self.failures += u64::from(fails);
        fails
    }

    /// Whether the next entry fails, after those of the same call before it.
    fn stops(&mut self) -> bool {
        let stops = self.entries_left == Some(0);
        self.entries_left = self.entries_left.map(|left| left.saturating_sub(1));
        stops
    }

    fn error(map: &'static str, operation: Operation, done: usize, errno: i32) -> MapError {
        let source = io::Error::from_raw_os_error(errno);
        MapError::Call { map, operation, tried: 0, done, source }
    }
}

impl MapWriter for FakeMaps {
    fn update<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: &[K],
        values: &[V],
    ) -> Result<(), MapError> {
        let fails = self.fails();
        let room = self.max_entries(map)? as usize;
        for (at, (key, value)) in keys.iter().zip(values).enumerate() {
            if self.stops() || fails && at == keys.len() / 2 {
                return Err(Self::error(map, Operation::Write, at, libc::EAGAIN));
            }
            let key = bytes(std::slice::from_ref(key)).to_vec();
            let entries = self.contents.entry(map).or_default();
            if entries.len() >= room && !entries.contains_key(&key) {
                // As the kernel says it of hashes and of tries.
                let is_trie = [names::SOURCES4, names::SOURCES6].contains(&map);
                let errno = if is_trie { libc::ENOSPC } else { libc::E2BIG };
                return Err(Self::error(map, Operation::Write, at, errno));
            }
            entries.insert(key, bytes(std::slice::from_ref(value)).to_vec());
        }
        Ok(())
    }

    fn delete<K: Plain>(&mut self, map: &'static str, keys: &[K]) -> Result<(), MapError> {
        let fails = self.fails();
        self.deletes += 1;
        for (at, key) in keys.iter().enumerate() {
            if self.stops() || fails && at == keys.len() / 2 {
                return Err(Self::error(map, Operation::Delete, at, libc::EAGAIN));
            }
            let entries = self.contents.entry(map).or_default();
            entries.remove(bytes(std::slice::from_ref(key)));
        }
        Ok(())
    }

    fn entries<K: Plain, V: Plain>(&mut self, map: &'static str) -> Result<Vec<(K, V)>, MapError> {
        if self.fails() {
            return Err(Self::error(map, Operation::Read, 0, libc::EAGAIN));
        }
        let is_array = [names::LIVE, names::ENDPOINTS4, names::ENDPOINTS6];
        let mut entries = self.contents.get(map).cloned().unwrap_or_default();
        if is_array.contains(&map) {
            // Arrays have every entry; the unwritten ones are zero. Those of the gate, which the
            // reader skips, are left out here.
            for index in 0..self.max_entries(map)? {
                let zero = vec![0; size_of::<V>()];
                entries.entry(bytes(&[index]).to_vec()).or_insert(zero);
            }
        }
        let entry = |(key, entry): (Vec<u8>, Vec<u8>)| Some((value(&key)?, value(&entry)?));
        Ok(entries.into_iter().filter_map(entry).collect())
    }

    fn lookup<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        key: &K,
    ) -> Result<Option<V>, MapError> {
        let key = bytes(std::slice::from_ref(key));
        let entries = self.contents.get(map);
        let found = entries.and_then(|entries| match map {
            names::SOURCES4 | names::SOURCES6 => longest_prefix(entries, key),
            _ => entries.get(key),
        });
        Ok(found.and_then(|found| value(found)))
    }

    fn max_entries(&self, map: &'static str) -> Result<u32, MapError> {
        Ok(match map {
            names::FRONTENDS4 => self.limits.frontends4,
            names::FRONTENDS6 => self.limits.frontends6,
            names::ENDPOINTS4 => self.limits.endpoints4,
            names::ENDPOINTS6 => self.limits.endpoints6,
            names::LIVE => self.limits.live,
            names::SOURCES4 => self.limits.sources4,
            names::SOURCES6 => self.limits.sources6,
            names::GATE => dataplane_common::gate::WORDS,
            _ => 1024,
        })
    }
}

/// What a trie finds: the entry with the longest prefix of `key`. Keys begin with a length in bits.
fn longest_prefix<'a>(entries: &'a BTreeMap<Vec<u8>, Vec<u8>>, key: &[u8]) -> Option<&'a Vec<u8>> {
    let parts = |key: &[u8]| Some((value::<u32>(key.get(..4)?)?, key.get(4..)?.to_vec()));
    let (key_len, data) = parts(key)?;
    let bit = |bytes: &[u8], at: u32| bytes[at as usize / 8] >> (7 - at % 8) & 1;
    let prefix_len = |entry: &[u8]| {
        let (len, prefix) = parts(entry)?;
        let same = len <= key_len && (0..len).all(|at| bit(&prefix, at) == bit(&data, at));
        same.then_some(len)
    };
    let found = entries.iter().filter_map(|(entry, found)| Some((prefix_len(entry)?, found)));
    found.max_by_key(|(len, _)| *len).map(|(_, found)| found)
}
