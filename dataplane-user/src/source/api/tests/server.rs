//! An HTTP server with lists and watches as Kubernetes has them, which fails on demand.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::mpsc};

use crate::model::Kind;

/// What the server stores; it outlives the server.
#[derive(Debug, Default)]
pub(super) struct Store {
    version: u64,
    objects: BTreeMap<(Kind, String), Value>,
    /// Version, kind and watch event, oldest first.
    history: Vec<(u64, Kind, String)>,
    /// Watches from before this version are refused.
    oldest: u64,
    watches: Vec<(Kind, mpsc::UnboundedSender<io::Result<Bytes>>)>,
    /// Every answer has this status.
    pub(super) refusal: Option<StatusCode>,
    /// A watch that is too old is refused by status and not by an event.
    pub(super) gone_by_status: bool,
    /// Lists and watches that were asked for.
    pub(super) lists: usize,
    pub(super) watch_queries: Vec<BTreeMap<String, String>>,
}

pub(super) type Shared = Arc<Mutex<Store>>;

impl Store {
    pub(super) fn put(&mut self, kind: Kind, name: &str, port: u16) {
        self.version += 1;
        let mut object = object(kind, name, port);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.insert((kind, name.into()), object.clone());
        self.event(kind, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(super) fn delete(&mut self, kind: Kind, name: &str) {
        self.version += 1;
        let mut object = self.objects.remove(&(kind, name.into())).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.event(kind, "DELETED", &object);
    }

    /// Tells every watch the present version, and forgets what led to it.
    pub(super) fn bookmark(&mut self) {
        self.version += 1;
        let metadata = json!({"resourceVersion": self.version.to_string()});
        for kind in [Kind::Service, Kind::EndpointSlice] {
            let (version, name) = api(kind);
            let object = json!({"apiVersion": version, "kind": name, "metadata": metadata});
            self.event(kind, "BOOKMARK", &object);
        }
        self.forget();
    }

    /// As if the history until now was compacted.
    pub(super) fn forget(&mut self) {
        self.history.clear();
        self.oldest = self.version;
    }

    /// Says to each watch that its version is too old.
    pub(super) fn expire_watches(&mut self) {
        self.forget();
        for (_, watch) in self.watches.drain(..) {
            let _ = watch.send(Ok(gone_event()));
        }
    }

    /// Resets every connection with a watch in it.
    pub(super) fn drop_watches(&mut self) {
        for (_, watch) in self.watches.drain(..) {
            let _ = watch.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Ends every watch in good order, as the server does after some minutes.
    pub(super) fn end_watches(&mut self) {
        self.watches.clear();
    }

    pub(super) fn watch_count(&self) -> usize {
        self.watches.iter().filter(|(_, watch)| !watch.is_closed()).count()
    }

    fn event(&mut self, kind: Kind, what: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": what, "object": object}));
        self.history.push((self.version, kind, line.clone()));
        let to_kind = self.watches.iter().filter(|(of, _)| *of == kind);
        to_kind.for_each(|(_, watch)| drop(watch.send(Ok(line.clone().into()))));
    }

    fn list(&self, kind: Kind, query: &BTreeMap<String, String>) -> Value {
        let of_kind = self.objects.iter().filter(|((of, _), _)| *of == kind);
        let number = |name| query.get(name).and_then(|text| text.parse::<usize>().ok());
        let (begin, limit) = (number("continue").unwrap_or(0), number("limit").unwrap_or(500));
        let items: Vec<&Value> =
            of_kind.skip(begin).take(limit).map(|(_, object)| object).collect();
        let is_last = items.len() < limit;
        let next = if is_last { String::new() } else { (begin + limit).to_string() };
        let (version, name) = api(kind);
        json!({
            "apiVersion": version,
            "kind": format!("{name}List"),
            "metadata": {"resourceVersion": self.version.to_string(), "continue": next},
            "items": items,
        })
    }

    fn watch(&mut self, kind: Kind, query: BTreeMap<String, String>) -> Response {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        self.watch_queries.push(query);
        if from < self.oldest && self.gone_by_status {
            return refuse(StatusCode::GONE);
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        if from < self.oldest {
            sender.send(Ok(gone_event())).unwrap();
        } else {
            let missed = self.history.iter().filter(|(at, of, _)| *at > from && *of == kind);
            missed.for_each(|(_, _, line)| sender.send(Ok(line.clone().into())).unwrap());
            self.watches.push((kind, sender));
        }
        let lines = futures::stream::poll_fn(move |context| receiver.poll_recv(context));
        Body::from_stream(lines.fuse()).into_response()
    }
}

fn api(kind: Kind) -> (&'static str, &'static str) {
    match kind {
        Kind::Service => ("v1", "Service"),
        Kind::EndpointSlice => ("discovery.k8s.io/v1", "EndpointSlice"),
        Kind::Pod => ("v1", "Pod"),
        Kind::Node => ("v1", "Node"),
    }
}

fn object(kind: Kind, name: &str, port: u16) -> Value {
    let (version, kind_name) = api(kind);
    let managed = json!([{"manager": "kubectl", "operation": "Apply", "fieldsType": "FieldsV1"}]);
    let metadata = json!({"name": name, "namespace": "shop", "managedFields": managed});
    match kind {
        Kind::Service => json!({
            "apiVersion": version, "kind": kind_name, "metadata": metadata,
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": port}]},
        }),
        Kind::EndpointSlice => json!({
            "apiVersion": version, "kind": kind_name, "metadata": metadata,
            "addressType": "IPv4", "endpoints": [], "ports": [{"port": port}],
        }),
        Kind::Pod | Kind::Node => {
            json!({"apiVersion": version, "kind": kind_name, "metadata": metadata})
        }
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "message": reason, "reason": reason, "code": code,
    })
}

fn gone_event() -> Bytes {
    format!("{}\n", json!({"type": "ERROR", "object": status(410, "Expired")})).into()
}

fn refuse(code: StatusCode) -> Response {
    let reason = code.canonical_reason().unwrap_or_default();
    (code, Json(status(code.as_u16(), reason))).into_response()
}

/// A running server. It has a runtime of its own: stopping that closes every connection.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    runtime: Runtime,
}

impl Server {
    /// Serves on `port`, or on a free one when that is 0.
    pub(super) fn start(store: &Shared, port: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let routes = Router::new()
            .route("/api/v1/services", get(services))
            .route("/apis/discovery.k8s.io/v1/endpointslices", get(slices))
            .with_state(Arc::clone(store));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        Self { address, runtime }
    }

    pub(super) async fn stop(self) {
        let stop = move || self.runtime.shutdown_timeout(Duration::from_secs(5));
        tokio::task::spawn_blocking(stop).await.unwrap();
    }

    /// For the end of a test, where nobody can wait.
    pub(super) fn abandon(self) {
        self.runtime.shutdown_background();
    }
}

async fn services(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::Service, &query.unwrap_or_default())
}

async fn slices(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::EndpointSlice, &query.unwrap_or_default())
}

fn answer(store: &Shared, kind: Kind, query: &str) -> Response {
    let parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let query: BTreeMap<String, String> =
        parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut store = store.lock().unwrap();
    if let Some(code) = store.refusal {
        return refuse(code);
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        return store.watch(kind, query);
    }
    store.lists += 1;
    Json(store.list(kind, &query)).into_response()
}
