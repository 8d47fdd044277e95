//! Makes the maps hold what the program says: make before break, each step safe to repeat.

use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, names};

use super::{
    blocks::Block,
    half::Half,
    kernel::Plain,
    maps::{MapError, MapWriter},
    program::{Program, Shared},
};

/// How many entries an apply wrote and deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries written.
    pub written: usize,
    /// Entries deleted.
    pub deleted: usize,
}

impl Program {
    /// Writes every entry that may differ. After an error what is left stays pending; a repetition
    /// takes up from there, with whatever the program says by then.
    ///
    /// Order: identities, endpoint blocks and gate bits; then frontends in; then frontends out;
    /// then the identities of those who left. Blocks given back rest from `now_ms` on.
    pub fn apply(&mut self, maps: &mut impl MapWriter, now_ms: u64) -> Result<Applied, MapError> {
        let mut applied = Applied::default();
        applied.written += apply_live(&mut self.shared, maps, true)?;
        applied.written += apply_gate(&mut self.shared, maps)?;
        applied.written += apply_blocks(&mut self.v4, maps, names::ENDPOINTS4)?;
        applied.written += apply_blocks(&mut self.v6, maps, names::ENDPOINTS6)?;
        apply_frontends(&mut self.v4, maps, names::FRONTENDS4, &mut applied)?;
        apply_frontends(&mut self.v6, maps, names::FRONTENDS6, &mut applied)?;
        applied.written += apply_live(&mut self.shared, maps, false)?;
        self.shared.ids.applied(now_ms);
        self.v4.blocks.applied(now_ms);
        self.v6.blocks.applied(now_ms);
        Ok(applied)
    }
}

/// Writes the identities that take flows (`enter`), or clears those which no longer do.
fn apply_live(
    shared: &mut Shared,
    maps: &mut impl MapWriter,
    enter: bool,
) -> Result<usize, MapError> {
    shared.live_dirty.sort_unstable();
    shared.live_dirty.dedup();
    let (keys, rest): (Vec<u32>, Vec<u32>) = std::mem::take(&mut shared.live_dirty)
        .into_iter()
        .partition(|&index| (shared.ids.live(index) != 0) == enter);
    let live = |id| Live { id, views: if id == 0 { 0 } else { Live::CLUSTER | Live::LOCAL } };
    let values: Vec<Live> = keys.iter().map(|&index| live(shared.ids.live(index))).collect();
    let (written, result) = write(maps, names::LIVE, &keys, &values);
    shared.live_dirty = rest;
    shared.live_dirty.extend_from_slice(&keys[written..]);
    result.map(|()| written)
}

fn apply_gate(shared: &mut Shared, maps: &mut impl MapWriter) -> Result<usize, MapError> {
    let mut keys = std::mem::take(&mut shared.gate.dirty);
    keys.sort_unstable();
    keys.dedup();
    let values: Vec<u64> = keys.iter().map(|&word| shared.gate.word(word)).collect();
    let (written, result) = write(maps, names::GATE, &keys, &values);
    shared.gate.dirty.extend_from_slice(&keys[written..]);
    result.map(|()| written)
}

fn apply_blocks<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
) -> Result<usize, MapError> {
    let mut blocks = std::mem::take(&mut half.blocks_dirty);
    blocks.sort_unstable();
    let slots = |block: &Block| block.base..block.base + block.len;
    let mut keys: Vec<u32> = blocks.iter().flat_map(slots).collect();
    keys.dedup();
    let values: Vec<Endpoint<N>> = keys.iter().map(|&slot| half.endpoints[slot as usize]).collect();
    let (written, result) = write(maps, map, &keys, &values);
    if result.is_err() {
        // Blocks whole or in part unwritten are written again.
        let from = keys.get(written).copied().unwrap_or(u32::MAX);
        blocks.retain(|block| block.base + block.len > from);
        half.blocks_dirty = blocks;
    }
    result.map(|()| written)
}

/// A changed frontend is one write of one entry, and that write commits the change.
fn apply_frontends<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
    applied: &mut Applied,
) -> Result<(), MapError> {
    half.frontends_dirty.sort_unstable();
    half.frontends_dirty.dedup();
    let first = apply_frontends_in(half, maps, map, applied);
    // A full map needs its deletions first; what they leave room for is then written.
    let full = matches!(&first, Err(error) if error.is_full());
    if !full {
        first?;
    }
    let (keys, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut half.frontends_dirty)
        .into_iter()
        .partition(|key: &FrontendKey<N>| half.frontend(key).is_none());
    let result = if keys.is_empty() { Ok(()) } else { maps.delete(map, &keys) };
    let done = result.as_ref().map_or_else(MapError::done, |()| keys.len()).min(keys.len());
    half.frontends_dirty = rest;
    half.frontends_dirty.extend_from_slice(&keys[done..]);
    applied.deleted += done;
    result?;
    if full { apply_frontends_in(half, maps, map, applied) } else { Ok(()) }
}

fn apply_frontends_in<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
    applied: &mut Applied,
) -> Result<(), MapError> {
    let mut keys: Vec<FrontendKey<N>> = Vec::new();
    let mut values: Vec<Frontend> = Vec::new();
    let mut rest = Vec::new();
    for key in std::mem::take(&mut half.frontends_dirty) {
        if let Some(frontend) = half.frontend(&key) {
            keys.push(key);
            values.push(frontend);
        } else {
            rest.push(key);
        }
    }
    let (written, result) = write(maps, map, &keys, &values);
    rest.extend_from_slice(&keys[written..]);
    half.frontends_dirty = rest;
    applied.written += written;
    result
}

/// Writes entries, and says how many were written also when not all were.
fn write<K: Plain, V: Plain>(
    maps: &mut impl MapWriter,
    map: &'static str,
    keys: &[K],
    values: &[V],
) -> (usize, Result<(), MapError>) {
    if keys.is_empty() {
        return (0, Ok(()));
    }
    match maps.update(map, keys, values) {
        Ok(()) => (keys.len(), Ok(())),
        Err(error) => (error.done().min(keys.len()), Err(error)),
    }
}
