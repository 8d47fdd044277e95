//! Tests of ReplicaSets.

use proptest::prelude::*;

use super::*;
use crate::{
    cache::kinds::PODS,
    controllers::fake::Cluster,
    runner::{Report, time},
};

fn set(replicas: i64) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    cluster.all(PODS).map(|pod| Value::clone(pod)).collect()
}

#[test]
fn there_are_as_many_pods_as_wished() {
    let mut cluster = Cluster::new(1);
    cluster.create(REPLICA_SETS, set(3)).unwrap();
    cluster.converge(&[&Replicas], true);
    let status = cluster.get(REPLICA_SETS, "default", "web").unwrap()["status"].clone();
    let expected = json!({
        "replicas": 3, "fullyLabeledReplicas": 3, "readyReplicas": 3, "availableReplicas": 3,
        "observedGeneration": 1,
    });
    assert_eq!(status, expected);
    let mut wish = cluster.get(REPLICA_SETS, "default", "web").unwrap();
    wish["spec"]["replicas"] = 1.into();
    cluster.update(REPLICA_SETS, wish, false).unwrap();
    cluster.converge(&[&Replicas], true);
    assert_eq!(pods(&cluster).len(), 1);
    let owner = &pods(&cluster)[0]["metadata"]["ownerReferences"][0];
    assert_eq!(owner["controller"], true);
    assert_eq!(owner["name"], "web");
}

#[test]
fn strangers_are_adopted_and_renegades_let_go() {
    let mut cluster = Cluster::new(1);
    let orphan = json!({"metadata": {
        "namespace": "default", "name": "orphan", "labels": {"app": "web"},
    }});
    cluster.create(PODS, orphan).unwrap();
    cluster.create(REPLICA_SETS, set(2)).unwrap();
    cluster.converge(&[&Replicas], true);
    assert_eq!(pods(&cluster).len(), 2);
    let mut renegade = cluster.get(PODS, "default", "orphan").unwrap();
    assert_eq!(renegade["metadata"]["ownerReferences"][0]["name"], "web");
    renegade["metadata"]["labels"]["app"] = "other".into();
    cluster.update(PODS, renegade, false).unwrap();
    cluster.converge(&[&Replicas], true);
    assert_eq!(pods(&cluster).len(), 3);
    let free = cluster.get(PODS, "default", "orphan").unwrap();
    assert!(at(&free, &["metadata", "ownerReferences"]).is_none());
}

#[test]
fn replication_controllers_have_plain_selectors() {
    let mut cluster = Cluster::new(1);
    let mut wish = set(2);
    wish["spec"]["selector"] = json!({"app": "web"});
    cluster.create(REPLICATION_CONTROLLERS, wish).unwrap();
    cluster.converge(&[&Replicas], true);
    assert_eq!(pods(&cluster).len(), 2);
}

#[test]
fn a_pod_counts_as_available_after_min_ready_seconds() {
    let mut cluster = Cluster::new(1);
    let mut wish = set(1);
    wish["spec"]["minReadySeconds"] = 30.into();
    cluster.create(REPLICA_SETS, wish).unwrap();
    cluster.converge(&[&Replicas], true);
    let key = Key::new(REPLICA_SETS, "default", "web");
    let status = |cluster: &Cluster| cluster.objects[&key]["status"]["availableReplicas"].clone();
    assert!(status(&cluster).is_null());
    let again = Replicas.plan(&key, &cluster.view(), cluster.now);
    assert_eq!(again, [Action::Again(std::time::Duration::from_secs(30))]);
    cluster.pass(30);
    cluster.converge(&[&Replicas], true);
    assert_eq!(status(&cluster), 1);
}

#[test]
fn a_failure_becomes_a_condition() {
    let mut cluster = Cluster::new(1);
    cluster.create(REPLICA_SETS, set(1)).unwrap();
    let key = Key::new(REPLICA_SETS, "default", "web");
    let mut view = cluster.view();
    view.set_failure(NAME, &key, Some("quota".into()));
    let actions = Replicas.plan(&key, &view, cluster.now);
    let Some(Action::Status(_, set)) = actions.first() else { panic!("{actions:?}") };
    assert_eq!(set["status"]["conditions"][0]["reason"], "FailedCreate");
    assert_eq!(set["status"]["conditions"][0]["message"], "quota");
}

/// A pod, with what its rank looks at.
fn ranked(change: impl Fn(&mut Value)) -> Value {
    let now = Timestamp::from_second(1_700_000_000).unwrap();
    let mut pod = json!({
        "metadata": {"name": "x", "creationTimestamp": time(now)},
        "spec": {"nodeName": "a"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time(now)}],
        },
    });
    change(&mut pod);
    pod
}

#[test]
fn those_who_serve_least_go_first() {
    let now = Timestamp::from_second(1_700_010_000).unwrap();
    let old = time(Timestamp::from_second(1_600_000_000).unwrap());
    let order = [
        ranked(|pod| pod["spec"]["nodeName"] = "".into()),
        ranked(|pod| pod["status"]["phase"] = "Pending".into()),
        ranked(|pod| pod["status"]["phase"] = "Unknown".into()),
        ranked(|pod| pod["status"]["conditions"] = json!([])),
        ranked(|pod| pod["metadata"]["annotations"] = json!({DELETION_COST: "-5"})),
        ranked(|pod| pod["spec"]["nodeName"] = "crowded".into()),
        ranked(|pod| pod["status"]["containerStatuses"] = json!([{"restartCount": 9}])),
        ranked(|_| {}),
        ranked(|pod| pod["metadata"]["creationTimestamp"] = old.clone()),
        ranked(|pod| pod["status"]["conditions"][0]["lastTransitionTime"] = old.clone()),
        ranked(|pod| pod["metadata"]["annotations"] = json!({DELETION_COST: "5"})),
    ];
    let near = BTreeMap::from([("crowded".to_owned(), 5), ("a".to_owned(), 2)]);
    for pair in order.windows(2) {
        assert!(rank(&pair[0], &near, now) < rank(&pair[1], &near, now), "{pair:#?}");
    }
}

proptest! {
    #[test]
    fn every_size_is_reached(sizes in prop::collection::vec(0_i64..20, 1..5), seed in 1_u64..99) {
        let mut cluster = Cluster::new(seed);
        cluster.create(REPLICA_SETS, set(1)).unwrap();
        for size in sizes {
            let mut wish = cluster.get(REPLICA_SETS, "default", "web").unwrap();
            wish["spec"]["replicas"] = size.into();
            cluster.update(REPLICA_SETS, wish, false).unwrap();
            cluster.converge(&[&Replicas], true);
            prop_assert_eq!(pods(&cluster).len(), usize::try_from(size).unwrap());
        }
    }
}

#[test]
fn reports_name_their_object() {
    let about = json!({"kind": "Pod", "metadata": {"name": "a", "namespace": "b", "uid": "c"}});
    let report = Report::new(NAME, &about, false, "X", String::new());
    assert_eq!(report.about["namespace"], "b");
    assert_eq!(report.about["uid"], "c");
}
