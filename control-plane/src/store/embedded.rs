//! The store of one server: a file beside a memory that answers every read.
//!
//! One thread writes. It takes all writes that wait, checks each against those before it, puts them
//! on the disk in one transaction, and only then into memory, to the watchers and back to the callers.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    thread,
};

use tokio::sync::{mpsc, oneshot};

use super::{
    Answer, Store,
    history::History,
    log::Log,
    types::{Entry, Error, Event, Key, Listing, Range, Revision, Write},
    watch::{Watch, Watchers},
};

/// Writes in one transaction.
const BATCH_MAX: usize = 512;
/// Writes that wait; who writes then waits too.
const WAITING_MAX: usize = 4_096;
/// Changes that are remembered for watches and lists at older moments.
const EVENTS_KEPT: u64 = 50_000;
/// Changes beyond those that are kept before they are forgotten, all at once.
const EVENTS_SLACK: u64 = 10_000;
/// Compactions between two times that space is given back to the file system.
const SHRINK_EVERY: u32 = 8;

/// A store in one file.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
    writer: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    history: RwLock<History>,
    watchers: Watchers,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum Request {
    Write { write: Write, done: oneshot::Sender<Result<Entry, Error>> },
    Compact { before: Revision, done: oneshot::Sender<Result<(), Error>> },
    Close,
}

impl Embedded {
    /// Opens the file, or makes it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let (log, history) = Log::open(path)?;
        let shared =
            Arc::new(Shared { history: RwLock::new(history), watchers: Watchers::default() });
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let writer = Writer { log, shared: shared.clone(), compactions: 0 };
        let writer = thread::Builder::new()
            .name("store".into())
            .spawn(move || writer.run(waiting))
            .map_err(|_cannot| Error::Closed)?;
        Ok(Self { shared, requests, writer: Some(writer) })
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (done, answer) = oneshot::channel();
        self.requests.send(request(done)).await.map_err(|_gone| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

impl Drop for Embedded {
    /// Waits until what was asked for is on the disk.
    fn drop(&mut self) {
        let mut request = Request::Close;
        while let Err(mpsc::error::TrySendError::Full(again)) = self.requests.try_send(request) {
            request = again;
            thread::yield_now();
        }
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has closed the store already.
            let _panicked = writer.join();
        }
    }
}

impl Store for Embedded {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { Ok(self.shared.read().get(key).cloned()) })
    }

    fn list<'a>(&'a self, range: &'a Range, at: Option<Revision>) -> Answer<'a, Listing> {
        Box::pin(async move { self.shared.read().list(range, at) })
    }

    fn write(&self, write: Write) -> Answer<'_, Entry> {
        Box::pin(self.ask(|done| Request::Write { write, done }))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch> {
        Box::pin(async move {
            // While this is held nothing is told, so that nothing falls between past and future.
            let history = self.shared.read();
            let of_prefix = |event: &&Arc<Event>| event.key().starts_with(prefix);
            let past = history.after(after)?.filter(of_prefix).cloned().collect();
            Ok(self.shared.watchers.add(prefix, past))
        })
    }

    fn revision(&self) -> Answer<'_, Revision> {
        Box::pin(async move { Ok(self.shared.read().revision()) })
    }

    fn compact(&self, before: Revision) -> Answer<'_, ()> {
        Box::pin(self.ask(move |done| Request::Compact { before, done }))
    }
}

struct Writer {
    log: Log,
    shared: Arc<Shared>,
    compactions: u32,
}

impl Writer {
    fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        let mut requests = Vec::new();
        let mut is_open = true;
        while is_open && waiting.blocking_recv_many(&mut requests, BATCH_MAX) > 0 {
            let mut writes = Vec::new();
            for request in requests.drain(..) {
                match request {
                    Request::Write { write, done } => writes.push((write, done)),
                    Request::Compact { before, done } => {
                        self.write(std::mem::take(&mut writes));
                        let _gone = done.send(self.compact(before));
                    }
                    Request::Close => is_open = false,
                }
            }
            self.write(writes);
            self.forget();
        }
        self.shared.watchers.close();
    }

    /// Writes all that are as expected in one transaction; tells the others at once.
    fn write(&self, writes: Vec<(Write, oneshot::Sender<Result<Entry, Error>>)>) {
        let mut pending: BTreeMap<Key, Option<Entry>> = BTreeMap::new();
        let (mut events, mut callers) = (Vec::new(), Vec::new());
        {
            let history = self.shared.read();
            let mut revision = history.revision();
            for (write, done) in writes {
                let next = Revision(revision.0 + 1);
                match history.plan(&write, next, &pending) {
                    Ok(event) => {
                        revision = next;
                        pending.insert(write.key, event.after.clone());
                        events.push(Arc::new(event));
                        callers.push(done);
                    }
                    Err(error) => _ = done.send(Err(error)),
                }
            }
        }
        if let Err(error) = self.log.append(&events) {
            for done in callers {
                let _gone = done.send(Err(error.clone()));
            }
            return;
        }
        {
            let mut history = self.shared.history.write().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                history.push(event.clone());
            }
            // Under the lock: a watch that begins now has these in its past, or is told of them.
            self.shared.watchers.tell(&events);
        }
        for (done, event) in callers.into_iter().zip(&events) {
            let answer = match (&event.after, &event.before) {
                (Some(entry), _) => Ok(entry.clone()),
                (None, Some(entry)) => Ok(Entry { modified: event.revision, ..entry.clone() }),
                (None, None) => Err(Error::Closed),
            };
            let _gone = done.send(answer);
        }
    }

    /// Forgets the oldest changes once there are too many.
    fn forget(&mut self) {
        let (revision, compacted) = {
            let history = self.shared.read();
            (history.revision(), history.compacted())
        };
        if revision.0 - compacted.0 < EVENTS_KEPT + EVENTS_SLACK {
            return;
        }
        if let Err(error) = self.compact(Revision(revision.0 - EVENTS_KEPT)) {
            tracing::warn!(%error, "cannot forget old changes, trying again later");
        }
    }

    fn compact(&mut self, before: Revision) -> Result<(), Error> {
        let (revision, compacted) = {
            let history = self.shared.read();
            (history.revision(), history.compacted())
        };
        let before = before.min(revision);
        if before <= compacted {
            return Ok(());
        }
        self.log.compact(before)?;
        self.shared.history.write().unwrap_or_else(PoisonError::into_inner).compact(before);
        self.compactions += 1;
        if self.compactions.is_multiple_of(SHRINK_EVERY) {
            self.log.shrink()?;
        }
        Ok(())
    }
}
