//! A server that is somewhere else: the API as parts of a cluster use it, over HTTPS.

use std::{path::Path, sync::Arc};

use futures::TryStreamExt as _;
use http::{Method, Request, header};
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
    core::WatchEvent,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    api::status::{Failure, Reason},
    cache::version,
    client::{Answer, Change, Client, Deletion, Kind, Objects, Propagation},
    object,
    resource::{self, Resource},
    store::Revision,
};

/// Objects of one page of a list.
const PAGE: usize = 5_000;
/// Changes that wait to be taken.
const WAITING_MAX: usize = 1_024;
/// Seconds after which the server ends a watch.
const WATCH_S: u32 = 600;

/// A server at the other end of a connection.
#[derive(Clone)]
pub struct Remote {
    client: kube::Client,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").finish_non_exhaustive()
    }
}

/// Why there is no way to a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file, or what it says.
    #[error("cannot use the kubeconfig {path}: {cause}")]
    Kubeconfig {
        /// Which.
        path: String,
        /// Why.
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Remote {
    /// The server that a kubeconfig names, as its user.
    pub async fn open(kubeconfig: &Path) -> Result<Self, Error> {
        let failed = |cause: Box<dyn std::error::Error + Send + Sync>| Error::Kubeconfig {
            path: kubeconfig.display().to_string(),
            cause,
        };
        let file = Kubeconfig::read_from(kubeconfig).map_err(|error| failed(error.into()))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await;
        let mut config = config.map_err(|error| failed(error.into()))?;
        // Watches are silent for as long as nothing changes.
        config.read_timeout = None;
        let client = kube::Client::try_from(config).map_err(|error| failed(error.into()))?;
        Ok(Self { client })
    }

    async fn send(&self, method: Method, path: String, body: Vec<u8>) -> Result<Value, Failure> {
        let request = request(method, path, body)?;
        self.client.request::<Value>(request).await.map_err(failure)
    }
}

fn request(method: Method, path: String, body: Vec<u8>) -> Result<Request<Vec<u8>>, Failure> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::CONTENT_TYPE, "application/json").body(body);
    request.map_err(|error| Failure::new(Reason::BadRequest, error.to_string()))
}

fn failure(error: kube::Error) -> Failure {
    match error {
        kube::Error::Api(status) => {
            Failure::new(Reason::of(&status.reason, status.code), status.message.clone())
        }
        error => Failure::new(Reason::ServiceUnavailable, error.to_string()),
    }
}

fn known(kind: Kind) -> Result<&'static Resource, Failure> {
    let words = || format!("there is no resource {}.{}", kind.plural, kind.group);
    resource::by_id(kind).ok_or_else(|| Failure::new(Reason::NotFound, words()))
}

/// The path of a kind, in a namespace if one is named.
fn path(resource: &Resource, namespace: &str) -> String {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    if resource.namespaced && !namespace.is_empty() {
        format!("{root}/namespaces/{namespace}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    }
}

fn item(kind: Kind, namespace: &str, name: &str) -> Result<String, Failure> {
    Ok(format!("{}/{name}", path(known(kind)?, namespace)))
}

/// Objects of a list lack their own kind.
fn name_kind(resource: &Resource, object: &mut Value) {
    let map = object::map(object, &[]);
    map.insert("apiVersion".into(), resource.api_version().into());
    map.insert("kind".into(), resource.kind.into());
}

impl Client for Remote {
    fn get<'a>(&'a self, kind: Kind, namespace: &'a str, name: &'a str) -> Answer<'a, Arc<Value>> {
        Box::pin(async move {
            let path = item(kind, namespace, name)?;
            Ok(Arc::new(self.send(Method::GET, path, Vec::new()).await?))
        })
    }

    fn list<'a>(&'a self, kind: Kind, namespace: &'a str) -> Answer<'a, Objects> {
        Box::pin(async move {
            let resource = known(kind)?;
            let path = path(resource, namespace);
            let mut objects = Objects::default();
            let mut next = String::new();
            loop {
                let page = format!("{path}?limit={PAGE}&continue={next}");
                let mut list = self.send(Method::GET, page, Vec::new()).await?;
                objects.revision = Revision(version(&list));
                object::text(&list, &["metadata", "continue"]).clone_into(&mut next);
                let items = list.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
                for mut object in items.into_iter().flatten() {
                    name_kind(resource, &mut object);
                    objects.items.push(Arc::new(object));
                }
                if next.is_empty() {
                    return Ok(objects);
                }
            }
        })
    }

    fn watch(&self, kind: Kind, after: Revision) -> Answer<'_, mpsc::Receiver<Change>> {
        Box::pin(async move {
            let path = path(known(kind)?, "");
            let path = format!(
                "{path}?watch=true&resourceVersion={after}&allowWatchBookmarks=true&timeoutSeconds={WATCH_S}"
            );
            let request = request(Method::GET, path, Vec::new())?;
            let events = self.client.request_events::<Value>(request).await.map_err(failure)?;
            let (send, changes) = mpsc::channel(WAITING_MAX);
            tokio::spawn(async move {
                let mut events = std::pin::pin!(events);
                loop {
                    let event = tokio::select! {
                        event = events.try_next() => event,
                        () = send.closed() => break,
                    };
                    let change = match event {
                        Ok(Some(WatchEvent::Added(it) | WatchEvent::Modified(it))) => {
                            Change::Put(Arc::new(it))
                        }
                        Ok(Some(WatchEvent::Deleted(it))) => Change::Gone(Arc::new(it)),
                        Ok(Some(WatchEvent::Bookmark(_))) => continue,
                        // The end, however it came: whoever listens lists again.
                        Ok(Some(WatchEvent::Error(_)) | None) | Err(_) => break,
                    };
                    if send.send(change).await.is_err() {
                        break;
                    }
                }
            });
            Ok(changes)
        })
    }

    fn create(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(async move {
            let path = path(known(kind)?, object::namespace(&object));
            let created = self.send(Method::POST, path, object.to_string().into_bytes()).await?;
            Ok(Arc::new(created))
        })
    }

    fn update(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(async move {
            let path = item(kind, object::namespace(&object), object::name(&object))?;
            let body = object.to_string().into_bytes();
            Ok(Arc::new(self.send(Method::PUT, path, body).await?))
        })
    }

    fn update_status(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(async move {
            let path = item(kind, object::namespace(&object), object::name(&object))?;
            let body = object.to_string().into_bytes();
            Ok(Arc::new(self.send(Method::PUT, format!("{path}/status"), body).await?))
        })
    }

    fn create_part<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        part: &'a str,
        body: Value,
    ) -> Answer<'a, Arc<Value>> {
        Box::pin(async move {
            let path = format!("{}/{part}", item(kind, namespace, name)?);
            let body = body.to_string().into_bytes();
            Ok(Arc::new(self.send(Method::POST, path, body).await?))
        })
    }

    fn delete<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        deletion: Deletion,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let path = item(kind, namespace, name)?;
            let propagation = match deletion.propagation {
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
                Propagation::Orphan => "Orphan",
            };
            let mut options = json!({
                "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation,
            });
            if let Some(grace) = deletion.grace_s {
                options["gracePeriodSeconds"] = grace.into();
            }
            if let Some(uid) = deletion.uid {
                options["preconditions"]["uid"] = uid.into();
            }
            if let Some(version) = deletion.version {
                options["preconditions"]["resourceVersion"] = version.into();
            }
            let body = options.to_string().into_bytes();
            self.send(Method::DELETE, path, body).await.map(drop)
        })
    }
}
