//! What the source says when a server lists, watches, forgets, fails and comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::MutexGuard,
    time::Duration,
};

use axum::http::StatusCode;
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use self::server::{Server, Shared, Store};
use crate::{
    model::{Kind, ObjectEvent, ObjectName, ObjectRef},
    source::{Error, Health, KubeSource, SourceEvent},
};

pub(super) mod server;

const WAIT_MAX: Duration = Duration::from_secs(20);

/// A server, a source that reads from it, and everything that the source said.
struct Cluster {
    store: Shared,
    server: Option<Server>,
    port: u16,
    events: mpsc::Receiver<SourceEvent>,
    health: watch::Receiver<Health>,
    objects: BTreeMap<ObjectRef, i32>,
    /// Objects named since the list of the kind began.
    listing: BTreeMap<Kind, BTreeSet<ObjectRef>>,
    problems: Vec<String>,
    synced: usize,
    lists: usize,
    _directory: TempDir,
}

impl Cluster {
    /// With the objects that `fill` stores before the source starts.
    async fn start(fill: impl FnOnce(&mut Store)) -> Self {
        let store = Shared::default();
        fill(&mut store.lock().unwrap());
        let server = Server::start(&store, 0);
        let (directory, port) = (tempfile::tempdir().unwrap(), server.address.port());
        let file = directory.path().join("kubeconfig");
        fs::write(&file, kubeconfig(&format!("http://127.0.0.1:{port}"))).unwrap();
        let source = KubeSource::open(Some(&file), NODE).await.unwrap();
        let health = source.health();
        let (sender, events) = mpsc::channel(16);
        tokio::spawn(source.run(sender));
        Self {
            store,
            server: Some(server),
            port,
            events,
            health,
            objects: BTreeMap::new(),
            listing: BTreeMap::new(),
            problems: Vec::new(),
            synced: 0,
            lists: 0,
            _directory: directory,
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    async fn until(&mut self, is_reached: impl Fn(&Self) -> bool) {
        while !is_reached(self) {
            let event = timeout(WAIT_MAX, self.events.recv()).await;
            let state = (&self.objects, &self.problems);
            let event = event.unwrap_or_else(|_| panic!("nothing more came: {state:?}"));
            match event.expect("the source runs") {
                SourceEvent::Objects(list) => list.into_iter().for_each(|event| self.object(event)),
                SourceEvent::Problems { list, .. } => {
                    self.problems = list.iter().map(ToString::to_string).collect();
                }
            }
        }
    }

    async fn until_port(&mut self, kind: Kind, name: &str, port: i32) {
        let name = reference(kind, name);
        self.until(|cluster| cluster.objects.get(&name) == Some(&port)).await;
    }

    async fn until_health(&mut self, connected: bool) {
        let reached = self.health.wait_for(|health| health.connected == connected);
        timeout(WAIT_MAX, reached).await.expect("in time").expect("the source runs");
    }

    /// Until all kinds are watched, so that what is stored now comes as an event.
    async fn until_watched(&self) {
        let watched = async {
            while self.store().watch_count() < Kind::ALL.len() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(WAIT_MAX, watched).await.expect("all kinds are watched in time");
    }

    fn object(&mut self, event: ObjectEvent) {
        match event {
            ObjectEvent::Service { object, file } => {
                assert_eq!(file, None);
                let port = object.spec.unwrap().ports.unwrap()[0].port;
                self.named(Kind::Service, object.metadata, port);
            }
            ObjectEvent::EndpointSlice { object, file } => {
                assert_eq!(file, None);
                let port = object.ports.unwrap()[0].port.unwrap();
                self.named(Kind::EndpointSlice, object.metadata, port);
            }
            ObjectEvent::Pod { object, file } => {
                assert_eq!(file, None);
                let spec = object.spec.unwrap();
                assert_eq!(spec.node_name.as_deref(), Some(NODE));
                let port = spec.containers[0].ports.as_ref().unwrap()[0].host_port.unwrap();
                self.named(Kind::Pod, object.metadata, port);
            }
            ObjectEvent::Node { object, file } => {
                assert_eq!(file, None);
                let number = object.metadata.generation.unwrap();
                self.named(Kind::Node, object.metadata, number.try_into().unwrap());
            }
            ObjectEvent::Gone(name) => drop(self.objects.remove(&name)),
            ObjectEvent::ListBegin(kind) => drop(self.listing.insert(kind, BTreeSet::new())),
            ObjectEvent::ListEnd(kind) => {
                let named = self.listing.remove(&kind).expect("a list ends that began");
                self.objects.retain(|name, _| name.kind != kind || named.contains(name));
                self.lists += 1;
            }
            ObjectEvent::Synced => {
                assert!(
                    self.lists >= 2 && self.listing.is_empty(),
                    "what can be told is told before"
                );
                self.synced += 1;
            }
        }
    }

    fn named(&mut self, kind: Kind, metadata: Metadata, port: i32) {
        assert_eq!(metadata.managed_fields, None);
        let name =
            ObjectName::new(&metadata.namespace.unwrap_or_default(), &metadata.name.unwrap());
        let name = ObjectRef { kind, name };
        if let Some(named) = self.listing.get_mut(&kind) {
            named.insert(name.clone());
        }
        self.objects.insert(name, port);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abandon();
        }
    }
}

type Metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn reference(kind: Kind, name: &str) -> ObjectRef {
    let namespace = if kind == Kind::Node { "" } else { "shop" };
    ObjectRef { kind, name: ObjectName::new(namespace, name) }
}

pub(super) fn kubeconfig(server: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts:\n- name: c\n  \
         context: {{cluster: c, user: u}}\nclusters:\n- name: c\n  cluster: {{server: \"{server}\"}}\n\
         users:\n- name: u\n  user: {{token: secret}}\n"
    )
}

const SERVICE: Kind = Kind::Service;
const SLICE: Kind = Kind::EndpointSlice;
const NODE: &str = "this-node";

fn web(store: &mut Store) {
    store.put(SERVICE, "web", 80);
    store.put(SLICE, "web-1", 8080);
}

#[tokio::test]
async fn a_list_comes_before_synced_and_changes_come_after() {
    let mut cluster = Cluster::start(web).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    let expected = [(reference(SERVICE, "web"), 80), (reference(SLICE, "web-1"), 8080)];
    assert_eq!(cluster.objects, BTreeMap::from(expected));
    assert!(cluster.health.borrow().connected);
    cluster.until_watched().await;
    cluster.store().put(SERVICE, "web", 81);
    cluster.until_port(SERVICE, "web", 81).await;
    cluster.store().put(SLICE, "web-2", 8081);
    cluster.until_port(SLICE, "web-2", 8081).await;
    cluster.store().delete(SLICE, "web-1");
    cluster.until(|cluster| cluster.objects.len() == 2).await;
    assert_eq!((cluster.lists, cluster.synced, cluster.problems.len()), (4, 1, 0));
}

#[tokio::test]
async fn an_empty_cluster_is_in_sync() {
    let mut cluster = Cluster::start(|_| {}).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    assert!(cluster.objects.is_empty());
}

#[tokio::test]
async fn every_page_of_a_long_list_is_read() {
    let many = |store: &mut Store| (1..=1200).for_each(|i| store.put(SERVICE, &format!("s{i}"), i));
    let mut cluster = Cluster::start(many).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    assert_eq!(cluster.objects.len(), 1200);
    // Three pages of Services, one of each other kind.
    assert_eq!((cluster.lists, cluster.store().lists), (4, 6));
}

#[tokio::test]
async fn a_watch_goes_on_from_the_last_bookmark() {
    let mut cluster = Cluster::start(web).await;
    cluster.until_watched().await;
    cluster.store().bookmark();
    // A change behind the bookmark shows that the bookmark was read, and then history begins there.
    cluster.store().put(SERVICE, "web", 81);
    cluster.store().put(SLICE, "web-1", 8081);
    cluster.until_port(SERVICE, "web", 81).await;
    cluster.until_port(SLICE, "web-1", 8081).await;
    cluster.store().end_watches();
    cluster.until_watched().await;
    cluster.store().put(SERVICE, "web", 82);
    cluster.until_port(SERVICE, "web", 82).await;
    assert_eq!(cluster.store().lists, 4);
    let asked = |query: &BTreeMap<String, String>| query["allowWatchBookmarks"] == "true";
    assert!(cluster.store().watch_queries.iter().all(asked));
}

#[tokio::test]
async fn only_a_bookmark_keeps_an_idle_watch_from_being_too_old() {
    let mut cluster = Cluster::start(web).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    cluster.until_watched().await;
    cluster.store().bookmark();
    cluster.store().end_watches();
    cluster.until_watched().await;
    cluster.store().put(SERVICE, "web", 81);
    cluster.until_port(SERVICE, "web", 81).await;
    assert_eq!((cluster.store().lists, cluster.lists), (4, 4));
}

#[tokio::test]
async fn a_version_that_is_too_old_leads_to_a_new_list() {
    let mut cluster = Cluster::start(web).await;
    cluster.until_watched().await;
    cluster.until(|cluster| cluster.synced == 1).await;
    {
        let mut store = cluster.store();
        store.end_watches();
        store.delete(SERVICE, "web");
        store.put(SERVICE, "mail", 25);
        store.expire_watches();
    }
    cluster.until(|cluster| cluster.lists == 8).await;
    let expected = [(reference(SERVICE, "mail"), 25), (reference(SLICE, "web-1"), 8080)];
    assert_eq!(cluster.objects, BTreeMap::from(expected));
    assert_eq!((cluster.synced, cluster.problems.len()), (1, 0));
}

#[tokio::test]
async fn a_watch_refused_as_too_old_leads_to_a_new_list() {
    let mut cluster = Cluster::start(web).await;
    cluster.until_watched().await;
    cluster.until(|cluster| cluster.synced == 1).await;
    {
        let mut store = cluster.store();
        store.gone_by_status = true;
        store.end_watches();
        store.put(SERVICE, "web", 81);
        store.put(SLICE, "web-1", 8081);
        store.forget();
    }
    cluster.until_port(SERVICE, "web", 81).await;
    cluster.until_port(SLICE, "web-1", 8081).await;
    cluster.until(|cluster| cluster.lists == 8).await;
}

#[tokio::test]
async fn nothing_is_lost_when_connections_drop() {
    let mut cluster = Cluster::start(web).await;
    for port in 100..103 {
        cluster.until_watched().await;
        {
            let mut store = cluster.store();
            store.drop_watches();
            store.put(SERVICE, "web", port);
            store.put(SLICE, "web-1", port);
        }
        cluster.until_port(SERVICE, "web", port.into()).await;
        cluster.until_port(SLICE, "web-1", port.into()).await;
    }
    assert_eq!((cluster.store().lists, cluster.lists), (4, 4));
    cluster.until_health(true).await;
}

#[tokio::test]
async fn a_server_that_goes_away_and_comes_back_is_waited_for() {
    let mut cluster = Cluster::start(web).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    cluster.until_watched().await;
    cluster.server.take().unwrap().stop().await;
    cluster.until(|cluster| cluster.problems.len() == 4).await;
    cluster.until_health(false).await;
    let expected = format!("cannot read every Service from http://127.0.0.1:{}: ", cluster.port);
    assert!(cluster.problems[0].starts_with(&expected), "{:?}", cluster.problems);
    assert_eq!(cluster.objects.len(), 2);
    cluster.store().put(SERVICE, "web", 81);
    cluster.store().delete(SLICE, "web-1");
    cluster.server = Some(Server::start(&cluster.store, cluster.port));
    cluster.until_port(SERVICE, "web", 81).await;
    cluster.until(|cluster| cluster.objects.len() == 1 && cluster.problems.is_empty()).await;
    cluster.until_health(true).await;
    assert_eq!(cluster.synced, 1);
}

#[tokio::test]
async fn a_quiet_server_counts_as_connected_again() {
    let mut cluster = Cluster::start(web).await;
    cluster.until_watched().await;
    {
        let mut store = cluster.store();
        store.refusal = Some(StatusCode::SERVICE_UNAVAILABLE);
        store.drop_watches();
    }
    cluster.until(|cluster| cluster.problems.len() == 4).await;
    cluster.until_health(false).await;
    cluster.store().refusal = None;
    cluster.until(|cluster| cluster.problems.is_empty()).await;
    cluster.until_health(true).await;
}

#[tokio::test]
async fn a_server_that_refuses_is_a_problem_and_no_list() {
    let mut cluster = Cluster::start(|store| store.refusal = Some(StatusCode::UNAUTHORIZED)).await;
    cluster.until(|cluster| cluster.problems.len() == 4).await;
    assert!(cluster.problems[1].contains("Unauthorized"), "{:?}", cluster.problems);
    assert!(!cluster.health.borrow().connected);
    assert!(cluster.listing.is_empty() && cluster.lists == 0);
    web(&mut cluster.store());
    cluster.store().refusal = None;
    cluster.until(|cluster| cluster.synced == 1 && cluster.problems.is_empty()).await;
    assert_eq!(cluster.objects.len(), 2);
}

#[tokio::test]
async fn only_this_node_and_its_pods_are_read() {
    let fill = |store: &mut Store| {
        store.put(Kind::Node, NODE, 1);
        store.put(Kind::Node, "other-node", 1);
        store.put_pod(NODE, "near", 8080);
        store.put_pod("other-node", "far", 8080);
    };
    let mut cluster = Cluster::start(fill).await;
    cluster.until(|cluster| cluster.synced == 1).await;
    let expected = [(reference(Kind::Pod, "near"), 8080), (reference(Kind::Node, NODE), 1)];
    assert_eq!(cluster.objects, BTreeMap::from(expected));
    cluster.until_watched().await;
    {
        let mut store = cluster.store();
        store.put_pod("other-node", "far", 8081);
        store.put(Kind::Node, "other-node", 2);
        store.put_pod(NODE, "near", 8082);
        store.put(Kind::Node, NODE, 2);
    }
    cluster.until_port(Kind::Pod, "near", 8082).await;
    cluster.until_port(Kind::Node, NODE, 2).await;
    assert_eq!(cluster.objects.len(), 2);
    cluster.store().delete(Kind::Pod, "near");
    cluster.until(|cluster| cluster.objects.len() == 1).await;
}

#[tokio::test]
async fn services_are_in_sync_where_pods_and_nodes_may_not_be_read() {
    let fill = |store: &mut Store| {
        web(store);
        store.put(Kind::Node, NODE, 1);
        let forbidden = [Kind::Pod, Kind::Node].map(|kind| (kind, StatusCode::FORBIDDEN));
        store.refusals = BTreeMap::from(forbidden);
    };
    let mut cluster = Cluster::start(fill).await;
    cluster.until(|cluster| cluster.synced == 1 && cluster.problems.len() == 2).await;
    assert_eq!(cluster.objects.len(), 2);
    let expected = ["cannot read the Pods of this node from ", "cannot read the Node object of "];
    for (problem, expected) in cluster.problems.iter().zip(expected) {
        assert!(problem.starts_with(expected), "{problem}");
    }
    cluster.until_health(true).await;
    // What is allowed later is read later.
    cluster.store().refusals.clear();
    cluster.until_port(Kind::Node, NODE, 1).await;
    cluster.until(|cluster| cluster.problems.is_empty() && cluster.lists == 4).await;
    assert_eq!(cluster.synced, 1);
}

#[tokio::test]
async fn nothing_is_in_sync_while_pods_fail_for_another_reason() {
    let fill = |store: &mut Store| {
        web(store);
        store.refusals = BTreeMap::from([(Kind::Pod, StatusCode::SERVICE_UNAVAILABLE)]);
    };
    let mut cluster = Cluster::start(fill).await;
    cluster.until(|cluster| cluster.lists == 3 && cluster.problems.len() == 1).await;
    assert_eq!((cluster.synced, cluster.health.borrow().connected), (0, false));
    cluster.store().refusals.clear();
    cluster.until(|cluster| cluster.synced == 1 && cluster.problems.is_empty()).await;
}

#[tokio::test]
async fn the_source_ends_when_nobody_listens() {
    let cluster = Cluster::start(web).await;
    let mut health = cluster.health.clone();
    let (_, closed) = mpsc::channel(1);
    let mut cluster = cluster;
    cluster.events = closed;
    let ended = async { while health.changed().await.is_ok() {} };
    timeout(WAIT_MAX, ended).await.expect("the source drops its health when it ends");
}

#[tokio::test]
async fn a_bad_kubeconfig_is_one_clear_sentence() {
    let open = async |file: &Path| KubeSource::open(Some(file), NODE).await.unwrap_err();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kubeconfig");
    let error = open(&file).await;
    assert!(matches!(error, Error::Kubeconfig { .. }), "{error}");
    let expected = format!("cannot use kubeconfig {}: ", file.display());
    for text in ["{", "apiVersion: v1\nkind: Config\n", &kubeconfig("not a url")] {
        fs::write(&file, text).unwrap();
        let error = open(&file).await.to_string();
        assert!(error.starts_with(&expected) && !error.contains('\n'), "{error}");
    }
    let no_certificate = kubeconfig("https://127.0.0.1:1").replace(
        "user: {token: secret}",
        "user: {client-certificate: /missing, client-key: /missing}",
    );
    fs::write(&file, no_certificate).unwrap();
    let error = open(&file).await;
    let expected = "cannot make a client for the Kubernetes API server https://127.0.0.1:1: ";
    assert!(error.to_string().starts_with(expected), "{error}");
}
