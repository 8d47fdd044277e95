//! The loop: collect events, settle, compile, diff, apply, retry.
//!
//! Which backend it drives may change while it runs.

pub mod backoff;
pub mod histogram;
pub mod no_local;
pub mod services;
pub mod snapshot;
pub mod status;
pub mod switch;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

pub use self::status::Status;
use self::{
    backoff::Backoff,
    no_local::{Tracker, Watched},
    services::{Question, Services},
    snapshot::{Snapshot, Snapshots},
    switch::{Switch, Switcher},
};
use crate::{
    backend::{Backend, Departed, Desired, Error, Needs, Node},
    model::PortKey,
};

/// The table as the loop sees it: events go in, changed service ports come out.
pub trait Table: Desired {
    /// What sources send.
    type Event;
    /// Takes in one event. It marks what changed and writes nothing.
    fn apply(&mut self, event: Self::Event);
    /// Service ports that changed since the last call.
    fn take_changed(&mut self) -> BTreeSet<PortKey>;
    /// Whether the source has said once that it has told us everything.
    fn is_synced(&self) -> bool;
}

/// An event, and when the source gave it to us.
#[derive(Clone, Debug)]
pub struct Received<E> {
    /// When.
    pub at: Instant,
    /// The event.
    pub event: E,
}

impl<E> Received<E> {
    /// An event that came just now.
    pub fn now(event: E) -> Self {
        Self { at: Instant::now(), event }
    }
}

/// How often each step of a switch is tried before the last backend goes on.
const SWITCH_TRIES: u32 = 5;

/// How the loop paces itself.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Least time between two applies: one change goes out at once, a burst in few batches.
    pub interval_min: Duration,
    /// Most events taken in before an apply.
    pub batch_max: usize,
    /// Time between two looks at what the kernel does by itself.
    pub upkeep_interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval_min: Duration::from_millis(5),
            batch_max: 100_000,
            upkeep_interval: Duration::from_secs(10),
        }
    }
}

/// The loop and what it owns.
pub struct Sync<T, B> {
    table: T,
    backend: B,
    node: watch::Receiver<Node>,
    /// Whether the backend has not been told yet what the node is now.
    node_is_new: bool,
    /// Whether the kernel could be read back.
    observed: bool,
    pace: Pace,
    started: Instant,
    /// When the first event came that is not in the maps yet.
    waiting_since: Option<Instant>,
    logged_left_out: usize,
    compiled: bool,
    no_local: Tracker,
    status: Status,
    backoff: Backoff,
    retry_at: Option<Instant>,
    publish: watch::Sender<Status>,
    needs: watch::Sender<Needs>,
    departed: Option<mpsc::UnboundedSender<Vec<Departed>>>,
    ask: mpsc::Sender<Question>,
    asked: mpsc::Receiver<Question>,
    look: mpsc::Sender<snapshot::Question>,
    looks: mpsc::Receiver<snapshot::Question>,
    switch: mpsc::Sender<Switch<B>>,
    switches: mpsc::Receiver<Switch<B>>,
}

impl<T, B> std::fmt::Debug for Sync<T, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sync").field("status", &self.status).finish_non_exhaustive()
    }
}

impl<T: Table, B: Backend> Sync<T, B> {
    /// A loop that first reads back what the kernel holds, as often as it takes. Nothing is written
    /// before the source is in sync.
    pub fn new(table: T, backend: B, node: watch::Receiver<Node>, pace: Pace) -> Self {
        let (ask, asked) = mpsc::channel(services::QUESTIONS_MAX);
        let (look, looks) = mpsc::channel(1);
        let (switch, switches) = mpsc::channel(1);
        Self {
            table,
            backend,
            node,
            node_is_new: true,
            observed: false,
            pace,
            started: Instant::now(),
            waiting_since: None,
            logged_left_out: 0,
            compiled: false,
            no_local: Tracker::default(),
            status: Status::default(),
            backoff: Backoff::default(),
            retry_at: None,
            publish: watch::Sender::new(Status::default()),
            needs: watch::Sender::new(Needs::default()),
            departed: None,
            ask,
            asked,
            look,
            looks,
            switch,
            switches,
        }
    }

    /// Puts another backend in the place of this one, when asked.
    pub fn switcher(&self) -> Switcher<B> {
        Switcher::new(self.switch.clone())
    }

    /// Tells which services are in the maps, when asked.
    pub fn services(&self) -> Services {
        Services::new(self.ask.clone())
    }

    /// Tells what the kernel should hold, when asked.
    pub fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.look.clone())
    }

    /// Where snapshots appear after each round.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.publish.subscribe()
    }

    /// What the configuration has to offer, told before the maps rely on it.
    pub fn needs(&self) -> watch::Receiver<Needs> {
        self.needs.subscribe()
    }

    /// Sends endpoints that left to someone who looks after their sockets.
    pub fn send_departed(&mut self, to: mpsc::UnboundedSender<Vec<Departed>>) {
        self.departed = Some(to);
    }

    /// Runs until every sender of events is gone and the maps are right; gives back what it owned.
    pub async fn run(mut self, mut events: mpsc::Receiver<Received<T::Event>>) -> (T, B) {
        let mut last = None;
        let mut open = true;
        let mut received: Vec<Received<T::Event>> = Vec::new();
        let mut upkeep_at = Instant::now() + self.pace.upkeep_interval;
        let mut node_open = true;
        self.observe();
        loop {
            let wake = self.wake();
            if !open && wake.is_none() {
                return (self.table, self.backend);
            }
            tokio::select! {
                count = events.recv_many(&mut received, self.pace.batch_max), if open => {
                    open = count > 0;
                }
                Some(question) = self.asked.recv() => {
                    question.answer(&self.backend);
                    continue;
                }
                Some(question) = self.looks.recv() => {
                    // Who asked may have gone.
                    let _gone = question.send(self.look());
                    continue;
                }
                Some(switch) = self.switches.recv() => {
                    self.switch(switch);
                    continue;
                }
                changed = self.node.changed(), if node_open => {
                    node_open = changed.is_ok();
                    // The receiver calls it seen from now on.
                    self.node_is_new |= node_open;
                }
                () = sleep_until(upkeep_at), if open => {
                    self.upkeep();
                    upkeep_at = Instant::now() + self.pace.upkeep_interval;
                }
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            if let Some(last) = last {
                sleep_until(last + self.pace.interval_min).await;
            }
            while received.len() < self.pace.batch_max
                && let Ok(event) = events.try_recv()
            {
                received.push(event);
            }
            self.take_in(received.drain(..));
            self.round();
            last = Some(Instant::now());
        }
    }

    fn look(&self) -> Option<Snapshot> {
        let node = self.node.borrow().clone();
        self.compiled.then(|| Snapshot::new(self.backend.mode(), node, &self.table))
    }

    fn take_in(&mut self, received: impl IntoIterator<Item = Received<T::Event>>) {
        for Received { at, event } in received {
            self.waiting_since.get_or_insert(at);
            self.table.apply(event);
        }
    }

    /// Reads back what the kernel holds, unless that is known.
    fn observe(&mut self) {
        if self.observed {
            return;
        }
        match self.backend.observe() {
            Ok(()) => {
                self.observed = true;
                self.succeeded();
            }
            Err(error) => {
                self.failed("cannot read back what the kernel holds, trying again", &error);
            }
        }
    }

    fn succeeded(&mut self) {
        self.backoff = Backoff::default();
        self.retry_at = None;
        self.status.last_error = None;
    }

    fn failed(&mut self, what: &str, error: &Error) {
        let error = chain(error);
        tracing::warn!(error, "{what}");
        self.status.failures += 1;
        self.status.last_error = Some(error);
        self.retry_at = Some(Instant::now() + self.backoff.delay());
    }

    /// Lets the backend look after the kernel; what others changed is put right with the next round.
    fn upkeep(&mut self) {
        if !self.compiled {
            return;
        }
        match self.backend.upkeep() {
            Ok(upkeep) => {
                self.status.flow_entries = upkeep.flow_entries;
                self.status.drifted += upkeep.drifted as u64;
                if upkeep.drifted > 0 {
                    let entries = upkeep.drifted;
                    tracing::warn!(
                        entries,
                        "somebody else changed what we had put into the kernel"
                    );
                }
            }
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "cannot look after the kernel, trying again later");
            }
        }
    }

    /// Programs another backend in full, while this one still serves, and puts it in its place.
    fn switch(&mut self, Switch { backend: mut next, done }: Switch<B>) {
        if !self.compiled {
            let _gone = done.send(Err((next, "the table is not complete yet".into())));
            return;
        }
        let now_ms = self.now_ms();
        let node = self.node.borrow().clone();
        let mut fill = || {
            again(|| next.observe())?;
            next.set_node(&node);
            next.compile(&self.table);
            again(|| next.apply(now_ms))
        };
        if let Err(error) = fill() {
            let _gone = done.send(Err((next, error)));
            return;
        }
        let last = std::mem::replace(&mut self.backend, next);
        self.needs.send_replace(self.backend.needs());
        self.status.services_version += 1;
        self.snapshot();
        let _gone = done.send(Ok(last));
    }

    /// When there is something to do without an event.
    fn wake(&self) -> Option<Instant> {
        let rest = || Instant::now() + Duration::from_secs(1);
        self.retry_at.or_else(|| self.backend.is_resting().then(rest))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Compiles what changed and applies it.
    fn round(&mut self) {
        self.observe();
        let now_ms = self.now_ms();
        if !self.observed {
            self.publish.send_replace(self.status.clone());
            return;
        }
        if !self.table.is_synced() {
            // Half a table would refuse services whose endpoints just have not been told yet.
            return;
        }
        let begun = Instant::now();
        let roomier = self.backend.reclaim(now_ms);
        let changed = self.table.take_changed();
        if self.node_is_new || self.node.has_changed().unwrap_or(false) {
            self.node_is_new = false;
            self.backend.set_node(&self.node.borrow_and_update());
        }
        if self.compiled {
            for key in &changed {
                let state = self.table.port(key);
                self.no_local.change(key, state.as_ref());
                self.backend.change(key, state.as_ref());
            }
            if roomier || !changed.is_empty() {
                self.backend.retry(&self.table);
            }
        } else {
            let tracker = RefCell::new(&mut self.no_local);
            self.backend.compile(&Watched { table: &self.table, tracker });
            self.compiled = true;
        }
        let needs = self.backend.needs();
        self.needs.send_if_modified(|told| {
            let changed = *told != needs;
            *told = needs;
            changed
        });
        let wrote = self.backend.pending() > 0;
        let result = self.backend.apply(now_ms);
        // Only now do those who left get no new flows.
        let departed = if result.is_ok() { self.backend.take_departed() } else { Vec::new() };
        match result {
            Ok(_) => {
                self.succeeded();
                self.status.pod_links.clone_from(&self.node.borrow().pod_links);
                // What needed no write has not waited for one.
                if let Some(since) = self.waiting_since.take().filter(|_| wrote) {
                    self.status.network_programming.record(since.elapsed());
                }
            }
            Err(error) => self.failed("cannot apply, trying again", &error),
        }
        self.status.sync.record(begun.elapsed());
        if let Some(to) = self.departed.as_ref().filter(|_| !departed.is_empty()) {
            // Nobody listens any more only when the process ends.
            let _ = to.send(departed);
        }
        if wrote || !changed.is_empty() {
            self.status.services_version += 1;
        }
        self.snapshot();
    }

    /// Publishes how things stand, in O(1): who wants the services asks for them.
    fn snapshot(&mut self) {
        let backend = &self.backend;
        self.status.mode = Some(backend.mode());
        self.status.pending = backend.pending();
        self.status.in_sync = self.status.pending == 0;
        self.status.fill = backend.fill();
        self.status.contested = backend.contested();
        self.status.left_out = backend.left_out().len();
        if self.status.left_out > self.logged_left_out
            && let Some(error) = backend.left_out().values().next_back()
        {
            let ports = self.status.left_out;
            tracing::error!(ports, example = %error, "service ports found no room in the maps");
        }
        self.logged_left_out = self.status.left_out;
        let limits = backend.limits();
        let ports = limits.map_or(0, BTreeMap::len);
        if ports > self.status.limited
            && let Some((key, words)) = limits.and_then(BTreeMap::last_key_value)
        {
            let example = format!("{}/{}", key.namespace, key.service);
            let words = words.join("; ");
            tracing::warn!(ports, example, "{} serves services with less: {words}", backend.mode());
        }
        self.status.limited = ports;
        self.status.no_local = self.no_local.count();
        self.publish.send_replace(self.status.clone());
    }
}

/// Tries a few times: the kernel says no to single calls, and what is done already stays done.
fn again<T>(mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let mut left = SWITCH_TRIES;
    loop {
        left -= 1;
        match call() {
            Err(_) if left > 0 => {}
            result => return result,
        }
    }
}

/// An error and its causes, in one line.
pub fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
