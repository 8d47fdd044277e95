//! The store of several servers: etcd, with a mirror in memory that answers every read.
//!
//! One watch fills the mirror. A read asks etcd for its revision, waits until the mirror has reached
//! it, and is answered from memory: it sees every write that ended before it began, whichever server
//! made it. Our revisions are etcd's less one, so that 0 is before the first write here too.

mod client;
mod wire;

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tonic::{Code, Status};

use self::{
    client::Client,
    wire::{
        Compare, DeleteRequest, KeyValue, Operation, PutRequest, RangeRequest, Request, Response,
        TxnRequest, TxnResponse, WatchResponse,
    },
};
use super::{
    Answer, Store,
    history::History,
    types::{Entry, Error, Event, Expect, Key, Listing, Range, Revision, Write},
    watch::{Watch, Watchers},
};

/// What all our keys begin with.
const PREFIX: &str = "/hashplane";
/// A key that no object has. Writing it shows that the mirror has everything before.
const MARK: &str = "/hashplane-mark";
/// The first key after all of ours: `.` follows `-`, and both are before `/`.
const END: &str = "/hashplane0";
/// Entries of one page while the mirror is filled.
const PAGE: i64 = 500;
/// Changes that are remembered for watches and lists at older moments.
const EVENTS_KEPT: u64 = 50_000;
/// Changes beyond those before they are forgotten, all at once.
const EVENTS_SLACK: u64 = 10_000;
/// How long a read waits for the mirror before it writes the mark: others may have written keys that
/// are not ours, of which the mirror is not told.
const PATIENCE: Duration = Duration::from_millis(50);
/// How long a read waits in all.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Time between two compactions.
const COMPACT_EVERY: Duration = Duration::from_mins(5);
/// Time between two attempts to watch.
const PAUSE: Duration = Duration::from_millis(200);

/// A store in etcd.
#[derive(Debug)]
pub struct Etcd {
    shared: Arc<Shared>,
    follower: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client,
    history: RwLock<History>,
    watchers: Watchers,
    /// The revision of the mirror, for those who wait for it.
    reached: watch::Sender<Revision>,
}

/// Why etcd did not do what it was asked to.
fn unreachable(doing: &'static str, status: &Status) -> Error {
    let cause = format!("{} ({:?})", status.message(), status.code());
    Error::Unreachable { doing, cause: cause.into() }
}

fn ours(etcd: i64) -> Revision {
    Revision(u64::try_from(etcd - 1).unwrap_or(0))
}

fn theirs(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX - 1) + 1
}

fn name(key: &str) -> Bytes {
    Bytes::from(format!("{PREFIX}{key}"))
}

/// An entry of ours; nothing for the mark, and for what nobody of us wrote.
fn entry(kv: KeyValue) -> Option<Entry> {
    let key = std::str::from_utf8(&kv.key).ok()?.strip_prefix(PREFIX)?;
    key.starts_with('/').then(|| Entry {
        key: Key::from(key),
        value: kv.value,
        created: ours(kv.create_revision),
        modified: ours(kv.mod_revision),
    })
}

impl Etcd {
    /// Connects to the servers of one etcd, such as `http://127.0.0.1:2379`, and reads what is there.
    pub async fn open(servers: &[String]) -> Result<Self, Error> {
        let client = Client::new(servers).map_err(|error| {
            let cause = format!("{error}: {}", servers.join(", "));
            Error::Unreachable { doing: "use the addresses of etcd", cause: cause.into() }
        })?;
        let history = load(&client).await?;
        let reached = watch::Sender::new(history.revision());
        let shared = Arc::new(Shared {
            client,
            history: RwLock::new(history),
            watchers: Watchers::default(),
            reached,
        });
        let follower = tokio::spawn({
            let shared = shared.clone();
            async move {
                tokio::join!(follow(&shared), forget(&shared));
            }
        });
        Ok(Self { shared, follower })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.follower.abort();
        self.shared.watchers.close();
    }
}

/// Everything that is there, at one moment.
async fn load(client: &Client) -> Result<History, Error> {
    let failed = |status: Status| unreachable("read what is there", &status);
    let (mut entries, mut key, mut revision) = (Vec::new(), Bytes::from(PREFIX), 0);
    loop {
        let range_end = Bytes::from_static(END.as_bytes());
        let request = RangeRequest { key, range_end, limit: PAGE, revision };
        let page = client.range(request).await.map_err(failed)?;
        if revision == 0 {
            revision = page.header.unwrap_or_default().revision;
        }
        key = page.kvs.last().map_or_else(Bytes::new, |kv| [&kv.key[..], b"\0"].concat().into());
        entries.extend(page.kvs.into_iter().filter_map(entry));
        if !page.more {
            return Ok(History::new(entries, [], ours(revision), ours(revision)));
        }
    }
}

/// Keeps the mirror as etcd is, until the task is aborted.
async fn follow(shared: &Shared) {
    loop {
        match shared.listen().await {
            Ok(()) => {}
            Err(Lost::Connection(status)) => {
                tracing::warn!(%status, "the watch of etcd ended; it begins again");
            }
            Err(Lost::Past) => match load(&shared.client).await {
                Ok(history) => shared.replace(history),
                Err(error) => tracing::warn!(%error, "the mirror of etcd cannot be filled anew"),
            },
        }
        sleep(PAUSE).await;
    }
}

/// Has etcd forget what the mirror has forgotten. That every server does so is harmless.
async fn forget(shared: &Shared) {
    let mut done = Revision(0);
    loop {
        sleep(COMPACT_EVERY).await;
        let compacted = shared.read().compacted();
        if compacted > done {
            match shared.client.compact(theirs(compacted)).await {
                Ok(_) => done = compacted,
                Err(status) if status.code() == Code::OutOfRange => done = compacted,
                Err(status) => tracing::warn!(%status, "etcd does not forget old changes"),
            }
        }
    }
}

/// Why a watch ended.
enum Lost {
    /// The connection did.
    Connection(Status),
    /// What came after the mirror has been compacted.
    Past,
}

impl Shared {
    fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn listen(&self) -> Result<(), Lost> {
        let from = theirs(self.read().revision()) + 1;
        let (key, end) = (Bytes::from(PREFIX), Bytes::from(END));
        let responses = self.client.watch(key, end, from).await.map_err(Lost::Connection)?;
        let mut responses = std::pin::pin!(responses);
        while let Some(response) = responses.next().await {
            let response = response.map_err(Lost::Connection)?;
            if response.compact_revision > 0 {
                return Err(Lost::Past);
            }
            if response.canceled {
                return Ok(());
            }
            self.take(response);
        }
        Ok(())
    }

    /// Takes in changes.
    fn take(&self, response: WatchResponse) {
        let mut history = self.history.write().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for event in response.events {
            let is_deletion = event.kind == 1;
            let Some(kv) = event.kv else { continue };
            let revision = ours(kv.mod_revision);
            if revision <= history.revision() {
                continue;
            }
            let Some(after) = entry(kv) else {
                history.advance(revision);
                continue;
            };
            let before = history.get(&after.key).cloned();
            let event =
                Arc::new(Event { revision, before, after: (!is_deletion).then_some(after) });
            history.push(event.clone());
            events.push(event);
        }
        let (revision, compacted) = (history.revision(), history.compacted());
        if revision.0 - compacted.0 > EVENTS_KEPT + EVENTS_SLACK {
            history.compact(Revision(revision.0 - EVENTS_KEPT));
        }
        // Under the lock: a watch that begins now has these in its past, or is told of them.
        self.watchers.tell(&events);
        self.reached.send_replace(revision);
    }

    /// Another mirror: whoever watches has to list again.
    fn replace(&self, history: History) {
        let mut current = self.history.write().unwrap_or_else(PoisonError::into_inner);
        self.watchers.close();
        let revision = history.revision();
        *current = history;
        self.reached.send_replace(revision);
    }

    /// Waits until the mirror has reached a revision; whether it has.
    async fn reaches(&self, revision: Revision, patience: Duration) -> bool {
        let mut reached = self.reached.subscribe();
        let wait = reached.wait_for(|reached| *reached >= revision);
        timeout(patience, wait).await.is_ok_and(|it| it.is_ok())
    }

    /// Waits until the mirror has what had been written before this call.
    async fn catch_up(&self) -> Result<(), Error> {
        let failed = |status: Status| unreachable("ask for the revision", &status);
        let key = Bytes::from_static(MARK.as_bytes());
        let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
        let answer = self.client.range(request).await.map_err(failed)?;
        let revision = ours(answer.header.unwrap_or_default().revision);
        if self.reaches(revision, PATIENCE).await {
            return Ok(());
        }
        let put = Request::Put(PutRequest { key, value: Bytes::new() });
        let success = vec![Operation { request: Some(put) }];
        let request = TxnRequest { success, ..TxnRequest::default() };
        let answer = self.client.transact(request).await.map_err(failed)?;
        self.arrive(ours(answer.header.unwrap_or_default().revision)).await
    }

    async fn arrive(&self, revision: Revision) -> Result<(), Error> {
        let begin = Instant::now();
        if self.reaches(revision, WAIT_MAX).await {
            return Ok(());
        }
        let cause = format!("the mirror did not reach it in {:?}", begin.elapsed());
        Err(Error::Unreachable { doing: "follow its revision", cause: cause.into() })
    }

    async fn write(&self, write: Write) -> Result<Entry, Error> {
        let key = name(&write.key);
        let expected = match write.expect {
            Expect::Absent => 0,
            Expect::At(at) => theirs(at),
        };
        let compare =
            Compare { result: 0, target: 2, key: key.clone(), mod_revision: Some(expected) };
        let change = match write.value.clone() {
            Some(value) => Request::Put(PutRequest { key: key.clone(), value }),
            None => Request::Delete(DeleteRequest { key: key.clone(), prev_kv: true }),
        };
        let look = Request::Range(RangeRequest { key, ..RangeRequest::default() });
        let request = TxnRequest {
            compare: vec![compare],
            success: vec![Operation { request: Some(change) }],
            failure: vec![Operation { request: Some(look) }],
        };
        let answer = self.client.transact(request).await;
        let answer = answer.map_err(|status| unreachable("write", &status))?;
        let revision = ours(answer.header.clone().unwrap_or_default().revision);
        if !answer.succeeded || (write.value.is_none() && write.expect == Expect::Absent) {
            return Err(Error::Conflict { key: write.key, found: found(answer) });
        }
        // Who wrote may watch from here at once.
        self.arrive(revision).await?;
        let created = match (write.expect, deleted(answer)) {
            (_, Some(entry)) => return Ok(Entry { modified: revision, ..entry }),
            (Expect::Absent, None) => revision,
            (Expect::At(_), None) => {
                let history = self.read();
                history.get(&write.key).map_or(revision, |entry| entry.created)
            }
        };
        let value = write.value.unwrap_or_default();
        Ok(Entry { key: write.key, value, created, modified: revision })
    }
}

/// When the entry that was in the way had been modified.
fn found(answer: TxnResponse) -> Option<Revision> {
    answer.responses.into_iter().find_map(|outcome| match outcome.response {
        Some(Response::Range(range)) => range.kvs.first().map(|kv| ours(kv.mod_revision)),
        Some(Response::Put(_) | Response::Delete(_)) | None => None,
    })
}

/// What was deleted.
fn deleted(answer: TxnResponse) -> Option<Entry> {
    answer.responses.into_iter().find_map(|outcome| match outcome.response {
        Some(Response::Delete(done)) => done.prev_kvs.into_iter().find_map(entry),
        Some(Response::Put(_) | Response::Range(_)) | None => None,
    })
}

impl Store for Etcd {
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            self.shared.catch_up().await?;
            Ok(self.shared.read().get(key).cloned())
        })
    }

    fn list<'a>(&'a self, range: &'a Range, at: Option<Revision>) -> Answer<'a, Listing> {
        Box::pin(async move {
            // A moment of the past needs nothing new.
            if at.is_none_or(|at| at > self.shared.read().revision()) {
                self.shared.catch_up().await?;
            }
            self.shared.read().list(range, at)
        })
    }

    fn write(&self, write: Write) -> Answer<'_, Entry> {
        Box::pin(self.shared.write(write))
    }

    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch> {
        Box::pin(async move {
            if after > self.shared.read().revision() {
                self.shared.catch_up().await?;
            }
            // While this is held nothing is told, so that nothing falls between past and future.
            let history = self.shared.read();
            let of_prefix = |event: &&Arc<Event>| event.key().starts_with(prefix);
            let past = history.after(after)?.filter(of_prefix).cloned().collect();
            Ok(self.shared.watchers.add(prefix, past))
        })
    }

    fn revision(&self) -> Answer<'_, Revision> {
        Box::pin(async move {
            self.shared.catch_up().await?;
            Ok(self.shared.read().revision())
        })
    }

    fn compact(&self, before: Revision) -> Answer<'_, ()> {
        Box::pin(async move {
            let before = before.min(self.shared.read().revision());
            match self.shared.client.compact(theirs(before)).await {
                // Another server was faster.
                Err(status) if status.code() == Code::OutOfRange => {}
                other => {
                    other.map_err(|status| unreachable("compact", &status))?;
                }
            }
            self.shared.history.write().unwrap_or_else(PoisonError::into_inner).compact(before);
            Ok(())
        })
    }
}
