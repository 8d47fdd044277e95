//! Runs the loop, and reports what it does.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{Shared, report::LimitRow};
use crate::{
    backend::{Backend, Departed, Needs, Node},
    model::PortKey,
    sync::{
        Pace, Received, Status, Sync, Table, services::Services, snapshot::Snapshots,
        switch::Switcher,
    },
    view::ServiceName,
};

/// Events that wait for the loop.
const EVENTS_MAX: usize = 1024;
/// Between two lists of names; each costs O(services).
const NAMES_PAUSE: Duration = Duration::from_millis(250);
/// Services named by the report that are served with less than they ask for.
const LIMIT_ROWS_MAX: usize = 100;

/// What others need of the loop.
#[derive(Debug)]
pub struct Handles {
    /// What it needs of the configuration.
    pub needs: watch::Receiver<Needs>,
    /// Puts another backend in its place.
    pub switcher: Switcher<Box<dyn Backend>>,
    /// Tells what the kernel should hold.
    pub snapshots: Snapshots,
    /// Tells which services are in the kernel.
    pub services: Services,
    /// How things stand.
    pub status: watch::Receiver<Status>,
}

/// A loop that runs.
#[derive(Debug)]
pub struct Started {
    /// What others need of it.
    pub handles: Handles,
    /// Endpoints that left, batch by batch.
    pub departed: mpsc::UnboundedReceiver<Vec<Departed>>,
}

/// Starts the loop with a backend; it ends when every sender of `events` is gone.
pub fn spawn<T>(
    table: T,
    backend: Box<dyn Backend>,
    node: watch::Receiver<Node>,
    mut events: mpsc::Receiver<T::Event>,
    shared: Shared,
) -> Started
where
    T: Table + Send + 'static,
    T::Event: Send + 'static,
{
    let mut sync = Sync::new(table, backend, node, Pace::default());
    let (send_departed, departed) = mpsc::unbounded_channel();
    sync.send_departed(send_departed);
    let (needs, switcher, snapshots) = (sync.needs(), sync.switcher(), sync.snapshots());
    let (services, status) = (sync.services(), sync.status());
    let handles = Handles { needs, switcher, snapshots, services, status };
    tokio::spawn(name_services(sync.status(), sync.services(), shared.clone()));
    tokio::spawn(follow(sync.status(), shared));
    let (stamped, received) = mpsc::channel(EVENTS_MAX);
    // The loop may be busy with the kernel; the time an event waits for it counts.
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if stamped.send(Received::now(event)).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move { drop(sync.run(received).await) });
    Started { handles, departed }
}

/// Keeps the names of the services in the report: soon after a change, and not once per change.
async fn name_services(mut status: watch::Receiver<Status>, services: Services, shared: Shared) {
    let mut named = 0;
    loop {
        match status.wait_for(|status| status.services_version != named).await {
            Ok(now) => named = now.services_version,
            Err(_ended) => return,
        }
        let Some(listing) = services.list().await else { return };
        let names = listing.ports.iter().filter_map(|port| {
            let key = port.key.as_ref()?;
            Some(ServiceName {
                number: port.number,
                namespace: key.namespace.to_string(),
                service: key.service.to_string(),
                port: key.port.to_string(),
            })
        });
        let names = names.collect();
        let limits = limit_rows(&listing.limits);
        shared.update(|report| (report.services, report.limits) = (names, limits));
        time::sleep(NAMES_PAUSE).await;
    }
}

/// The first services with less than they ask for, each with all that its ports lack.
fn limit_rows(limits: &BTreeMap<PortKey, Vec<&'static str>>) -> Vec<LimitRow> {
    let mut rows: Vec<LimitRow> = Vec::new();
    for (key, words) in limits {
        let service = format!("{}/{}", key.namespace, key.service);
        let is_full = rows.len() == LIMIT_ROWS_MAX;
        match rows.last_mut().filter(|row| row.service == service) {
            Some(row) => row.missing.extend(words),
            None if is_full => break,
            None => rows.push(LimitRow { service, missing: words.iter().copied().collect() }),
        }
    }
    rows
}

async fn follow(mut status: watch::Receiver<Status>, shared: Shared) {
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        shared.update(|report| {
            report.in_sync = now.in_sync;
            report.pending = now.pending as u64;
            report.left_out = now.left_out as u64;
            report.sync_failures = now.failures;
            report.last_error.clone_from(&now.last_error);
            report.mode = now.mode;
            report.pod_links.clone_from(&now.pod_links);
            report.drifted = now.drifted;
            report.limited = now.limited as u64;
            report.no_local = now.no_local;
            report.flow_entries = now.flow_entries as u64;
            let waiting = now.pending > 0;
            report.waiting_since =
                waiting.then(|| report.waiting_since.unwrap_or_else(Instant::now));
        });
        shared.set_histograms(now.sync, now.network_programming);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, PortOwner};

    #[test]
    fn what_the_ports_of_a_service_lack_is_one_row() {
        let key = |service: &str, port: &str| PortKey {
            namespace: "shop".into(),
            service: service.into(),
            port: port.into(),
            family: Family::V4,
            owner: PortOwner::Service,
        };
        let limits = BTreeMap::from([
            (key("a", "http"), vec!["x"]),
            (key("a", "metrics"), vec!["y", "x"]),
            (key("b", ""), vec!["x"]),
        ]);
        let row = |service: &str, missing: &[&'static str]| LimitRow {
            service: service.to_owned(),
            missing: missing.iter().copied().collect(),
        };
        assert_eq!(limit_rows(&limits), [row("shop/a", &["x", "y"]), row("shop/b", &["x"])]);
    }
}
