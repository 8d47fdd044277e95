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

use self::writes::Written;
use crate::model::Kind;

mod writes;

/// What the server stores; it outlives the server.
#[derive(Debug, Default)]
pub(in crate::source::api) struct Store {
    version: u64,
    objects: BTreeMap<(Kind, String), Value>,
    /// Oldest first.
    history: Vec<Change>,
    /// Watches from before this version are refused.
    oldest: u64,
    watches: Vec<Watch>,
    /// Every answer has this status.
    pub(in crate::source::api) refusal: Option<StatusCode>,
    /// Every answer about one of these kinds has this status.
    pub(in crate::source::api) refusals: BTreeMap<Kind, StatusCode>,
    /// A watch that is too old is refused by status and not by an event.
    pub(in crate::source::api) gone_by_status: bool,
    /// Lists and watches that were asked for.
    pub(in crate::source::api) lists: usize,
    pub(in crate::source::api) written: Written,
    pub(in crate::source::api) watch_queries: Vec<BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Change {
    version: u64,
    kind: Kind,
    object: Value,
    line: String,
}

impl Change {
    /// A bookmark is for everybody.
    fn is_for(&self, selector: &Selector) -> bool {
        selector.selects(&self.object) || self.object["metadata"].get("name").is_none()
    }
}

#[derive(Debug)]
struct Watch {
    kind: Kind,
    selector: Selector,
    lines: mpsc::UnboundedSender<io::Result<Bytes>>,
}

/// A field selector: path and value, if there is one.
#[derive(Clone, Debug)]
struct Selector(Option<(String, String)>);

impl Selector {
    fn of(query: &BTreeMap<String, String>) -> Self {
        let text = query.get("fieldSelector").map(|text| text.replace("%3D", "="));
        let pair = text.and_then(|text| {
            let (path, value) = text.split_once('=')?;
            Some((format!("/{}", path.replace('.', "/")), value.to_owned()))
        });
        Self(pair)
    }

    fn selects(&self, object: &Value) -> bool {
        let field = |path: &str| object.pointer(path).and_then(Value::as_str);
        self.0.as_ref().is_none_or(|(path, value)| field(path) == Some(value))
    }
}

pub(in crate::source::api) type Shared = Arc<Mutex<Store>>;

impl Store {
    pub(in crate::source::api) fn put(&mut self, kind: Kind, name: &str, port: u16) {
        self.put_object(kind, name, object(kind, name, port));
    }

    /// A Pod on some node.
    pub(in crate::source::api) fn put_pod(&mut self, node: &str, name: &str, host_port: u16) {
        let mut object = object(Kind::Pod, name, host_port);
        object["spec"]["nodeName"] = node.into();
        self.put_object(Kind::Pod, name, object);
    }

    /// A Service. What stands in its status stays, as it does at an API server.
    pub(in crate::source::api) fn put_service(&mut self, name: &str, spec: Value) {
        let mut object = object(Kind::Service, name, 80);
        object["spec"] = spec;
        if let Some(before) = self.object(Kind::Service, name) {
            object["status"] = before["status"].clone();
        }
        self.put_object(Kind::Service, name, object);
    }

    pub(in crate::source::api) fn set_conditions(&mut self, name: &str, conditions: &Value) {
        let mut object = self.object(Kind::Service, name).unwrap().clone();
        object["status"] = json!({"conditions": conditions});
        self.put_object(Kind::Service, name, object);
    }

    pub(in crate::source::api) fn object(&self, kind: Kind, name: &str) -> Option<&Value> {
        self.objects.get(&(kind, name.to_owned()))
    }

    fn put_object(&mut self, kind: Kind, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["uid"] = format!("uid-of-{name}").into();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let before = self.objects.insert((kind, name.into()), object.clone());
        self.event(kind, if before.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub(in crate::source::api) fn delete(&mut self, kind: Kind, name: &str) {
        self.version += 1;
        let mut object = self.objects.remove(&(kind, name.into())).unwrap();
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.event(kind, "DELETED", &object);
    }

    /// Tells every watch the present version, and forgets what led to it.
    pub(in crate::source::api) fn bookmark(&mut self) {
        self.version += 1;
        let metadata = json!({"resourceVersion": self.version.to_string()});
        for kind in Kind::ALL {
            let (version, name) = api(kind);
            let object = json!({"apiVersion": version, "kind": name, "metadata": metadata});
            self.event(kind, "BOOKMARK", &object);
        }
        self.forget();
    }

    /// As if the history until now was compacted.
    pub(in crate::source::api) fn forget(&mut self) {
        self.history.clear();
        self.oldest = self.version;
    }

    /// Says to each watch that its version is too old.
    pub(in crate::source::api) fn expire_watches(&mut self) {
        self.forget();
        for watch in self.watches.drain(..) {
            let _ = watch.lines.send(Ok(gone_event()));
        }
    }

    /// Resets every connection with a watch in it.
    pub(in crate::source::api) fn drop_watches(&mut self) {
        for watch in self.watches.drain(..) {
            let _ = watch.lines.send(Err(io::ErrorKind::ConnectionReset.into()));
        }
    }

    /// Ends every watch in good order, as the server does after some minutes.
    pub(in crate::source::api) fn end_watches(&mut self) {
        self.watches.clear();
    }

    pub(in crate::source::api) fn watch_count(&self) -> usize {
        self.watches.iter().filter(|watch| !watch.lines.is_closed()).count()
    }

    fn refusal_of(&self, kind: Kind) -> Option<StatusCode> {
        self.refusal.or_else(|| self.refusals.get(&kind).copied())
    }

    fn event(&mut self, kind: Kind, what: &str, object: &Value) {
        let line = format!("{}\n", json!({"type": what, "object": object}));
        let object = object.clone();
        self.history.push(Change { version: self.version, kind, object, line });
        let Some(change) = self.history.last() else { return };
        let of_kind = self.watches.iter().filter(|watch| watch.kind == kind);
        for watch in of_kind.filter(|watch| change.is_for(&watch.selector)) {
            drop(watch.lines.send(Ok(change.line.clone().into())));
        }
    }

    fn list(&self, kind: Kind, query: &BTreeMap<String, String>) -> Value {
        let selector = Selector::of(query);
        let of_kind =
            self.objects.iter().filter(|((of, _), object)| *of == kind && selector.selects(object));
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
        let selector = Selector::of(&query);
        self.watch_queries.push(query);
        if from < self.oldest && self.gone_by_status {
            return refuse(StatusCode::GONE);
        }
        let (sender, mut receiver) = mpsc::unbounded_channel();
        if from < self.oldest {
            sender.send(Ok(gone_event())).unwrap();
        } else {
            let missed = |change: &&Change| {
                change.version > from && change.kind == kind && change.is_for(&selector)
            };
            for change in self.history.iter().filter(missed) {
                sender.send(Ok(change.line.clone().into())).unwrap();
            }
            self.watches.push(Watch { kind, selector, lines: sender });
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
        Kind::Pod => json!({
            "apiVersion": version, "kind": kind_name, "metadata": metadata,
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": port}]}]},
        }),
        Kind::Node => json!({
            "apiVersion": version, "kind": kind_name,
            "metadata": {"name": name, "managedFields": managed, "generation": port},
        }),
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
pub(in crate::source::api) struct Server {
    pub(in crate::source::api) address: SocketAddr,
    runtime: Runtime,
}

impl Server {
    /// Serves on `port`, or on a free one when that is 0.
    pub(in crate::source::api) fn start(store: &Shared, port: u16) -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let routes = Router::new()
            .route("/api/v1/services", get(services))
            .route("/apis/discovery.k8s.io/v1/endpointslices", get(slices))
            .route("/api/v1/pods", get(pods))
            .route("/api/v1/nodes", get(nodes))
            .with_state(Arc::clone(store))
            .merge(writes::routes(store));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, routes).await.unwrap();
        });
        Self { address, runtime }
    }

    pub(in crate::source::api) async fn stop(self) {
        let stop = move || self.runtime.shutdown_timeout(Duration::from_secs(5));
        tokio::task::spawn_blocking(stop).await.unwrap();
    }

    /// For the end of a test, where nobody can wait.
    pub(in crate::source::api) fn abandon(self) {
        self.runtime.shutdown_background();
    }
}

async fn services(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::Service, &query.unwrap_or_default())
}

async fn slices(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::EndpointSlice, &query.unwrap_or_default())
}

async fn pods(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::Pod, &query.unwrap_or_default())
}

async fn nodes(State(store): State<Shared>, RawQuery(query): RawQuery) -> Response {
    answer(&store, Kind::Node, &query.unwrap_or_default())
}

fn answer(store: &Shared, kind: Kind, query: &str) -> Response {
    let parameters = query.split('&').filter_map(|parameter| parameter.split_once('='));
    let query: BTreeMap<String, String> =
        parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut store = store.lock().unwrap();
    if let Some(code) = store.refusal_of(kind) {
        return refuse(code);
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        return store.watch(kind, query);
    }
    store.lists += 1;
    Json(store.list(kind, &query)).into_response()
}
