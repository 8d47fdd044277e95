//! Tests of Deployments.

use proptest::prelude::*;

use super::*;
use crate::{
    cache::kinds::PODS,
    controllers::{
        facts::{condition, is_active, ready_since},
        fake::Cluster,
        replicas::Replicas,
    },
};

const BOTH: [&dyn Controller; 2] = [&Deployments, &Replicas];

fn deployment(size: i64, surge: &Value, missing: &Value) -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "replicas": size,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": missing},
            },
            "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

fn start(size: i64) -> Cluster {
    let mut cluster = Cluster::new(7);
    let quarter = json!("25%");
    cluster.create(DEPLOYMENTS, deployment(size, &quarter, &quarter)).unwrap();
    cluster.converge(&BOTH, true);
    cluster
}

fn web(cluster: &Cluster) -> Value {
    cluster.get(DEPLOYMENTS, "default", "web").unwrap()
}

fn change(cluster: &mut Cluster, change: impl FnOnce(&mut Value)) {
    let mut wish = web(cluster);
    change(&mut wish);
    cluster.update(DEPLOYMENTS, wish, false).unwrap();
}

fn set_image(cluster: &mut Cluster, image: &str) {
    change(cluster, |wish| {
        wish["spec"]["template"]["spec"]["containers"][0]["image"] = image.into();
    });
}

fn sizes(cluster: &Cluster) -> Vec<(i64, i64)> {
    let mut sizes: Vec<(i64, i64)> =
        cluster.all(REPLICA_SETS).map(|set| (revision(set), replicas(set))).collect();
    sizes.sort_unstable();
    sizes
}

fn progressing(cluster: &Cluster) -> String {
    let web = web(cluster);
    condition(&web, "Progressing").map(|it| text(it, &["reason"]).to_owned()).unwrap_or_default()
}

#[test]
fn surge_rounds_up_and_unavailable_down_and_never_both_are_0() {
    for (size, surge, missing, expected) in [
        (10, json!("25%"), json!("25%"), (3, 2)),
        (1, json!("25%"), json!("25%"), (1, 0)),
        (4, json!("25%"), json!("25%"), (1, 1)),
        (3, json!(0), json!(0), (0, 1)),
        (3, json!(0), json!("10%"), (0, 1)),
        (3, json!("1%"), json!(0), (1, 0)),
        (2, json!(1), json!(9), (1, 2)),
        (0, json!(1), json!(1), (1, 0)),
        (5, json!("100%"), json!("100%"), (5, 5)),
    ] {
        let wish = deployment(size, &surge, &missing);
        assert_eq!(allowance(&wish), expected, "{size} {surge} {missing}");
    }
}

#[test]
fn the_new_set_grows_into_the_room_that_surge_leaves() {
    for (wanted, surge, total, new, expected) in [
        (10, 3, 10, 0, 3),
        (10, 3, 13, 3, 3),
        (10, 0, 10, 0, 0),
        (10, 3, 4, 4, 10),
        (5, 1, 9, 9, 5),
    ] {
        assert_eq!(new_size(wanted, surge, total, new), expected);
    }
}

#[test]
fn a_deployment_becomes_complete() {
    let cluster = start(3);
    let web = web(&cluster);
    assert_eq!(progressing(&cluster), "NewReplicaSetAvailable");
    assert_eq!(condition(&web, "Available").unwrap()["status"], "True");
    assert_eq!(annotation(&web, REVISION), "1");
    for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
        assert_eq!(web["status"][field], 3, "{field}");
    }
    let set = cluster.all(REPLICA_SETS).next().unwrap();
    let hash = text(set, &["metadata", "labels", HASH]);
    assert_eq!(object::name(set), format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"][HASH], hash);
    let pod = cluster.all(PODS).next().unwrap();
    assert_eq!(pod["metadata"]["labels"][HASH], hash);
}

#[test]
fn a_rollout_makes_a_revision_and_the_way_back_renumbers_it() {
    let mut cluster = start(4);
    set_image(&mut cluster, "web:2");
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 0), (2, 4)]);
    set_image(&mut cluster, "web:1");
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(2, 0), (3, 4)]);
    let first = cluster.all(REPLICA_SETS).find(|set| revision(set) == 3).unwrap();
    assert_eq!(annotation(first, REVISION_HISTORY), "1");
    assert_eq!(annotation(&web(&cluster), REVISION), "3");
}

#[test]
fn old_revisions_go_beyond_the_limit() {
    let mut cluster = start(1);
    change(&mut cluster, |wish| wish["spec"]["revisionHistoryLimit"] = 2.into());
    for n in 2..7 {
        set_image(&mut cluster, &format!("web:{n}"));
        cluster.converge(&BOTH, true);
    }
    assert_eq!(sizes(&cluster), [(4, 0), (5, 0), (6, 1)]);
}

#[test]
fn a_paused_deployment_scales_and_does_not_roll() {
    let mut cluster = start(4);
    change(&mut cluster, |wish| wish["spec"]["paused"] = true.into());
    cluster.converge(&BOTH, true);
    assert_eq!(progressing(&cluster), "DeploymentPaused");
    set_image(&mut cluster, "web:2");
    change(&mut cluster, |wish| wish["spec"]["replicas"] = 6.into());
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 6)]);
    change(&mut cluster, |wish| wish["spec"]["paused"] = false.into());
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 0), (2, 6)]);
    assert_eq!(progressing(&cluster), "NewReplicaSetAvailable");
}

#[test]
fn a_stalled_rollout_says_so_after_its_deadline() {
    let mut cluster = start(4);
    change(&mut cluster, |wish| {
        wish["spec"]["template"]["metadata"]["labels"]["broken"] = "yes".into();
    });
    cluster.converge(&BOTH, true);
    assert_eq!(progressing(&cluster), "ReplicaSetUpdated");
    cluster.pass(602);
    cluster.converge(&BOTH, true);
    assert_eq!(progressing(&cluster), "ProgressDeadlineExceeded");
    let available = cluster.all(PODS).filter(|pod| ready_since(pod).is_some()).count();
    assert_eq!(available, 3, "one may be missing");
}

#[test]
fn a_stalled_rollout_goes_back_if_asked_to() {
    let mut cluster = start(4);
    change(&mut cluster, |wish| {
        wish["metadata"]["annotations"][history::ROLL_BACK] = "true".into();
    });
    cluster.converge(&BOTH, true);
    change(&mut cluster, |wish| {
        wish["spec"]["template"]["metadata"]["labels"]["broken"] = "yes".into();
    });
    cluster.converge(&BOTH, true);
    cluster.pass(602);
    cluster.converge(&BOTH, true);
    assert_eq!(progressing(&cluster), "NewReplicaSetAvailable");
    assert_eq!(sizes(&cluster), [(2, 0), (3, 4)]);
}

#[test]
fn sizes_change_in_proportion_in_the_middle_of_a_rollout() {
    let mut cluster = Cluster::new(7);
    let wish = deployment(10, &json!(3), &json!(2));
    cluster.create(DEPLOYMENTS, wish).unwrap();
    cluster.converge(&BOTH, true);
    change(&mut cluster, |wish| {
        wish["spec"]["template"]["metadata"]["labels"]["broken"] = "yes".into();
    });
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 8), (2, 5)]);
    change(&mut cluster, |wish| wish["spec"]["replicas"] = 15.into());
    cluster.converge(&BOTH, true);
    // 18 pods are allowed: 8 of 13 make 11, 5 of 13 make 7.
    assert_eq!(sizes(&cluster), [(1, 11), (2, 7)]);
}

#[test]
fn recreate_ends_all_pods_before_it_starts_others() {
    let mut cluster = start(3);
    change(&mut cluster, |wish| wish["spec"]["strategy"] = json!({"type": "Recreate"}));
    set_image(&mut cluster, "web:2");
    for _ in 0..60 {
        for action in cluster.plans(&BOTH) {
            cluster.apply(&action);
        }
        let images: std::collections::BTreeSet<String> = cluster
            .all(PODS)
            .map(|pod| pod["spec"]["containers"][0]["image"].to_string())
            .collect();
        assert!(images.len() <= 1, "both revisions run: {images:?}");
        cluster.run_nodes(2, true);
    }
    assert_eq!(sizes(&cluster), [(1, 0), (2, 3)]);
}

#[test]
fn a_changed_config_rolls_if_asked_to() {
    let mut cluster = start(2);
    let config = |value: &str| json!({"metadata": {"namespace": "default", "name": "conf"}, "data": {"a": value}});
    cluster.create(CONFIG_MAPS, config("1")).unwrap();
    change(&mut cluster, |wish| {
        wish["metadata"]["annotations"][template::RESTART] = "true".into();
        wish["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
            json!([{"configMapRef": {"name": "conf"}}]);
    });
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 0), (2, 2)]);
    cluster.update(CONFIG_MAPS, config("2"), false).unwrap();
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 0), (2, 0), (3, 2)]);
    cluster.update(CONFIG_MAPS, config("1"), false).unwrap();
    cluster.converge(&BOTH, true);
    assert_eq!(sizes(&cluster), [(1, 0), (3, 0), (4, 2)]);
}

#[test]
fn a_hash_that_is_taken_is_counted_on() {
    let mut cluster = Cluster::new(7);
    let wish = deployment(1, &json!(1), &json!(0));
    let hash = template::hash(&wish["spec"]["template"], 0);
    let name = format!("web-{hash}");
    let stranger = json!({"metadata": {"namespace": "default", "name": name}, "spec": {
        "selector": {"matchLabels": {"other": "1"}}, "replicas": 0,
    }});
    cluster.create(REPLICA_SETS, stranger).unwrap();
    cluster.create(DEPLOYMENTS, wish).unwrap();
    cluster.converge(&BOTH, true);
    assert_eq!(web(&cluster)["status"]["collisionCount"], 1);
    assert_eq!(web(&cluster)["status"]["availableReplicas"], 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_rolling_update_keeps_its_bounds(
        size in 1_i64..9, surge in 0_i64..4, missing in 0_i64..4, seed in 1_u64..1000, start_in in 1_u64..4,
    ) {
        let mut cluster = Cluster::new(seed);
        let wish = deployment(size, &json!(surge), &json!(missing));
        let (surge, missing) = allowance(&wish);
        cluster.create(DEPLOYMENTS, wish).unwrap();
        cluster.converge(&BOTH, true);
        set_image(&mut cluster, "web:2");
        let mut is_done = false;
        for round in 0..400 {
            // Plans see an old state of things at times.
            let actions = cluster.plans(&BOTH);
            is_done = actions.is_empty() && cluster.all(PODS).all(|pod| ready_since(pod).is_some());
            if is_done {
                break;
            }
            for action in &actions {
                if !cluster.chance(3) {
                    cluster.apply(action);
                }
            }
            if round % 2 == 0 {
                cluster.run_nodes(start_in, true);
            }
            let active: Vec<_> = cluster.all(PODS).filter(|pod| is_active(pod)).collect();
            let available = active.iter().filter(|pod| ready_since(pod).is_some()).count();
            prop_assert!(i64::try_from(active.len()).unwrap() <= size + surge);
            prop_assert!(i64::try_from(available).unwrap() >= size - missing);
        }
        prop_assert!(is_done, "it takes too long");
        prop_assert_eq!(sizes(&cluster), [(1, 0), (2, size)]);
    }
}
