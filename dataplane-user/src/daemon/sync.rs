//! Runs the loop and the sweep of flows, and reports what they do.

use std::time::{Duration, Instant};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::Shared;
use crate::{
    ebpf::{
        attach::chain,
        flows::sweep,
        maps::{KernelMaps, MapError, MapWriter},
        pin::Pins,
    },
    sync::{Pace, Status, Sync, Table},
    view::{self, ServiceName},
};

/// Between two looks at all flows.
const SWEEP: Duration = Duration::from_secs(10);

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
    let sync = Sync::new(table, KernelMaps::from_pins(&pins.maps())?, Pace::default())?;
    tokio::spawn(follow(sync.status(), shared));
    tokio::spawn(async move { drop(sync.run(events).await) });
    Ok(())
}

/// Expires flows for ever.
pub fn spawn_sweep(pins: &Pins) -> Result<(), MapError> {
    let mut maps = KernelMaps::from_pins(&pins.maps())?;
    tokio::spawn(async move {
        let mut pause = time::interval(SWEEP);
        pause.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            pause.tick().await;
            // A full table takes a while to read.
            let swept = tokio::task::spawn_blocking(move || {
                let result = sweep_once(&mut maps);
                (maps, result)
            });
            let Ok((back, result)) = swept.await else { return };
            maps = back;
            if let Err(error) = result {
                tracing::warn!(error = chain(&error), "cannot sweep the flows");
            }
        }
    });
    Ok(())
}

fn sweep_once(maps: &mut impl MapWriter) -> Result<(), MapError> {
    let Ok(now) = view::read::now_ticks() else { return Ok(()) };
    sweep(maps, now).map(drop)
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
