//! What the daemon says of itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    backend::Mode,
    ebpf::attach::Attachment,
    shadow::Counts,
    sync::{histogram::Histogram, no_local::NoLocal},
    view::ServiceName,
};

/// A sync that takes longer than this makes the node unhealthy (kube-proxy: twice its sync period).
pub const HEALTH_TIMEOUT: Duration = Duration::from_mins(1);

/// A Service that the backend serves with less than it asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LimitRow {
    /// `namespace/name`.
    pub service: String,
    /// What is missing, and why: each a row of the table in `docs/modes.md`.
    pub missing: BTreeSet<&'static str>,
}

/// What is going on. Field names are stable: `hashplane status -o json` prints them.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Report {
    /// Which backend serves; nothing before the table is complete.
    pub mode: Option<Mode>,
    /// Pods' links as the backend knows them.
    pub pod_links: BTreeSet<String>,
    /// Entries of ours that somebody else had changed, repaired since the start.
    pub drifted: u64,
    /// Service ports that the backend serves with less than their Service asks for.
    pub limited: u64,
    /// What is missing where, service by service; the first of them.
    pub limits: Vec<LimitRow>,
    /// Service ports that drop packets since only other nodes have endpoints.
    #[serde(skip)]
    pub no_local: NoLocal,
    /// Entries of flows that are tracked.
    pub flow_entries: u64,
    /// What the last sync said, if it failed.
    pub last_error: Option<String>,
    /// `kubernetes` or `manifests`.
    pub source: String,
    /// Whether the source answers.
    pub source_connected: bool,
    /// Whether the source has told us everything once.
    pub in_sync: bool,
    /// Changes that are not in the kernel yet.
    pub pending: u64,
    /// Problems in objects, by kind.
    pub problems: BTreeMap<String, u64>,
    /// Service ports that found no room.
    pub left_out: u64,
    /// What became of each program.
    pub attachments: Vec<Attachment>,
    /// Map writes that failed and were tried again.
    pub sync_failures: u64,
    /// Whether the node is about to be deleted.
    pub node_leaves: bool,
    /// Listeners that answer health checks of Services.
    pub health_check_listeners: u64,
    /// Why other listeners for health checks are not there.
    pub health_check_failures: Vec<String>,
    /// Names of the service ports in the maps.
    #[serde(skip)]
    pub services: Vec<ServiceName>,
    /// What comparisons with eBPF found, where they are made.
    #[serde(skip)]
    pub shadow: Option<Counts>,
    /// Since when a change waits.
    #[serde(skip)]
    pub waiting_since: Option<Instant>,
}

impl Report {
    /// Whether the node keeps up with its changes.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.waiting_since.is_none_or(|since| now.duration_since(since) < HEALTH_TIMEOUT)
    }

    /// Problems by kind: those in objects, and ports for health checks that cannot be opened.
    pub fn problems_by_kind(&self) -> BTreeMap<String, u64> {
        let mut problems = self.problems.clone();
        if !self.health_check_failures.is_empty() {
            let failures = self.health_check_failures.len() as u64;
            problems.insert("health_check_port".to_owned(), failures);
        }
        problems
    }
}

/// The report and the histograms, shared between the loop and the HTTP server.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    report: Report,
    sync: Histogram,
    programming: Histogram,
}

impl Shared {
    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock().report);
    }

    /// The report as it is now.
    pub fn report(&self) -> Report {
        self.lock().report.clone()
    }

    /// Whether the node keeps up with its changes.
    pub fn is_healthy(&self, now: Instant) -> bool {
        self.lock().report.is_healthy(now)
    }

    /// The loop's histograms as they stand now: syncs, network programming.
    pub fn set_histograms(&self, sync: Histogram, programming: Histogram) {
        let mut inner = self.lock();
        (inner.sync, inner.programming) = (sync, programming);
    }

    /// The two histograms: syncs, network programming.
    pub fn histograms(&self) -> (Histogram, Histogram) {
        let inner = self.lock();
        (inner.sync, inner.programming)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere does not make the numbers wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_healthy_until_a_change_waits_too_long() {
        let now = Instant::now();
        let mut report = Report::default();
        assert!(report.is_healthy(now));
        report.waiting_since = Some(now);
        assert!(report.is_healthy(now + HEALTH_TIMEOUT / 2));
        assert!(!report.is_healthy(now + HEALTH_TIMEOUT));
    }
}
