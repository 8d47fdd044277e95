//! Conditions and Events over HTTP: a server, sources that read from it, tables, and heralds.

use std::{fs, sync::MutexGuard};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

use super::*;
use crate::{
    model::{NodeIdentity, ServiceTable},
    source::{
        KubeSource, SourceEvent,
        api::tests::{
            kubeconfig,
            server::{Server, Shared, Store},
        },
        standing::Standings,
        verdict::CONDITION,
    },
};

const WAIT_MAX: Duration = Duration::from_secs(20);
const PACE: Pace = Pace {
    spread: Duration::from_millis(200),
    pause: Duration::from_millis(1),
    again: (Duration::from_millis(20), Duration::from_millis(200)),
};

struct Cluster {
    store: Shared,
    server: Option<Server>,
    directory: TempDir,
}

impl Cluster {
    fn start(fill: impl FnOnce(&mut Store)) -> Self {
        let store = Shared::default();
        fill(&mut store.lock().unwrap());
        let server = Server::start(&store, 0);
        let directory = tempfile::tempdir().unwrap();
        let text = kubeconfig(&format!("http://{}", server.address));
        fs::write(directory.path().join("kubeconfig"), text).unwrap();
        Self { store, server: Some(server), directory }
    }

    /// What a daemon does with problems, without a kernel.
    async fn node(&self, name: &str) {
        let file = self.directory.path().join("kubeconfig");
        let source = KubeSource::open(Some(&file), name).await.unwrap();
        let mut standings = Standings::new();
        tokio::spawn(source.herald().with_pace(PACE).run(standings.subscribe()));
        let (sender, mut events) = mpsc::channel(16);
        tokio::spawn(source.run(sender));
        let mut table = ServiceTable::new(NodeIdentity::new(name, []));
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let SourceEvent::Objects(objects) = event else { continue };
                for object in objects {
                    standings.look_at(&object);
                    table.apply(object);
                }
                if table.is_synced() {
                    standings.tell(&table.problems());
                }
            }
        });
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    async fn until(&self, what: &str, is_reached: impl Fn(&Store) -> bool) {
        let reached = async {
            while !is_reached(&self.store()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let reached = timeout(WAIT_MAX, reached).await;
        reached.unwrap_or_else(|_| panic!("{what}: {:#?}", self.store().written));
    }

    async fn until_condition(&self, status: &str) {
        let is_it = |store: &Store| condition(store).is_some_and(|it| it["status"] == status);
        self.until(&format!("the condition is {status}"), is_it).await;
    }

    /// Long enough for every delay of every node to end.
    async fn settle(&self) {
        let longest = PACE.spread + PACE.again.1;
        tokio::time::sleep(longest * 3).await;
    }

    fn log(&self) -> Vec<String> {
        self.store().written.log.clone()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abandon();
        }
    }
}

fn put(store: &mut Store, timeout_s: u32) {
    store.put_service(
        "web",
        json!({
            "clusterIP": "10.96.0.1",
            "ports": [{"port": 80}],
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout_s}},
        }),
    );
}

fn good(store: &mut Store) {
    put(store, 60);
}

fn bad(store: &mut Store) {
    put(store, 90_000);
}

fn condition(store: &Store) -> Option<Value> {
    let service = store.object(crate::model::Kind::Service, "web")?;
    let conditions = service["status"]["conditions"].as_array()?;
    conditions.iter().find(|condition| condition["type"] == CONDITION).cloned()
}

#[tokio::test]
async fn a_problem_becomes_a_condition_and_an_event_until_it_is_mended() {
    let cluster = Cluster::start(|store| {
        bad(store);
        let of_others = json!([{
            "type": "of.others/Condition", "status": "True", "reason": "Fine", "message": "all is well",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]);
        store.set_conditions("web", &of_others);
        store.put_service("fine", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}));
    });
    cluster.node("node-1").await;
    cluster.until_condition("False").await;
    cluster.until("the event", |store| store.written.events.len() == 1).await;
    let complaint = "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 90000 s is not a timeout of \
                     session affinity (1-86400); the Service has none";
    let seen = condition(&cluster.store()).unwrap();
    assert_eq!(
        (&seen["reason"], &seen["message"]),
        (&json!("AffinityOutOfRange"), &json!(complaint))
    );
    let event = cluster.store().written.events.values().next().cloned().unwrap();
    for (field, expected) in [
        ("type", "Warning"),
        ("reason", "AffinityOutOfRange"),
        ("note", complaint),
        ("reportingController", "hashplane"),
        ("reportingInstance", "node-1"),
    ] {
        assert_eq!(event[field], expected, "{event}");
    }
    let regarding = &event["regarding"];
    for (field, expected) in [("kind", "Service"), ("name", "web"), ("uid", "uid-of-web")] {
        assert_eq!(regarding[field], expected, "{event}");
    }
    good(&mut cluster.store());
    cluster.until_condition("True").await;
    cluster.settle().await;
    let store = cluster.store();
    let service = store.object(crate::model::Kind::Service, "web").unwrap();
    assert_eq!(service["status"]["conditions"].as_array().unwrap().len(), 2, "{service}");
    // Services that never had a problem are left alone, and nothing is written twice.
    let event = format!("event {}", event["metadata"]["name"].as_str().unwrap());
    assert_eq!(store.written.log, ["condition web", &event, "condition web"]);
}

#[tokio::test]
async fn a_problem_that_comes_back_is_counted() {
    let cluster = Cluster::start(bad);
    cluster.node("node-1").await;
    for count in [None, Some(2), Some(3)] {
        cluster.until_condition("False").await;
        let counted = |store: &Store| {
            let mut events = store.written.events.values();
            events.next().is_some_and(|event| event["series"]["count"].as_i64() == count)
        };
        cluster.until(&format!("it is counted: {count:?}"), counted).await;
        good(&mut cluster.store());
        cluster.until_condition("True").await;
        bad(&mut cluster.store());
    }
    // The server has forgotten the Event.
    cluster.store().written.events.clear();
    cluster.until_condition("False").await;
    cluster.until("it is made anew", |store| store.written.events.len() == 1).await;
}

#[tokio::test]
async fn many_nodes_say_it_once() {
    let cluster = Cluster::start(bad);
    for number in 0..8 {
        cluster.node(&format!("node-{number}")).await;
    }
    cluster.until_condition("False").await;
    cluster.settle().await;
    let before = cluster.log();
    // Some may have looked before the first one had written; nobody goes on writing.
    assert_eq!(cluster.store().written.events.len(), 1);
    assert!(before.len() <= 16, "{before:?}");
    cluster.settle().await;
    assert_eq!(cluster.log(), before);
    good(&mut cluster.store());
    cluster.until_condition("True").await;
    cluster.settle().await;
    assert_eq!(condition(&cluster.store()).unwrap()["status"], "True");
    assert_eq!(cluster.store().written.events.len(), 1);
}

#[tokio::test]
async fn who_may_not_write_conditions_makes_one_event_and_is_quiet() {
    let cluster = Cluster::start(|store| {
        bad(store);
        store.written.condition_refusal = Some(StatusCode::FORBIDDEN);
    });
    cluster.node("node-1").await;
    cluster.until("the event", |store| store.written.events.len() == 1).await;
    cluster.settle().await;
    assert_eq!(cluster.log().len(), 2, "{:?}", cluster.log());
    // What changes in another way is no reason to say it again.
    cluster.store().put_service("fine", json!({"clusterIP": "10.96.0.2", "ports": [{"port": 80}]}));
    bad(&mut cluster.store());
    cluster.settle().await;
    assert_eq!(cluster.log().len(), 2, "{:?}", cluster.log());
    put(&mut cluster.store(), 100_000);
    cluster.until("another problem", |store| store.written.events.len() == 2).await;
}

#[tokio::test]
async fn who_may_not_write_events_writes_conditions() {
    let cluster = Cluster::start(|store| {
        bad(store);
        store.written.event_refusal = Some(StatusCode::FORBIDDEN);
    });
    cluster.node("node-1").await;
    cluster.until_condition("False").await;
    good(&mut cluster.store());
    cluster.until_condition("True").await;
    bad(&mut cluster.store());
    cluster.until_condition("False").await;
    cluster.settle().await;
    let events = cluster.log().iter().filter(|line| line.starts_with("event ")).count();
    assert_eq!(events, 1, "{:?}", cluster.log());
}

#[tokio::test]
async fn a_server_that_does_not_take_a_condition_is_asked_again() {
    let cluster = Cluster::start(|store| {
        bad(store);
        store.written.condition_refusal = Some(StatusCode::INTERNAL_SERVER_ERROR);
    });
    cluster.node("node-1").await;
    cluster.until("three attempts", |store| store.written.log.len() >= 3).await;
    cluster.store().written.condition_refusal = None;
    cluster.until_condition("False").await;
    cluster.until("the event", |store| store.written.events.len() == 1).await;
}

#[tokio::test]
async fn a_condition_that_an_earlier_process_left_is_corrected() {
    let old = json!([{
        "type": CONDITION, "status": "False", "reason": "NotAPort", "message": "old",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    let cluster = Cluster::start(|store| {
        good(store);
        store.set_conditions("web", &old);
    });
    cluster.node("node-1").await;
    cluster.until_condition("True").await;
    assert!(cluster.store().written.events.is_empty());
}

#[test]
fn nodes_that_disagree_slow_down() {
    let pace = Pace::default();
    let delay = |count| {
        let attempts = Attempts { count, last: Instant::now() };
        pace.delay(Some(&attempts)).as_secs()
    };
    assert_eq!(pace.delay(None), Duration::ZERO);
    assert_eq!([1, 2, 3, 30, u32::MAX].map(delay), [2, 4, 8, 600, 600]);
}

#[test]
fn nodes_look_at_different_times() {
    let name = ObjectName::new("shop", "web");
    let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let client = Client::try_from(config).unwrap();
    let spread = |node: u32| {
        let herald = Herald::new(client.clone(), &format!("node-{node}"));
        herald.spread(&name)
    };
    let looks: std::collections::BTreeSet<Duration> = (0..256).map(spread).collect();
    assert!(looks.len() > 128, "{}", looks.len());
    assert!(looks.iter().all(|look| *look < Pace::default().spread));
}
