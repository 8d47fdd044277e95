//! The file: entries as they are now and the last changes, written together in one transaction.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{
    history::History,
    types::{Entry, Error, Event, Key, Revision},
};

/// Entries as they are now: created, modified, value.
const ENTRIES: TableDefinition<'_, &str, (u64, u64, &[u8])> = TableDefinition::new("entries");
/// Changes by revision: key, the entry before, the entry after.
const EVENTS: TableDefinition<'_, u64, (&str, Side<'_>, Side<'_>)> = TableDefinition::new("events");
/// Numbers by name.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Layout of the file.
const FORMAT: (&str, u64) = ("format", 1);
/// Bytes of the file that the database keeps: every read is answered from our own memory.
const CACHE: usize = 16 << 20;
const REVISION: &str = "revision";
const COMPACTED: &str = "compacted";

/// One side of a change: created, modified, value.
type Side<'a> = Option<(u64, u64, &'a [u8])>;

/// An open file.
#[derive(Debug)]
pub(super) struct Log {
    database: Database,
    path: PathBuf,
}

impl Log {
    /// Opens or makes the file, and reads what it holds.
    pub(super) fn open(path: &Path) -> Result<(Self, History), Error> {
        let failed = |cause: redb::Error| Error::Disk {
            doing: "open its file",
            path: path.to_owned(),
            cause: Arc::new(cause),
        };
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(|error| failed(error.into()))?;
        let log = Self { database, path: path.to_owned() };
        log.prepare()?;
        let history = log.read()?;
        Ok((log, history))
    }

    fn failed<E: Into<redb::Error>>(&self, doing: &'static str) -> impl Fn(E) -> Error + '_ {
        move |cause| Error::Disk { doing, path: self.path.clone(), cause: Arc::new(cause.into()) }
    }

    /// Makes the tables of a new file; refuses a file of another layout.
    fn prepare(&self) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(self.failed("begin a write"))?;
        {
            let mut meta = write.open_table(META).map_err(self.failed("make its tables"))?;
            let format = meta.get(FORMAT.0).map_err(self.failed("read its layout"))?;
            let format = format.map(|format| format.value());
            match format {
                None => {
                    meta.insert(FORMAT.0, FORMAT.1).map_err(self.failed("make its tables"))?;
                }
                Some(format) if format == FORMAT.1 => {}
                Some(_) => {
                    return Err(Error::Damaged {
                        path: self.path.clone(),
                        what: "a store of this version's layout",
                    });
                }
            }
            write.open_table(ENTRIES).map_err(self.failed("make its tables"))?;
            write.open_table(EVENTS).map_err(self.failed("make its tables"))?;
        }
        write.commit().map_err(self.failed("make its tables"))
    }

    fn read(&self) -> Result<History, Error> {
        let read = self.database.begin_read().map_err(self.failed("begin a read"))?;
        let meta = read.open_table(META).map_err(self.failed("read its numbers"))?;
        let number = |name| -> Result<Revision, Error> {
            let value = meta.get(name).map_err(self.failed("read its numbers"))?;
            Ok(Revision(value.map_or(0, |value| value.value())))
        };
        let (revision, compacted) = (number(REVISION)?, number(COMPACTED)?);
        let table = read.open_table(ENTRIES).map_err(self.failed("read its entries"))?;
        let mut entries = Vec::new();
        for row in table.iter().map_err(self.failed("read its entries"))? {
            let (key, row) = row.map_err(self.failed("read its entries"))?;
            entries.push(entry(&Key::from(key.value()), row.value()));
        }
        let table = read.open_table(EVENTS).map_err(self.failed("read its events"))?;
        let mut events = Vec::new();
        for row in table.range(compacted.0 + 1..).map_err(self.failed("read its events"))? {
            let (at, row) = row.map_err(self.failed("read its events"))?;
            let (key, before, after) = row.value();
            let key = Key::from(key);
            let side = |side: Side<'_>| side.map(|side| entry(&key, side));
            let revision = Revision(at.value());
            events.push(Event { revision, before: side(before), after: side(after) });
        }
        if events.len() as u64 != revision.0 - compacted.0 {
            let what = "every change since its last compaction";
            return Err(Error::Damaged { path: self.path.clone(), what });
        }
        Ok(History::new(entries, events, revision, compacted))
    }

    /// Writes changes, all or none, and returns when they are on the disk.
    pub(super) fn append(&self, events: &[Arc<Event>]) -> Result<(), Error> {
        let Some(last) = events.last() else { return Ok(()) };
        let write = self.database.begin_write().map_err(self.failed("begin a write"))?;
        {
            let mut entries = write.open_table(ENTRIES).map_err(self.failed("write"))?;
            let mut log = write.open_table(EVENTS).map_err(self.failed("write"))?;
            let mut meta = write.open_table(META).map_err(self.failed("write"))?;
            for event in events {
                match &event.after {
                    Some(entry) => {
                        let row = (entry.created.0, entry.modified.0, &*entry.value);
                        entries.insert(&*entry.key, row).map_err(self.failed("write"))?;
                    }
                    None => drop(entries.remove(event.key()).map_err(self.failed("write"))?),
                }
                let row = (event.key(), side(event.before.as_ref()), side(event.after.as_ref()));
                log.insert(event.revision.0, row).map_err(self.failed("write"))?;
            }
            meta.insert(REVISION, last.revision.0).map_err(self.failed("write"))?;
        }
        write.commit().map_err(self.failed("write"))
    }

    /// Forgets changes up to and with `before`.
    pub(super) fn compact(&self, before: Revision) -> Result<(), Error> {
        let write = self.database.begin_write().map_err(self.failed("begin a write"))?;
        {
            let mut log = write.open_table(EVENTS).map_err(self.failed("compact"))?;
            log.retain_in(..=before.0, |_, _| false).map_err(self.failed("compact"))?;
            let mut meta = write.open_table(META).map_err(self.failed("compact"))?;
            meta.insert(COMPACTED, before.0).map_err(self.failed("compact"))?;
        }
        write.commit().map_err(self.failed("compact"))
    }

    /// Gives pages that are not used any more back to the file system.
    pub(super) fn shrink(&mut self) -> Result<(), Error> {
        let result = self.database.compact();
        result.map(drop).map_err(self.failed("give back space"))
    }
}

fn side(entry: Option<&Entry>) -> Side<'_> {
    entry.map(|entry| (entry.created.0, entry.modified.0, &*entry.value))
}

fn entry(key: &Key, (created, modified, value): (u64, u64, &[u8])) -> Entry {
    Entry {
        key: key.clone(),
        value: Bytes::copy_from_slice(value),
        created: Revision(created),
        modified: Revision(modified),
    }
}
