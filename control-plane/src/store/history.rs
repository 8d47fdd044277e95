//! What is in memory: every entry as it is now, and the last changes, from which older moments follow.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use super::types::{Entry, Error, Event, Expect, Key, Listing, Range, Revision, Write};

/// Entries and their last changes.
#[derive(Debug, Default)]
pub(super) struct History {
    current: BTreeMap<Key, Entry>,
    /// Changes after `compacted`, in order, each revision once.
    events: VecDeque<Arc<Event>>,
    revision: Revision,
    compacted: Revision,
}

impl History {
    /// What a file held: entries as they are now, and the changes after `compacted`.
    pub(super) fn new(
        entries: impl IntoIterator<Item = Entry>,
        events: impl IntoIterator<Item = Event>,
        revision: Revision,
        compacted: Revision,
    ) -> Self {
        let current = entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
        let events = events.into_iter().map(Arc::new).collect();
        Self { current, events, revision, compacted }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.current.get(key)
    }

    /// What a write would do after those that are `pending`, which come before it in time.
    pub(super) fn plan(
        &self,
        write: &Write,
        revision: Revision,
        pending: &BTreeMap<Key, Option<Entry>>,
    ) -> Result<Event, Error> {
        let before = match pending.get(&write.key) {
            Some(entry) => entry.clone(),
            None => self.current.get(&write.key).cloned(),
        };
        let found = before.as_ref().map(|entry| entry.modified);
        let is_expected = match write.expect {
            Expect::Absent => found.is_none(),
            Expect::At(at) => found == Some(at),
        };
        if !is_expected || (before.is_none() && write.value.is_none()) {
            return Err(Error::Conflict { key: write.key.clone(), found });
        }
        let created = before.as_ref().map_or(revision, |entry| entry.created);
        let key = write.key.clone();
        let after =
            write.value.clone().map(|value| Entry { key, value, created, modified: revision });
        Ok(Event { revision, before, after })
    }

    /// Takes in the next change.
    pub(super) fn push(&mut self, event: Arc<Event>) {
        debug_assert!(event.revision > self.revision, "revisions only grow");
        self.revision = event.revision;
        match (&event.after, &event.before) {
            (Some(entry), _) => drop(self.current.insert(entry.key.clone(), entry.clone())),
            (None, Some(entry)) => drop(self.current.remove(&entry.key)),
            (None, None) => {}
        }
        self.events.push_back(event);
    }

    /// Comes to a later moment without a change.
    pub(super) fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Forgets the changes up to `before`; says which revision is the oldest that is known now.
    pub(super) fn compact(&mut self, before: Revision) -> Revision {
        let before = before.min(self.revision);
        while self.events.front().is_some_and(|event| event.revision <= before) {
            self.events.pop_front();
        }
        self.compacted = self.compacted.max(before);
        self.compacted
    }

    /// Whether a moment is known.
    fn check(&self, asked: Revision) -> Result<(), Error> {
        if asked < self.compacted {
            return Err(Error::Compacted { asked, oldest: self.compacted });
        }
        if asked > self.revision {
            return Err(Error::Future { asked, last: self.revision });
        }
        Ok(())
    }

    /// Changes after a moment, in order.
    pub(super) fn after(
        &self,
        moment: Revision,
    ) -> Result<impl Iterator<Item = &Arc<Event>>, Error> {
        self.check(moment)?;
        let known = self.events.partition_point(|event| event.revision <= moment);
        Ok(self.events.range(known..))
    }

    pub(super) fn list(&self, range: &Range, at: Option<Revision>) -> Result<Listing, Error> {
        let revision = at.unwrap_or(self.revision);
        if revision == self.revision {
            return Ok(cut(within(&self.current, range), range.limit, revision));
        }
        // Backwards: the first change after the moment says what an entry was at that moment.
        let mut then: BTreeMap<&str, Option<&Entry>> = BTreeMap::new();
        for event in self.after(revision)? {
            let key = event.key();
            let follows = range.after.as_deref().is_none_or(|after| key > after);
            if key.starts_with(&range.prefix) && follows {
                then.entry(key).or_insert(event.before.as_ref());
            }
        }
        let unchanged =
            within(&self.current, range).filter(|entry| !then.contains_key(&*entry.key));
        let mut entries: Vec<&Entry> = unchanged.chain(then.values().copied().flatten()).collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(cut(entries.into_iter(), range.limit, revision))
    }
}

/// The entries of a range as they are now, in order.
fn within<'a>(
    current: &'a BTreeMap<Key, Entry>,
    range: &'a Range,
) -> impl Iterator<Item = &'a Entry> {
    let first = match &range.after {
        Some(after) if after.as_ref() >= range.prefix.as_str() => Bound::Excluded(after.as_ref()),
        Some(_) | None => Bound::Included(range.prefix.as_str()),
    };
    let entries = current.range::<str, _>((first, Bound::Unbounded));
    entries.map(|(_, entry)| entry).take_while(|entry| entry.key.starts_with(&range.prefix))
}

#[expect(single_use_lifetimes, reason = "an anonymous lifetime in `impl Trait` is not stable")]
fn cut<'a>(
    mut entries: impl Iterator<Item = &'a Entry>,
    limit: usize,
    revision: Revision,
) -> Listing {
    let most = if limit == 0 { usize::MAX } else { limit };
    let taken: Vec<Entry> = entries.by_ref().take(most).cloned().collect();
    Listing { entries: taken, revision, remaining: entries.count() }
}
