//! Objects from a Kubernetes API server, by list and watch.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    time::sleep,
};
use tower::util::MapResponseLayer;

use self::link::Link;
use super::{Error, Health, SourceEvent};
use crate::model::{Kind, ObjectEvent, ObjectName, ObjectRef};

mod link;

#[cfg(test)]
mod tests;

/// So many events are handed on together at most, when they are there together.
const BATCH_MAX: usize = 1024;

/// Before a list is asked for anew because the server forgot where the watch was.
const RELIST_PAUSE: Duration = Duration::from_secs(1);

/// A Kubernetes API server.
pub struct KubeSource {
    /// One client per kind, so that its answers tell about its kind.
    services: Client,
    slices: Client,
    link: Arc<Link>,
}

impl fmt::Debug for KubeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeSource").field("link", &self.link).finish_non_exhaustive()
    }
}

impl KubeSource {
    /// Makes a client from `kubeconfig`; without one from `KUBECONFIG`, `~/.kube/config` or the
    /// pod's service account. The server need not be reachable yet.
    pub async fn open(kubeconfig: Option<&Path>) -> Result<Self, Error> {
        let mut config = match kubeconfig {
            Some(path) => read_config(path).await?,
            None => Config::infer().await.map_err(|cause| Error::NoServer(Box::new(cause)))?,
        };
        // The watchers try again by themselves. Retries below them would hide for minutes that a
        // server answers 503.
        config.default_retry = false;
        let server: Box<str> = config.cluster_url.to_string().trim_end_matches('/').into();
        let link = Arc::new(Link::new(server.clone()));
        let client = |kind| {
            client(config.clone(), kind, Arc::clone(&link))
                .map_err(|cause| Error::Client { server: server.clone(), cause: Box::new(cause) })
        };
        let (services, slices) = (client(Kind::Service)?, client(Kind::EndpointSlice)?);
        Ok(Self { services, slices, link })
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// See [`super::Source::run`].
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        let Self { services, slices, link } = self;
        let follower = |kind| Follower { kind, link: &link, events: &events };
        let (of_services, of_slices) = (follower(Kind::Service), follower(Kind::EndpointSlice));
        let service = |object| ObjectEvent::Service { object, file: None };
        let slice = |object| ObjectEvent::EndpointSlice { object, file: None };
        // Each of them ends when nobody takes the events any more.
        tokio::select! {
            () = of_services.follow::<Service>(Api::all(services), service) => {}
            () = of_slices.follow::<EndpointSlice>(Api::all(slices), slice) => {}
            () = link.tell_problems(&events) => {}
            () = events.closed() => {}
        }
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

/// The watcher does not tell that a watch began, only that something came of it, which may be
/// hours later. So every answer is looked at.
fn client(config: Config, kind: Kind, link: Arc<Link>) -> kube::Result<Client> {
    let look = MapResponseLayer::new(move |response: axum::http::Response<_>| {
        if response.status().is_success() {
            link.answered(kind);
        }
        response
    });
    Ok(ClientBuilder::try_from(config)?.with_layer(&look).build())
}

/// Follows all objects of one kind.
struct Follower<'a> {
    kind: Kind,
    link: &'a Link,
    events: &'a mpsc::Sender<SourceEvent>,
}

impl Follower<'_> {
    async fn follow<K>(self, api: Api<K>, wrap: fn(Box<K>) -> ObjectEvent)
    where
        K: Resource + Clone + fmt::Debug + DeserializeOwned + Send + 'static,
    {
        let mut batch = Batch { kind: self.kind, is_list_open: false, events: Vec::new() };
        loop {
            let stream = watcher(api.clone(), watcher::Config::default()).default_backoff();
            let mut chunks = std::pin::pin!(stream.ready_chunks(BATCH_MAX));
            let mut is_expired = false;
            while !is_expired && let Some(chunk) = chunks.next().await {
                for item in chunk {
                    match item {
                        Ok(event) => batch.add(event, wrap),
                        Err(error) => is_expired |= self.failed(&error),
                    }
                }
                if self.send(&mut batch).await.is_err() {
                    return;
                }
            }
            sleep(RELIST_PAUSE).await;
        }
    }

    async fn send(&self, batch: &mut Batch) -> Result<(), mpsc::error::SendError<SourceEvent>> {
        let events = std::mem::take(&mut batch.events);
        if events.is_empty() {
            return Ok(());
        }
        self.link.heard();
        let is_end = |event: &ObjectEvent| matches!(event, ObjectEvent::ListEnd(_));
        let is_list_done = events.iter().any(is_end);
        self.events.send(SourceEvent::Objects(events)).await?;
        if is_list_done && self.link.listed(self.kind) {
            self.events.send(SourceEvent::Objects(vec![ObjectEvent::Synced])).await?;
        }
        Ok(())
    }

    /// Whether the watcher has to begin anew. It does so by itself when the server says within a
    /// watch that the version is too old, but asks for ever when a watch is refused for that.
    fn failed(&self, error: &watcher::Error) -> bool {
        let status = match error {
            watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => Some(status),
            watcher::Error::InitialListFailed(_)
            | watcher::Error::WatchStartFailed(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::NoResourceVersion => None,
        };
        if status.is_some_and(|status| status.code == 410) {
            tracing::debug!(kind = self.kind.name(), "the watch is too old; listing again");
            return matches!(error, watcher::Error::WatchStartFailed(_));
        }
        self.link.failed(self.kind, error);
        false
    }
}

/// Events on their way out.
struct Batch {
    kind: Kind,
    /// [`ObjectEvent::ListBegin`] was told for the present list. It waits for the first answer: the
    /// watcher says `Init` with every attempt.
    is_list_open: bool,
    events: Vec<ObjectEvent>,
}

impl Batch {
    fn add<K: Resource>(&mut self, event: Event<K>, wrap: fn(Box<K>) -> ObjectEvent) {
        match event {
            Event::Init => self.is_list_open = false,
            Event::InitApply(object) => {
                self.open_list();
                self.events.push(wrap(Box::new(lean(object))));
            }
            Event::InitDone => {
                self.open_list();
                self.events.push(ObjectEvent::ListEnd(self.kind));
            }
            Event::Apply(object) => self.events.push(wrap(Box::new(lean(object)))),
            Event::Delete(object) => {
                let namespace = object.namespace().unwrap_or_default();
                let name = ObjectName::new(&namespace, &object.name_any());
                self.events.push(ObjectEvent::Gone(ObjectRef { kind: self.kind, name }));
            }
        }
    }

    fn open_list(&mut self) {
        if !self.is_list_open {
            self.events.push(ObjectEvent::ListBegin(self.kind));
            self.is_list_open = true;
        }
    }
}

/// Who manages which field is most of an object's size and nothing to us.
fn lean<K: Resource>(mut object: K) -> K {
    object.meta_mut().managed_fields = None;
    object
}
