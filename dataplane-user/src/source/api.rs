//! Objects from a Kubernetes API server, by list and watch.

use std::path::Path;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::{mpsc, watch};

use super::{Error, Health, SourceEvent};

/// A Kubernetes API server.
pub struct KubeSource {
    client: Client,
    server: Box<str>,
    health: watch::Sender<Health>,
}

impl std::fmt::Debug for KubeSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubeSource").field("server", &self.server).finish_non_exhaustive()
    }
}

impl KubeSource {
    /// Makes a client from `kubeconfig`; without one from `KUBECONFIG`, `~/.kube/config` or the
    /// pod's service account. The server need not be reachable yet.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        let config = match kubeconfig {
            Some(path) => read_config(path).await?,
            None => Config::infer().await.map_err(|cause| Error::NoServer(Box::new(cause)))?,
        };
        let server: Box<str> = config.cluster_url.to_string().into();
        let client = Client::try_from(config)
            .map_err(|cause| Error::Client { server: server.clone(), cause: Box::new(cause) })?;
        Ok(Self { client, server, health: watch::Sender::new(Health::UNKNOWN) })
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// See [`super::Source::run`].
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        tracing::debug!(server = %self.server, version = ?self.client.default_namespace(), "reading");
        events.closed().await;
    }
}

async fn read_config(path: &Path) -> Result<Config, Error> {
    let failed = |cause| Error::Kubeconfig {
        file: path.display().to_string().into(),
        cause: Box::new(cause),
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(failed)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(failed)
}
