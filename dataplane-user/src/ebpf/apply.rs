//! Makes the maps hold what the program says: make before break, each step safe to repeat.

use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, SourceKey, names};

use super::{
    blocks::Block,
    half::Half,
    kernel::Plain,
    maps::{MapError, MapWriter},
    owners::is_marker,
    program::{LiveEdit, Program, Shared},
};
pub use crate::backend::Applied;

impl Program {
    /// Writes every entry that may differ. After an error what is left stays pending; a repetition
    /// takes up from there, with whatever the program says by then.
    ///
    /// Order: identities with the views they have or get, endpoint blocks, gate bits and source
    /// ranges; then frontends in; then frontends out; then source ranges and identities that left,
    /// and the views that others lost. What is given back rests from `now_ms` on.
    pub fn apply(&mut self, maps: &mut impl MapWriter, now_ms: u64) -> Result<Applied, MapError> {
        let mut applied = Applied::default();
        applied.written += apply_live_in(&mut self.shared, maps)?;
        applied.written += apply_gate(&mut self.shared, maps)?;
        applied.written += apply_blocks(&mut self.v4, maps, names::ENDPOINTS4)?;
        applied.written += apply_blocks(&mut self.v6, maps, names::ENDPOINTS6)?;
        apply_sources_in(&mut self.v4, maps, names::SOURCES4, &mut applied)?;
        apply_sources_in(&mut self.v6, maps, names::SOURCES6, &mut applied)?;
        apply_frontends(&mut self.v4, maps, names::FRONTENDS4, &mut applied)?;
        apply_frontends(&mut self.v6, maps, names::FRONTENDS6, &mut applied)?;
        apply_sources_out(&mut self.v4, maps, names::SOURCES4, &mut applied)?;
        apply_sources_out(&mut self.v6, maps, names::SOURCES6, &mut applied)?;
        applied.written += apply_live_out(&mut self.shared, maps)?;
        self.shared.ids.applied(now_ms);
        self.v4.applied(now_ms);
        self.v6.applied(now_ms);
        Ok(applied)
    }
}

/// Writes the identities that take flows. One that leaves a view stays in it until
/// [`apply_live_out`], as long as frontends lead to it.
fn apply_live_in(shared: &mut Shared, maps: &mut impl MapWriter) -> Result<usize, MapError> {
    shared.live_dirty.sort_unstable();
    shared.live_dirty.dedup_by(|next, kept| {
        let same = next.index == kept.index;
        if same {
            kept.before |= next.before;
        }
        same
    });
    let live = |edit: &LiveEdit| shared.ids.live(edit.index);
    let (enter, leave): (Vec<LiveEdit>, Vec<LiveEdit>) =
        std::mem::take(&mut shared.live_dirty).into_iter().partition(|edit| live(edit).id != 0);
    let keys: Vec<u32> = enter.iter().map(|edit| edit.index).collect();
    let value = |edit: &LiveEdit| Live { views: live(edit).views | edit.before, ..live(edit) };
    let values: Vec<Live> = enter.iter().map(value).collect();
    let (written, result) = write(maps, names::LIVE, &keys, &values);
    let stays = |at: usize, edit: &LiveEdit| at >= written || edit.before & !live(edit).views != 0;
    let rest = enter.iter().enumerate().filter(|(at, edit)| stays(*at, edit));
    shared.live_dirty = leave;
    shared.live_dirty.extend(rest.map(|(_, edit)| edit));
    result.map(|()| written)
}

/// Clears the identities that no longer take flows, and the views that others left.
fn apply_live_out(shared: &mut Shared, maps: &mut impl MapWriter) -> Result<usize, MapError> {
    let edits = std::mem::take(&mut shared.live_dirty);
    let keys: Vec<u32> = edits.iter().map(|edit| edit.index).collect();
    let values: Vec<Live> = keys.iter().map(|&index| shared.ids.live(index)).collect();
    let (written, result) = write(maps, names::LIVE, &keys, &values);
    shared.live_dirty.extend_from_slice(&edits[written..]);
    result.map(|()| written)
}

/// Writes the ranges of clients that are served.
fn apply_sources_in<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
    applied: &mut Applied,
) -> Result<(), MapError> {
    let dirty = &mut half.sources.dirty;
    dirty.sort_unstable();
    dirty.dedup();
    match write_sources(half, maps, map, applied) {
        // A full map needs its deletions first. Until then frontends serve fewer clients than they
        // may, never others.
        Err(error) if error.is_full() => {
            apply_sources_out(half, maps, map, applied)?;
            write_sources(half, maps, map, applied)
        }
        result => result,
    }
}

fn write_sources<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
    applied: &mut Applied,
) -> Result<(), MapError> {
    let (keys, rest): (Vec<SourceKey<N>>, _) = std::mem::take(&mut half.sources.dirty)
        .into_iter()
        .partition(|source| half.sources.holds(source));
    let (written, result) = write(maps, map, &keys, &vec![1u32; keys.len()]);
    half.sources.dirty = rest;
    half.sources.dirty.extend_from_slice(&keys[written..]);
    applied.written += written;
    result
}

/// Deletes the ranges that nobody serves any more.
fn apply_sources_out<const N: usize>(
    half: &mut Half<N>,
    maps: &mut impl MapWriter,
    map: &'static str,
    applied: &mut Applied,
) -> Result<(), MapError> {
    let (keys, rest): (Vec<SourceKey<N>>, _) = std::mem::take(&mut half.sources.dirty)
        .into_iter()
        .partition(|source| !half.sources.holds(source));
    let (done, result) = delete(maps, map, &keys);
    half.sources.dirty = rest;
    half.sources.dirty.extend_from_slice(&keys[done..]);
    applied.deleted += done;
    result
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
    // Markers last: a new cluster IP refuses no port before the ports that it has are there.
    half.frontends_dirty.sort_unstable_by_key(|key| (is_marker(key), *key));
    half.frontends_dirty.dedup();
    let first = apply_frontends_in(half, maps, map, applied);
    // A full map needs its deletions first; what they leave room for is then written.
    let full = matches!(&first, Err(error) if error.is_full());
    if !full {
        first?;
    }
    let (mut keys, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut half.frontends_dirty)
        .into_iter()
        .partition(|key: &FrontendKey<N>| half.frontend(key).is_none());
    // And markers first: no port that goes is refused because its address still looks like one.
    keys.sort_unstable_by_key(|key| (!is_marker(key), *key));
    let (done, result) = delete(maps, map, &keys);
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

/// Deletes entries, and says how many were deleted also when not all were.
fn delete<K: Plain>(
    maps: &mut impl MapWriter,
    map: &'static str,
    keys: &[K],
) -> (usize, Result<(), MapError>) {
    if keys.is_empty() {
        return (0, Ok(()));
    }
    match maps.delete(map, keys) {
        Ok(()) => (keys.len(), Ok(())),
        Err(error) => (error.done().min(keys.len()), Err(error)),
    }
}
