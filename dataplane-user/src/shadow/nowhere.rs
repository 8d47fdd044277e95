//! Maps that take everything and keep nothing: a program that nobody loads has to be applied all the
//! same, or it remembers for ever what is left to write.

use crate::ebpf::{
    Limits,
    kernel::Plain,
    maps::{MapError, MapWriter},
};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nowhere;

impl MapWriter for Nowhere {
    fn update<K: Plain, V: Plain>(
        &mut self,
        _map: &'static str,
        _keys: &[K],
        _values: &[V],
    ) -> Result<(), MapError> {
        Ok(())
    }

    fn delete<K: Plain>(&mut self, _map: &'static str, _keys: &[K]) -> Result<(), MapError> {
        Ok(())
    }

    fn entries<K: Plain, V: Plain>(&mut self, _map: &'static str) -> Result<Vec<(K, V)>, MapError> {
        Ok(Vec::new())
    }

    fn lookup<K: Plain, V: Plain>(
        &mut self,
        _map: &'static str,
        _key: &K,
    ) -> Result<Option<V>, MapError> {
        Ok(None)
    }

    fn max_entries(&self, map: &'static str) -> Result<u32, MapError> {
        Err(MapError::Missing { map })
    }

    fn limits(&self) -> Result<Limits, MapError> {
        Ok(Limits::default())
    }
}
