//! Where objects come from: a Kubernetes API server or a directory of manifests.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};

use crate::model::ObjectEvent;

pub mod api;
pub mod manifests;
pub mod problem;
pub mod standing;
pub mod verdict;

pub use api::{Herald, KubeSource};
pub use manifests::ManifestSource;
pub use problem::{SourceCause, SourceProblem};

/// One message of a source, in the order in which things happened.
#[derive(Clone, Debug)]
pub enum SourceEvent {
    /// Objects that came, changed or went; apply them together.
    Objects(Vec<ObjectEvent>),
    /// What is wrong at one place now. It replaces everything said about that place before;
    /// an empty list says that all is well again.
    Problems {
        /// The place.
        scope: ProblemScope,
        /// Everything that is wrong there.
        list: Vec<SourceProblem>,
    },
}

/// The place that a list of problems is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemScope {
    /// The source as a whole: its directory, or its connection.
    Source,
    /// One file, by its name in the directory.
    File(Arc<str>),
}

/// How a source is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// What it reads from can be read now. `false` until it was read once.
    pub connected: bool,
    /// When it last read something.
    pub last_event: Option<Instant>,
}

impl Health {
    /// Nothing was read yet.
    pub const UNKNOWN: Self = Self { connected: false, last_event: None };
}

/// Why a source cannot be started at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory of manifests cannot be used.
    #[error("cannot read manifests from {directory}: {cause}")]
    Directory {
        /// The directory.
        directory: Box<str>,
        /// Why.
        cause: std::io::Error,
    },
    /// The kernel does not tell about changes in the directory.
    #[error("cannot watch the manifests in {directory}: {cause}")]
    Watch {
        /// The directory.
        directory: Box<str>,
        /// Why.
        cause: notify::Error,
    },
    /// The kubeconfig file cannot be used.
    #[error("cannot use kubeconfig {file}: {}", first_line(.cause))]
    Kubeconfig {
        /// The file.
        file: Box<str>,
        /// Why.
        cause: Box<kube::config::KubeconfigError>,
    },
    /// Neither a kubeconfig nor a pod's service account leads to an API server.
    #[error("found no Kubernetes API server to read from: {}", first_line(.0))]
    NoServer(Box<kube::config::InferConfigError>),
    /// The configuration is there, but no client can be made from it.
    #[error("cannot make a client for the Kubernetes API server {server}: {cause}")]
    Client {
        /// Its address.
        server: Box<str>,
        /// Why.
        cause: Box<kube::Error>,
    },
}

/// The parser of kubeconfigs goes on with a picture of the text.
fn first_line(cause: &impl std::fmt::Display) -> String {
    cause.to_string().lines().next().unwrap_or_default().to_owned()
}

/// Where objects come from.
#[derive(Debug)]
pub enum Source {
    /// A directory of YAML files.
    Manifests(ManifestSource),
    /// A Kubernetes API server.
    Kube(Box<KubeSource>),
}

impl Source {
    /// How the source is doing, now and later.
    pub fn health(&self) -> watch::Receiver<Health> {
        match self {
            Self::Manifests(source) => source.health(),
            Self::Kube(source) => source.health(),
        }
    }

    /// Reads until nobody takes `events` any more. Whatever happens to the directory or to the
    /// server on the way is told as a problem and waited out.
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        match self {
            Self::Manifests(source) => source.run(events).await,
            Self::Kube(source) => source.run(events).await,
        }
    }
}
