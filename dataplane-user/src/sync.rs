//! The loop: collect events, settle, compile, diff, apply, retry.

pub mod backoff;
pub mod histogram;
pub mod needs;
pub mod services;

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use self::{
    backoff::Backoff,
    histogram::Histogram,
    needs::Needs,
    services::{Question, Services},
};
use crate::{
    ebpf::{
        Desired, Program,
        flows::{self, Sweep},
        maps::{MapError, MapWriter},
        program::{Departed, Fill},
    },
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

/// How the loop paces itself.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Least time between two applies: one change goes out at once, a burst in few batches.
    pub interval_min: Duration,
    /// Most events taken in before an apply.
    pub batch_max: usize,
    /// Time between two looks at the flows.
    pub sweep_interval: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            interval_min: Duration::from_millis(5),
            batch_max: 100_000,
            sweep_interval: Duration::from_secs(10),
        }
    }
}

/// What the loop has done and how things stand; a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Whether the maps hold what the table says, but for those left out.
    pub in_sync: bool,
    /// Entries that are not yet as they should be.
    pub pending: usize,
    /// Rounds that changed which services there are or how they look; ask [`Services`] for them.
    pub services_version: u64,
    /// How full the maps are.
    pub fill: Vec<Fill>,
    /// How many service ports found no room.
    pub left_out: usize,
    /// Frontends that more than one service port wants.
    pub contested: usize,
    /// Applies that failed, since the start.
    pub failures: u64,
    /// What the last apply said, if it failed.
    pub last_error: Option<String>,
    /// Seconds from the moment the source gave us the first event of a batch until the maps held it.
    pub network_programming: Histogram,
    /// Seconds that compile and apply took.
    pub sync: Histogram,
    /// What the last look at the flows found; its gate bits are left out.
    pub flows: Sweep,
}

/// The loop and what it owns.
#[derive(Debug)]
pub struct Sync<T, M> {
    table: T,
    maps: M,
    /// `None` until the maps could be read.
    program: Option<Program>,
    pace: Pace,
    started: Instant,
    /// When the first event came that is not in the maps yet.
    waiting_since: Option<Instant>,
    logged_left_out: usize,
    compiled: bool,
    status: Status,
    backoff: Backoff,
    retry_at: Option<Instant>,
    publish: watch::Sender<Status>,
    needs: watch::Sender<Needs>,
    departed: Option<mpsc::UnboundedSender<Vec<Departed>>>,
    ask: mpsc::Sender<Question>,
    asked: mpsc::Receiver<Question>,
}

impl<T: Table, M: MapWriter> Sync<T, M> {
    /// A loop that first reads back what the maps hold, as often as it takes. Nothing is written
    /// before the source is in sync.
    pub fn new(table: T, maps: M, pace: Pace) -> Self {
        let (ask, asked) = mpsc::channel(services::QUESTIONS_MAX);
        Self {
            table,
            maps,
            program: None,
            pace,
            started: Instant::now(),
            waiting_since: None,
            logged_left_out: 0,
            compiled: false,
            status: Status::default(),
            backoff: Backoff::default(),
            retry_at: None,
            publish: watch::Sender::new(Status::default()),
            needs: watch::Sender::new(Needs::default()),
            departed: None,
            ask,
            asked,
        }
    }

    /// Tells which services are in the maps, when asked.
    pub fn services(&self) -> Services {
        Services::new(self.ask.clone())
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
    pub async fn run(mut self, mut events: mpsc::Receiver<Received<T::Event>>) -> (T, M) {
        let mut last = None;
        let mut open = true;
        let mut received: Vec<Received<T::Event>> = Vec::new();
        let mut sweep_at = Instant::now() + self.pace.sweep_interval;
        self.observe();
        loop {
            let wake = self.wake();
            if !open && wake.is_none() {
                return (self.table, self.maps);
            }
            tokio::select! {
                count = events.recv_many(&mut received, self.pace.batch_max), if open => {
                    open = count > 0;
                }
                Some(question) = self.asked.recv() => {
                    question.answer(self.program.as_ref());
                    continue;
                }
                () = sleep_until(sweep_at), if open => {
                    self.sweep();
                    sweep_at = Instant::now() + self.pace.sweep_interval;
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

    fn take_in(&mut self, received: impl IntoIterator<Item = Received<T::Event>>) {
        for Received { at, event } in received {
            self.waiting_since.get_or_insert(at);
            self.table.apply(event);
        }
    }

    /// Reads back what the maps hold, unless that is known.
    fn observe(&mut self) {
        if self.program.is_some() {
            return;
        }
        match Program::observe(&mut self.maps) {
            Ok(program) => {
                self.program = Some(program);
                self.succeeded();
            }
            Err(error) => self.failed("cannot read the maps back, trying again", &error),
        }
    }

    fn succeeded(&mut self) {
        self.backoff = Backoff::default();
        self.retry_at = None;
        self.status.last_error = None;
    }

    fn failed(&mut self, what: &str, error: &MapError) {
        tracing::warn!(%error, "{what}");
        self.status.failures += 1;
        self.status.last_error = Some(error.to_string());
        self.retry_at = Some(Instant::now() + self.backoff.delay());
    }

    /// Expires flows, and clears gate bits that nobody needs any more (with the next round).
    fn sweep(&mut self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now_ns =
            now.map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(0));
        match flows::sweep(&mut self.maps, dataplane_common::flow::tick(now_ns)) {
            Ok(mut sweep) => {
                let bits = std::mem::take(&mut sweep.gate_bits);
                if let Some(program) = &mut self.program {
                    program.clear_gate(&bits);
                }
                self.status.flows = sweep;
            }
            Err(error) => tracing::warn!(%error, "cannot sweep the flows, trying again later"),
        }
    }

    /// When there is something to do without an event.
    fn wake(&self) -> Option<Instant> {
        let rest = || Instant::now() + Duration::from_secs(1);
        let resting = self.program.as_ref().is_some_and(Program::is_resting);
        self.retry_at.or_else(|| resting.then(rest))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Compiles what changed and applies it.
    fn round(&mut self) {
        self.observe();
        let now_ms = self.now_ms();
        let Some(program) = &mut self.program else {
            self.publish.send_replace(self.status.clone());
            return;
        };
        if !self.table.is_synced() {
            // Half a table would refuse services whose endpoints just have not been told yet.
            return;
        }
        let begun = Instant::now();
        let roomier = program.reclaim(now_ms);
        let changed = self.table.take_changed();
        if self.compiled {
            for key in &changed {
                // An error is kept in the program and shown in the status.
                let _ = program.change(key, self.table.port(key).as_ref());
            }
            if roomier || !changed.is_empty() {
                program.retry(&self.table);
            }
        } else {
            program.compile(&self.table);
            self.compiled = true;
        }
        self.needs.send_if_modified(|told| {
            let needs = Needs::of(program);
            let changed = *told != needs;
            *told = needs;
            changed
        });
        let wrote = program.pending() > 0;
        let result = program.apply(&mut self.maps, now_ms);
        // Only now do those who left get no new flows.
        let departed = if result.is_ok() { program.take_departed() } else { Vec::new() };
        match result {
            Ok(_) => {
                self.succeeded();
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
        if let Some(program) = &self.program {
            let pending = program.pending();
            self.status.in_sync = pending == 0;
            self.status.pending = pending;
            self.status.fill = program.fill().to_vec();
            self.status.contested = program.contested();
            self.status.left_out = program.left_out().len();
            if self.status.left_out > self.logged_left_out
                && let Some(error) = program.left_out().values().next_back()
            {
                let ports = self.status.left_out;
                tracing::error!(ports, example = %error, "service ports found no room in the maps");
            }
            self.logged_left_out = self.status.left_out;
        }
        self.publish.send_replace(self.status.clone());
    }
}

#[cfg(test)]
mod tests;
