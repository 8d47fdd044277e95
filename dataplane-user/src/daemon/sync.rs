//! Runs the loop, and reports what it does.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::Shared;
use crate::{
    backend::{Backend, Departed, Needs, Node},
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
        let names = listing.ports.into_iter().filter_map(|port| {
            let key = port.key?;
            Some(ServiceName {
                number: port.number,
                namespace: key.namespace.to_string(),
                service: key.service.to_string(),
                port: key.port.to_string(),
            })
        });
        let names = names.collect();
        shared.update(|report| report.services = names);
        time::sleep(NAMES_PAUSE).await;
    }
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
            report.flow_entries = now.flow_entries as u64;
            let waiting = now.pending > 0;
            report.waiting_since =
                waiting.then(|| report.waiting_since.unwrap_or_else(Instant::now));
        });
        shared.set_histograms(now.sync, now.network_programming);
    }
}
