//! The loop: collect events, settle, compile, diff, apply, retry.

pub mod backoff;
pub mod histogram;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use self::{backoff::Backoff, histogram::Histogram};
use crate::{
    ebpf::{
        CapacityError, Desired, Program,
        flows::{self, Sweep},
        maps::{MapError, MapWriter},
        program::{Departed, Fill, ServicePort},
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
    /// Service ports in the maps, by number.
    pub services: Arc<[ServicePort]>,
    /// How full the maps are.
    pub fill: Vec<Fill>,
    /// Service ports that found no room.
    pub left_out: Arc<BTreeMap<PortKey, CapacityError>>,
    /// Frontends that more than one service port wants.
    pub contested: usize,
    /// Applies that failed, since the start.
    pub failures: u64,
    /// What the last apply said, if it failed.
    pub last_error: Option<String>,
    /// Seconds from the first event of a batch until the maps held it.
    pub network_programming: Histogram,
    /// Seconds that compile and apply took.
    pub sync: Histogram,
    /// What the last look at the flows found.
    pub flows: Sweep,
}

/// The loop and what it owns.
#[derive(Debug)]
pub struct Sync<T, M> {
    table: T,
    maps: M,
    program: Program,
    pace: Pace,
    started: Instant,
    compiled: bool,
    status: Status,
    backoff: Backoff,
    retry_at: Option<Instant>,
    publish: watch::Sender<Status>,
    departed: Option<mpsc::UnboundedSender<Vec<Departed>>>,
}

impl<T: Table, M: MapWriter> Sync<T, M> {
    /// Reads back what the maps hold. Nothing is written before the source is in sync.
    pub fn new(table: T, mut maps: M, pace: Pace) -> Result<Self, MapError> {
        let program = Program::observe(&mut maps)?;
        Ok(Self {
            table,
            maps,
            program,
            pace,
            started: Instant::now(),
            compiled: false,
            status: Status::default(),
            backoff: Backoff::default(),
            retry_at: None,
            publish: watch::Sender::new(Status::default()),
            departed: None,
        })
    }

    /// Where snapshots appear after each round.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.publish.subscribe()
    }

    /// Sends endpoints that left to someone who looks after their sockets.
    pub fn send_departed(&mut self, to: mpsc::UnboundedSender<Vec<Departed>>) {
        self.departed = Some(to);
    }

    /// Runs until every sender of events is gone and the maps are right; gives back what it owned.
    pub async fn run(mut self, mut events: mpsc::Receiver<T::Event>) -> (T, M, Program) {
        let mut last = None;
        let mut open = true;
        let mut received = Vec::new();
        let mut sweep_at = Instant::now() + self.pace.sweep_interval;
        loop {
            let wake = self.wake();
            if !open && wake.is_none() {
                return (self.table, self.maps, self.program);
            }
            let mut first_event = None;
            tokio::select! {
                count = events.recv_many(&mut received, self.pace.batch_max), if open => {
                    open = count > 0;
                    first_event = open.then(Instant::now);
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
            for event in received.drain(..) {
                self.table.apply(event);
            }
            self.round(first_event.unwrap_or_else(Instant::now));
            last = Some(Instant::now());
        }
    }

    /// Expires flows, and clears gate bits that nobody needs any more (with the next round).
    fn sweep(&mut self) {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now_ns =
            now.map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(0));
        match flows::sweep(&mut self.maps, dataplane_common::flow::tick(now_ns)) {
            Ok(sweep) => {
                self.program.clear_gate(&sweep.gate_bits);
                self.status.flows = sweep;
            }
            Err(error) => tracing::warn!(%error, "cannot sweep the flows, trying again later"),
        }
    }

    /// When there is something to do without an event.
    fn wake(&self) -> Option<Instant> {
        let rest = || Instant::now() + Duration::from_secs(1);
        self.retry_at.or_else(|| self.program.is_resting().then(rest))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Compiles what changed and applies it.
    fn round(&mut self, since: Instant) {
        if !self.table.is_synced() {
            // Half a table would refuse services whose endpoints just have not been told yet.
            return;
        }
        let begun = Instant::now();
        let now_ms = self.now_ms();
        let roomier = self.program.reclaim(now_ms);
        let changed = self.table.take_changed();
        if self.compiled {
            for key in &changed {
                // An error is kept in the program and shown in the status.
                let _ = self.program.change(key, self.table.port(key).as_ref());
            }
            if roomier || !changed.is_empty() {
                self.program.retry(&self.table);
            }
        } else {
            self.program.compile(&self.table);
            self.compiled = true;
        }
        let wrote = self.program.pending() > 0;
        match self.program.apply(&mut self.maps, now_ms) {
            Ok(_) => {
                self.backoff = Backoff::default();
                self.retry_at = None;
                self.status.last_error = None;
                if wrote {
                    self.status.network_programming.record(since.elapsed());
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot apply, trying again");
                self.status.failures += 1;
                self.status.last_error = Some(error.to_string());
                self.retry_at = Some(Instant::now() + self.backoff.delay());
            }
        }
        self.status.sync.record(begun.elapsed());
        let departed = self.program.take_departed();
        if let Some(to) = self.departed.as_ref().filter(|_| !departed.is_empty()) {
            // Nobody listens any more only when the process ends.
            let _ = to.send(departed);
        }
        self.snapshot(wrote || !changed.is_empty());
    }

    fn snapshot(&mut self, services_changed: bool) {
        self.status.in_sync = self.program.pending() == 0;
        self.status.pending = self.program.pending();
        self.status.fill = self.program.fill().to_vec();
        self.status.contested = self.program.contested();
        // The list costs O(services): it is made anew only for someone who looks.
        if services_changed && self.publish.receiver_count() > 0 {
            self.status.services = self.program.services().into();
            self.status.left_out = Arc::new(self.program.left_out().clone());
        }
        self.publish.send_replace(self.status.clone());
    }
}

#[cfg(test)]
mod tests;
