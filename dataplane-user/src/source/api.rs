//! Objects from a Kubernetes API server, by list and watch.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use futures::StreamExt;
use k8s_openapi::api::{
    core::v1::{Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
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

pub use self::herald::{Herald, Pace};
use self::link::Link;
use super::{Error, Health, SourceEvent};
use crate::model::{Kind, ObjectEvent, ObjectName, ObjectRef};

mod herald;
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
    pods: Client,
    nodes: Client,
    writer: Client,
    node_name: Box<str>,
    link: Arc<Link>,
}

impl fmt::Debug for KubeSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeSource").field("link", &self.link).finish_non_exhaustive()
    }
}

impl KubeSource {
    /// Makes clients from `kubeconfig` for the node of this name; without one from `KUBECONFIG`, `~/.kube/config` or the
    /// pod's service account. The server need not be reachable yet.
    pub async fn open(kubeconfig: Option<&Path>, node_name: &str) -> Result<Self, Error> {
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
        Ok(Self {
            services: client(Kind::Service)?,
            slices: client(Kind::EndpointSlice)?,
            pods: client(Kind::Pod)?,
            nodes: client(Kind::Node)?,
            writer: Client::try_from(config.clone()).map_err(|cause| Error::Client {
                server: server.clone(),
                cause: Box::new(cause),
            })?,
            node_name: node_name.into(),
            link,
        })
    }

    /// Who tells the server what is wrong with its Services.
    pub fn herald(&self) -> Herald {
        Herald::new(self.writer.clone(), &self.node_name)
    }

    /// Whether the server answers.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.link.health()
    }

    /// See [`super::Source::run`].
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        let Self { services, slices, pods, nodes, writer: _, node_name, link } = self;
        let follower = |kind| {
            let config = match kind {
                Kind::Service | Kind::EndpointSlice => watcher::Config::default(),
                // What other nodes run is nothing to us, and would be most of what we read.
                Kind::Pod => {
                    watcher::Config::default().fields(&format!("spec.nodeName={node_name}"))
                }
                Kind::Node => {
                    watcher::Config::default().fields(&format!("metadata.name={node_name}"))
                }
            };
            Follower { kind, config, link: &link, events: &events }
        };
        let service = |object| ObjectEvent::Service { object, file: None };
        let slice = |object| ObjectEvent::EndpointSlice { object, file: None };
        let pod = |object| ObjectEvent::Pod { object, file: None };
        let node = |object| ObjectEvent::Node { object, file: None };
        // Each of them ends when nobody takes the events any more. Boxed, since each is some KiB.
        tokio::select! {
            () = Box::pin(follower(Kind::Service).follow(Api::<Service>::all(services), service)) => {}
            () = Box::pin(follower(Kind::EndpointSlice).follow(Api::<EndpointSlice>::all(slices), slice)) => {}
            () = Box::pin(follower(Kind::Pod).follow(Api::<Pod>::all(pods), pod)) => {}
            () = Box::pin(follower(Kind::Node).follow(Api::<Node>::all(nodes), node)) => {}
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

/// Follows objects of one kind.
struct Follower<'a> {
    kind: Kind,
    /// Which of them.
    config: watcher::Config,
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
            let stream = watcher(api.clone(), self.config.clone()).default_backoff();
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
        if !events.is_empty() {
            self.link.heard();
            let is_end = |event: &ObjectEvent| matches!(event, ObjectEvent::ListEnd(_));
            let is_list_done = events.iter().any(is_end);
            self.events.send(SourceEvent::Objects(events)).await?;
            if is_list_done {
                self.link.listed(self.kind);
            }
        }
        if self.link.is_complete_now() {
            self.events.send(SourceEvent::Objects(vec![ObjectEvent::Synced])).await?;
        }
        Ok(())
    }

    /// Whether the watcher has to begin anew. It does so by itself when the server says within a
    /// watch that the version is too old, but asks for ever when a watch is refused for that.
    fn failed(&self, error: &watcher::Error) -> bool {
        let code = match error {
            watcher::Error::InitialListFailed(kube::Error::Api(status))
            | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => Some(status.code),
            watcher::Error::InitialListFailed(_)
            | watcher::Error::WatchStartFailed(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::NoResourceVersion => None,
        };
        if code == Some(410) && !matches!(error, watcher::Error::InitialListFailed(_)) {
            tracing::debug!(kind = self.kind.name(), "the watch is too old; listing again");
            return matches!(error, watcher::Error::WatchStartFailed(_));
        }
        self.link.failed(self.kind, error, code == Some(403));
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
