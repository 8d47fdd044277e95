//! Runs the loop, and reports what it does.

use std::time::Instant;

use tokio::sync::{mpsc, watch};

use super::{Shared, feed::destroy_sockets};
use crate::{
    ebpf::{
        maps::{KernelMaps, MapError},
        pin::Pins,
    },
    sync::{Pace, Status, Sync, Table},
    view::ServiceName,
};

/// Starts the loop on the maps of `pins`; it ends when every sender of `events` is gone.
pub fn spawn<T>(
    table: T,
    pins: &Pins,
    events: mpsc::Receiver<T::Event>,
    shared: Shared,
) -> Result<(), MapError>
where
    T: Table + Send + 'static,
    T::Event: Send,
{
    let mut sync = Sync::new(table, KernelMaps::from_pins(&pins.maps())?, Pace::default())?;
    let (departed, batches) = mpsc::unbounded_channel();
    sync.send_departed(departed);
    tokio::spawn(destroy_sockets(KernelMaps::from_pins(&pins.maps())?, batches));
    tokio::spawn(follow(sync.status(), shared));
    tokio::spawn(async move { drop(sync.run(events).await) });
    Ok(())
}

async fn follow(mut status: watch::Receiver<Status>, shared: Shared) {
    while status.changed().await.is_ok() {
        let now = status.borrow_and_update().clone();
        let services = now.services.iter().filter_map(|service| {
            let key = service.key.as_ref()?;
            Some(ServiceName {
                number: service.number,
                namespace: key.namespace.to_string(),
                service: key.service.to_string(),
                port: key.port.to_string(),
            })
        });
        let services = services.collect();
        shared.update(|report| {
            report.in_sync = now.in_sync;
            report.pending = now.pending as u64;
            report.left_out = now.left_out.len() as u64;
            report.sync_failures = now.failures;
            report.services = services;
            let waiting = now.pending > 0;
            report.waiting_since =
                waiting.then(|| report.waiting_since.unwrap_or_else(Instant::now));
        });
        shared.set_histograms(now.sync, now.network_programming);
    }
}
