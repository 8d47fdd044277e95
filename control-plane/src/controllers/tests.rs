//! Tests of all controllers together, on an API that fails and on watches that lose events.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    Settings,
    fake::{Cluster, Fake, Faults},
    start_at,
};
use crate::{
    cache::kinds::{DEPLOYMENTS, NAMESPACES, NODES, PODS, REPLICA_SETS, SERVICES, SLICES},
    object::{list, text},
    runner::{Clock, time},
};

/// A cluster with two nodes, a Service and a Deployment of ten.
fn wishes(seed: u64, faults: Faults) -> Fake {
    let mut cluster = Cluster::new(seed);
    cluster.create(NAMESPACES, json!({"metadata": {"name": "default"}})).unwrap();
    for name in ["a", "b"] {
        let node = json!({"metadata": {"name": name}, "status": {
            "allocatable": {"cpu": "8", "memory": "8Gi", "pods": "110"},
            "conditions": [{
                "type": "Ready", "status": "True", "lastHeartbeatTime": time(cluster.now),
            }],
        }});
        cluster.create(NODES, node).unwrap();
    }
    let web = json!({"namespace": "default", "name": "web"});
    let deployment = json!({"metadata": web, "spec": {
        "replicas": 10, "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        },
    }});
    cluster.create(DEPLOYMENTS, deployment).unwrap();
    let service = json!({"metadata": web, "spec": {
        "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP"}],
    }});
    cluster.create(SERVICES, service).unwrap();
    cluster.faults = faults;
    Fake::new(cluster)
}

fn run(fake: &Fake, identity: Option<&str>) -> Vec<tokio::task::JoinHandle<()>> {
    let now = fake.lock().now;
    let clock: Clock = Arc::new(move || now);
    let identity = identity.map(str::to_owned);
    let settings = Settings { root_ca: "pem".to_owned(), identity, ..Settings::default() };
    start_at(Arc::new(fake.clone()), settings, clock).1
}

/// Lets time pass until the Deployment is as wished, and nothing has been written for a while.
async fn settle(fake: &Fake) -> usize {
    let mut quiet = 0;
    for _ in 0..3000 {
        let before = fake.lock().writes;
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.lock().run_nodes(2, false);
        let cluster = fake.lock();
        quiet = if cluster.writes == before { quiet + 1 } else { 0 };
        let web = cluster.get(DEPLOYMENTS, "default", "web").unwrap();
        if quiet > 100 && web["status"]["availableReplicas"] == web["spec"]["replicas"] {
            return cluster.writes;
        }
    }
    panic!("it does not settle: {:#?}", fake.lock().get(DEPLOYMENTS, "default", "web"));
}

/// What matters in the end: pods by image, sizes of revisions, endpoints.
fn end_state(fake: &Fake) -> Value {
    let cluster = fake.lock();
    let images = cluster.all(PODS).map(|pod| pod["spec"]["containers"][0]["image"].clone());
    let mut sizes: Vec<i64> =
        cluster.all(REPLICA_SETS).map(|set| super::facts::replicas(set)).collect();
    sizes.sort_unstable();
    let endpoints: usize = cluster.all(SLICES).map(|slice| list(slice, &["endpoints"]).len()).sum();
    json!({"images": images.collect::<Vec<_>>(), "sizes": sizes, "endpoints": endpoints})
}

async fn roll(fake: &Fake) {
    settle(fake).await;
    {
        let mut cluster = fake.lock();
        let mut wish = cluster.get(DEPLOYMENTS, "default", "web").unwrap();
        wish["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2".into();
        cluster.update(DEPLOYMENTS, wish, false).unwrap();
    }
    settle(fake).await;
}

#[tokio::test(start_paused = true)]
async fn what_fails_or_is_lost_changes_nothing_in_the_end() {
    let expected = json!({
        "images": vec!["web:2"; 10], "sizes": [0, 10], "endpoints": 1,
    });
    for (seed, call_in, loses_events) in
        [(1, 0, false), (2, 10, false), (3, 0, true), (4, 10, true)]
    {
        let fake = wishes(seed, Faults { call_in, loses_events });
        let tasks = run(&fake, None);
        roll(&fake).await;
        let mut found = end_state(&fake);
        // All simulated pods have the same address.
        if found["endpoints"].as_u64() > Some(1) {
            found["endpoints"] = 1.into();
        }
        assert_eq!(found, expected, "seed {seed}");
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_only_one_acts_and_the_other_takes_over() {
    let fake = wishes(5, Faults::default());
    let first = run(&fake, Some("first"));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = run(&fake, Some("second"));
    let holder = || {
        let lease =
            fake.lock().get(crate::cache::kinds::LEASES, "kube-system", "hashplane-controllers");
        lease.map(|lease| text(&lease, &["spec", "holderIdentity"]).to_owned())
    };
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.lock().run_nodes(1, false);
    }
    assert_eq!(holder().as_deref(), Some("first"));
    assert_eq!(end_state(&fake)["images"].as_array().unwrap().len(), 10);
    first.iter().for_each(tokio::task::JoinHandle::abort);
    {
        let mut cluster = fake.lock();
        let mut wish = cluster.get(DEPLOYMENTS, "default", "web").unwrap();
        wish["spec"]["replicas"] = 3.into();
        cluster.update(DEPLOYMENTS, wish, false).unwrap();
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(end_state(&fake)["sizes"], json!([10]), "the Lease still holds");
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        fake.lock().run_nodes(1, false);
    }
    assert_eq!(holder().as_deref(), Some("second"));
    assert_eq!(end_state(&fake)["sizes"], json!([3]));
    second.iter().for_each(tokio::task::JoinHandle::abort);
}
