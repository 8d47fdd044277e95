//! Compares what the kernel holds with what the table says, for `hashplane doctor`.

use std::{collections::BTreeSet, time::Duration};

use super::{
    Settings,
    modes::{self, Wish},
};
use crate::{
    backend::{self, Backend, Mode},
    ebpf::{backend::Ebpf, maps::KernelMaps, pin::Pins},
    model::PortKey,
    sync::snapshot::{Snapshot, Snapshots},
    view::doctor::{DRIFT_SHOWN_MAX, Drift, DriftRow, Running},
};

/// So long rests a difference before it counts: it may be a change on its way to the kernel.
const SECOND_LOOK: Duration = Duration::from_millis(200);

/// Looks at the kernel when asked.
#[derive(Clone, Debug)]
pub struct Examiner {
    settings: Settings,
    pins: Pins,
    snapshots: Snapshots,
}

impl Examiner {
    /// For the loop that these snapshots are of.
    pub fn new(settings: Settings, pins: Pins, snapshots: Snapshots) -> Self {
        Self { settings, pins, snapshots }
    }

    /// What runs, why, and what differs. The kernel is only read.
    pub async fn examine(&self) -> Result<Running, backend::Error> {
        let Some((mode, first)) = self.look().await? else {
            let why = "the source has not told everything yet".to_owned();
            return Ok(Running { mode: None, why, drift: None });
        };
        let drift = if first.total == 0 {
            first
        } else {
            tokio::time::sleep(SECOND_LOOK).await;
            match self.look().await? {
                Some((_, second)) => both(&first, second),
                None => first,
            }
        };
        Ok(Running { mode: Some(mode), why: self.why(mode), drift: Some(drift) })
    }

    fn why(&self, mode: Mode) -> String {
        match self.settings.mode {
            Wish::Only(asked) if asked == mode => format!("--mode {mode} asks for it"),
            Wish::Auto => "--mode auto picked it at the start".to_owned(),
            Wish::Only(_) => "the daemon was told to switch while it ran".to_owned(),
        }
    }

    async fn look(&self) -> Result<Option<(Mode, Drift)>, backend::Error> {
        let Some(snapshot) = self.snapshots.take().await else { return Ok(None) };
        let backend = self.backend(snapshot.mode)?;
        let mode = snapshot.mode;
        // Reading large maps takes a while.
        let drift = tokio::task::spawn_blocking(move || compare(backend, &snapshot)).await??;
        Ok(Some((mode, drift)))
    }

    /// One that knows nothing yet.
    fn backend(&self, mode: Mode) -> Result<Box<dyn Backend>, backend::Error> {
        match modes::rules(mode, &self.settings) {
            Some(backend) => Ok(backend),
            None => Ok(Box::new(Ebpf::new(KernelMaps::from_pins(&self.pins.maps())?))),
        }
    }
}

/// Reads the kernel back and compiles the table; what is pending then differs.
fn compare(mut backend: Box<dyn Backend>, snapshot: &Snapshot) -> Result<Drift, backend::Error> {
    backend.observe()?;
    backend.set_node(&snapshot.node);
    backend.compile(snapshot);
    let (total, some) = backend.drift(DRIFT_SHOWN_MAX);
    let rows: BTreeSet<DriftRow> = some
        .into_iter()
        .map(|drift| DriftRow { service: name(drift.key.as_ref()), what: drift.what })
        .collect();
    Ok(Drift { total, rows: rows.into_iter().collect() })
}

fn name(key: Option<&PortKey>) -> String {
    match key {
        None => "-".to_owned(),
        Some(key) if key.port.is_empty() => format!("{}/{}", key.namespace, key.service),
        Some(key) => format!("{}/{}:{}", key.namespace, key.service, key.port),
    }
}

/// What differed both times.
fn both(first: &Drift, second: Drift) -> Drift {
    let rows = second.rows.into_iter().filter(|row| first.rows.contains(row));
    Drift { rows: rows.collect(), total: first.total.min(second.total) }
}
