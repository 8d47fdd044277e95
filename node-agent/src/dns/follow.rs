//! Keeps the zone, and what else lives of Services and slices, as the API has them.

use std::{
    collections::BTreeSet,
    fmt::Debug,
    sync::{Arc, PoisonError, RwLockWriteGuard},
};

use futures::StreamExt as _;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Resource, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;

use super::zone::Zone;
use crate::shared::Shared;

/// Follows all of them, for as long as the agent runs.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let client = &shared.client;
    tokio::join!(
        objects(Api::<Service>::all(client.clone()), |change| {
            match change {
                Change::Put(service) => {
                    zone(&shared).set_service(&service);
                    shared.balance(|it| it.set_service(&service));
                    shared.put_service(service);
                }
                Change::Gone(namespace, name) => {
                    zone(&shared).remove_service(namespace, name);
                    shared.balance(|it| it.remove_service(namespace, name));
                    shared.remove_service(namespace, name);
                }
            }
        }),
        objects(Api::<EndpointSlice>::all(client.clone()), |change| {
            match change {
                Change::Put(slice) => {
                    zone(&shared).set_slice(&slice);
                    shared.balance(|it| it.set_slice(&slice));
                }
                Change::Gone(namespace, name) => {
                    zone(&shared).remove_slice(namespace, name);
                    shared.balance(|it| it.remove_slice(namespace, name));
                }
            }
            shared.slices_changed.send_replace(());
        }),
        objects(Api::<Namespace>::all(client.clone()), |change| match change {
            Change::Put(namespace) => zone(&shared).set_namespace(&namespace.name_any()),
            Change::Gone(_, name) => zone(&shared).remove_namespace(name),
        }),
    );
}

fn zone(shared: &Shared) -> RwLockWriteGuard<'_, Zone> {
    shared.zone.write().unwrap_or_else(PoisonError::into_inner)
}

enum Change<'c, K> {
    Put(K),
    Gone(&'c str, &'c str),
}

/// Tells of each change of a kind; what a list does not have any more is gone.
async fn objects<K>(api: Api<K>, mut tell: impl FnMut(Change<'_, K>))
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut known: BTreeSet<(String, String)> = BTreeSet::new();
    let mut listed = BTreeSet::new();
    let mut events =
        std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(object)) => {
                listed.insert((object.namespace().unwrap_or_default(), object.name_any()));
                tell(Change::Put(object));
            }
            Ok(Event::InitDone) => {
                for (namespace, name) in known.difference(&listed) {
                    tell(Change::Gone(namespace, name));
                }
                known = std::mem::take(&mut listed);
            }
            Ok(Event::Apply(object)) => {
                known.insert((object.namespace().unwrap_or_default(), object.name_any()));
                tell(Change::Put(object));
            }
            Ok(Event::Delete(object)) => {
                let key = (object.namespace().unwrap_or_default(), object.name_any());
                tell(Change::Gone(&key.0, &key.1));
                known.remove(&key);
            }
            Err(error) => tracing::debug!(%error, "a watch goes on later"),
        }
    }
}
