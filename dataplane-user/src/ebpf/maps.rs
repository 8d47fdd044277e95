//! The maps of the datapath as the appliers see them: batches in, batches out, by name.

use std::{collections::BTreeMap, io, path::Path};

use aya::maps::MapData;
use dataplane_common::names;

use super::{
    kernel::{Map, Plain, bytes},
    program::Limits,
};

/// What we did to a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading entries.
    Read,
    /// Writing entries.
    Write,
    /// Deleting entries.
    Delete,
}

impl Operation {
    const fn verb(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// A call on a map failed.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The kernel said no.
    #[error("cannot {} {tried} entries of map {map}: {source} ({done} done)", operation.verb())]
    Call {
        /// Name of the map.
        map: &'static str,
        /// What we tried.
        operation: Operation,
        /// How many entries the call was for; 0 means all.
        tried: usize,
        /// How many of them were done before the failure.
        done: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no such map among those that were opened.
    #[error("there is no map {map}")]
    Missing {
        /// Name of the map.
        map: &'static str,
    },
    /// A map of a type or with sizes that we do not write.
    #[error("map {map} is none of ours: {source}")]
    Unfit {
        /// Name of the map.
        map: &'static str,
        /// What is different.
        source: io::Error,
    },
    /// A pinned map could not be opened.
    #[error("cannot open the pinned map {map}")]
    Open {
        /// Name of the map.
        map: &'static str,
        /// What aya said.
        #[source]
        source: aya::maps::MapError,
    },
}

impl MapError {
    /// Entries that were done before the failure.
    pub(crate) fn done(&self) -> usize {
        match self {
            Self::Call { done, .. } => *done,
            Self::Missing { .. } | Self::Unfit { .. } | Self::Open { .. } => 0,
        }
    }

    /// Whether the map has no room for a new entry.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            // A hash says the former, a trie the latter.
            Self::Call { source, .. } => {
                matches!(source.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
            }
            Self::Missing { .. } | Self::Unfit { .. } | Self::Open { .. } => false,
        }
    }
}

/// Maps that can be read and written by name (see [`names`]).
pub trait MapWriter {
    /// Writes `values[i]` at `keys[i]`.
    fn update<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: &[K],
        values: &[V],
    ) -> Result<(), MapError>;

    /// Deletes entries; one that is not there is no failure.
    fn delete<K: Plain>(&mut self, map: &'static str, keys: &[K]) -> Result<(), MapError>;

    /// Every entry.
    fn entries<K: Plain, V: Plain>(&mut self, map: &'static str) -> Result<Vec<(K, V)>, MapError>;

    /// The entries of an array that are not all zero, in order.
    fn filled<V: Plain>(&mut self, map: &'static str) -> Result<Vec<(u32, V)>, MapError> {
        let mut entries: Vec<(u32, V)> = self.entries(map)?;
        entries
            .retain(|(_, value)| bytes(std::slice::from_ref(value)).iter().any(|byte| *byte != 0));
        entries.sort_unstable_by_key(|(index, _)| *index);
        Ok(entries)
    }

    /// One entry.
    fn lookup<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        key: &K,
    ) -> Result<Option<V>, MapError>;

    /// How many entries a map holds at most.
    fn max_entries(&self, map: &'static str) -> Result<u32, MapError>;

    /// The sizes that a program needs to know.
    fn limits(&self) -> Result<Limits, MapError> {
        Ok(Limits {
            frontends4: self.max_entries(names::FRONTENDS4)?,
            frontends6: self.max_entries(names::FRONTENDS6)?,
            endpoints4: self.max_entries(names::ENDPOINTS4)?,
            endpoints6: self.max_entries(names::ENDPOINTS6)?,
            live: self.max_entries(names::LIVE)?,
            sources4: self.max_entries(names::SOURCES4)?,
            sources6: self.max_entries(names::SOURCES6)?,
        })
    }
}

/// The kernel's maps.
#[derive(Debug, Default)]
pub struct KernelMaps {
    maps: BTreeMap<&'static str, Map>,
}

/// Entries per batch when reading.
const READ_CHUNK: u32 = 8192;

impl KernelMaps {
    /// Opens every map of [`names::MAPS`] pinned in `directory` but `COUNTERS`, which has a value
    /// per processor.
    pub fn from_pins(directory: &Path) -> Result<Self, MapError> {
        let mut maps = Self::default();
        for map in names::MAPS.into_iter().filter(|map| *map != names::COUNTERS) {
            let data = MapData::from_pin(directory.join(map));
            maps.insert(map, data.map_err(|source| MapError::Open { map, source })?)?;
        }
        Ok(maps)
    }

    /// Adds a map that was opened or loaded elsewhere.
    pub fn insert(&mut self, map: &'static str, data: MapData) -> Result<(), MapError> {
        let data = Map::new(data).map_err(|source| MapError::Unfit { map, source })?;
        self.maps.insert(map, data);
        Ok(())
    }

    fn map(&self, map: &'static str) -> Result<&Map, MapError> {
        self.maps.get(map).ok_or(MapError::Missing { map })
    }
}

fn unread(map: &'static str, source: io::Error) -> MapError {
    MapError::Call { map, operation: Operation::Read, tried: 0, done: 0, source }
}

impl MapWriter for KernelMaps {
    fn update<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: &[K],
        values: &[V],
    ) -> Result<(), MapError> {
        self.map(map)?.update(keys, values).map_err(|(done, source)| {
            let operation = Operation::Write;
            MapError::Call { map, operation, tried: keys.len(), done, source }
        })
    }

    fn delete<K: Plain>(&mut self, map: &'static str, keys: &[K]) -> Result<(), MapError> {
        self.map(map)?.delete(keys).map_err(|(done, source)| {
            let operation = Operation::Delete;
            MapError::Call { map, operation, tried: keys.len(), done, source }
        })
    }

    fn entries<K: Plain, V: Plain>(&mut self, map: &'static str) -> Result<Vec<(K, V)>, MapError> {
        self.map(map)?.entries(READ_CHUNK).map_err(|source| unread(map, source))
    }

    fn filled<V: Plain>(&mut self, map: &'static str) -> Result<Vec<(u32, V)>, MapError> {
        self.map(map)?.filled(READ_CHUNK).map_err(|source| unread(map, source))
    }

    fn lookup<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        key: &K,
    ) -> Result<Option<V>, MapError> {
        self.map(map)?.lookup(key).map_err(|source| MapError::Call {
            map,
            operation: Operation::Read,
            tried: 1,
            done: 0,
            source,
        })
    }

    fn max_entries(&self, map: &'static str) -> Result<u32, MapError> {
        self.map(map).map(Map::max_entries)
    }
}
