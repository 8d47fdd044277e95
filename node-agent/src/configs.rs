//! ConfigMaps and Secrets that pods of this node use: each is watched while some pod uses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

impl Kind {
    /// As messages name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }

    /// As the API names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// Which kind.
    pub(crate) kind: Kind,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// What is in one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Bytes by key.
    pub(crate) data: BTreeMap<String, Vec<u8>>,
    /// Whether it never changes.
    pub(crate) is_immutable: bool,
}

/// Nothing yet, or what the server says: the object, or that there is none.
type State = Option<Option<Arc<Content>>>;

struct Entry {
    state: watch::Receiver<State>,
    task: JoinHandle<()>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All that are in use.
pub(crate) struct Configs {
    client: Client,
    entries: Mutex<BTreeMap<Key, Entry>>,
    changed: mpsc::Sender<Key>,
}

impl Configs {
    /// Tells `changed` of each change.
    pub(crate) fn new(client: Client, changed: mpsc::Sender<Key>) -> Self {
        Self { client, entries: Mutex::default(), changed }
    }

    /// What is in an object, once the server has said so; nothing if there is no such object.
    pub(crate) async fn get(&self, key: &Key) -> Option<Arc<Content>> {
        let mut state = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let entry = entries.entry(key.clone()).or_insert_with(|| self.follow(key.clone()));
            entry.state.clone()
        };
        let known = state.wait_for(Option::is_some).await.ok()?;
        known.clone().flatten()
    }

    /// Ends the watches of what is used no longer.
    pub(crate) fn keep_only(&self, used: &BTreeSet<Key>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|key, _| used.contains(key));
    }

    fn follow(&self, key: Key) -> Entry {
        let (send, state) = watch::channel(None);
        let (client, changed) = (self.client.clone(), self.changed.clone());
        let task = tokio::spawn(async move {
            match key.kind {
                Kind::ConfigMap => {
                    let api = Api::<ConfigMap>::namespaced(client, &key.namespace);
                    follow(api, &key, &send, &changed, of_map).await;
                }
                Kind::Secret => {
                    let api = Api::<Secret>::namespaced(client, &key.namespace);
                    follow(api, &key, &send, &changed, of_secret).await;
                }
            }
        });
        Entry { state, task }
    }
}

fn of_map(map: ConfigMap) -> Content {
    let text = map.data.into_iter().flatten().map(|(key, text)| (key, text.into_bytes()));
    let binary = map.binary_data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
    Content { data: text.chain(binary).collect(), is_immutable: map.immutable == Some(true) }
}

fn of_secret(secret: Secret) -> Content {
    let data = secret.data.into_iter().flatten().map(|(key, bytes)| (key, bytes.0));
    Content { data: data.collect(), is_immutable: secret.immutable == Some(true) }
}

async fn follow<K>(
    api: Api<K>,
    key: &Key,
    state: &watch::Sender<State>,
    changed: &mpsc::Sender<Key>,
    read: fn(K) -> Content,
) where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={}", key.name));
    let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
    let mut listed = None;
    while let Some(event) = events.next().await {
        let now: Option<Arc<Content>> = match event {
            Ok(Event::Init) => {
                listed = None;
                continue;
            }
            Ok(Event::InitApply(object)) => {
                listed = Some(Arc::new(read(object)));
                continue;
            }
            Ok(Event::InitDone) => listed.take(),
            Ok(Event::Apply(object)) => Some(Arc::new(read(object))),
            Ok(Event::Delete(_)) => None,
            Err(error) => {
                tracing::debug!(?key, %error, "the watch goes on later");
                continue;
            }
        };
        let differs = state.send_if_modified(|state| {
            let differs = state.as_ref() != Some(&now);
            *state = Some(now.clone());
            differs
        });
        if differs && changed.send(key.clone()).await.is_err() {
            return;
        }
        if now.is_some_and(|it| it.is_immutable) {
            // It never changes, and pods that use it keep what they have if it goes.
            std::future::pending::<()>().await;
        }
    }
}

/// Everything that a pod uses.
pub(crate) fn used_by(pod: &Pod) -> BTreeSet<Key> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let key = |kind, name: &str| Key { kind, namespace: namespace.clone(), name: name.into() };
    let mut keys = BTreeSet::new();
    let Some(spec) = &pod.spec else { return keys };
    for volume in spec.volumes.iter().flatten() {
        if let Some(map) = &volume.config_map {
            keys.insert(key(Kind::ConfigMap, &map.name));
        }
        if let Some(name) = volume.secret.as_ref().and_then(|it| it.secret_name.as_ref()) {
            keys.insert(key(Kind::Secret, name));
        }
        let sources = volume.projected.as_ref().and_then(|it| it.sources.as_ref());
        for source in sources.into_iter().flatten() {
            keys.extend(source.config_map.as_ref().map(|it| key(Kind::ConfigMap, &it.name)));
            keys.extend(source.secret.as_ref().map(|it| key(Kind::Secret, &it.name)));
        }
    }
    for container in containers(pod) {
        for from in container.env_from.iter().flatten() {
            keys.extend(from.config_map_ref.as_ref().map(|it| key(Kind::ConfigMap, &it.name)));
            keys.extend(from.secret_ref.as_ref().map(|it| key(Kind::Secret, &it.name)));
        }
        for source in container.env.iter().flatten().filter_map(|it| it.value_from.as_ref()) {
            let map = source.config_map_key_ref.as_ref();
            keys.extend(map.map(|it| key(Kind::ConfigMap, &it.name)));
            keys.extend(source.secret_key_ref.as_ref().map(|it| key(Kind::Secret, &it.name)));
        }
    }
    keys
}

/// Containers and init containers of a pod.
pub(crate) fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let inits = spec.and_then(|it| it.init_containers.as_ref()).into_iter().flatten();
    inits.chain(spec.into_iter().flat_map(|it| &it.containers))
}
