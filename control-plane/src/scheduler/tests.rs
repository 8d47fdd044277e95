//! Tests of the scheduler.

use super::*;
use crate::controllers::fake::Cluster;

fn node(cluster: &mut Cluster, name: &str, cpu: &str, change: impl FnOnce(&mut Value)) {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    change(&mut node);
    cluster.create(NODES, node).unwrap();
}

fn pod(cluster: &mut Cluster, name: &str, cpu: &str, change: impl FnOnce(&mut Value)) {
    let mut pod = json!({
        "metadata": {"namespace": "default", "name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    change(&mut pod);
    cluster.create(PODS, pod).unwrap();
}

fn place(cluster: &mut Cluster) {
    cluster.converge(&[&Everything], false);
}

const FIELD: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// The scheduler, asked for all of its keys whatever changed.
struct Everything;

impl Controller for Everything {
    fn name(&self) -> &'static str {
        NAME
    }
    fn watches(&self) -> &'static [Kind] {
        &[PODS]
    }
    fn touched(&self, _: &Step, _: &View) -> Vec<Key> {
        vec![key("new"), key("again")]
    }
    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        Scheduler.plan(key, view, now)
    }
}

fn node_of(cluster: &Cluster, name: &str) -> String {
    let pod = cluster.get(PODS, "default", name).unwrap();
    text(&pod, &["spec", "nodeName"]).to_owned()
}

fn message(cluster: &Cluster, name: &str) -> String {
    let pod = cluster.get(PODS, "default", name).unwrap();
    text(condition(&pod, "PodScheduled").unwrap(), &["message"]).to_owned()
}

#[test]
fn pods_go_where_there_is_room_and_are_spread() {
    let mut cluster = Cluster::new(1);
    for name in ["a", "b"] {
        node(&mut cluster, name, "2", |_| {});
    }
    for n in 0..4 {
        pod(&mut cluster, &format!("p{n}"), "900m", |_| {});
    }
    place(&mut cluster);
    let mut nodes: Vec<String> = (0..4).map(|n| node_of(&cluster, &format!("p{n}"))).collect();
    nodes.sort();
    assert_eq!(nodes, ["a", "a", "b", "b"]);
}

#[test]
fn a_pod_without_a_node_is_told_why() {
    let mut cluster = Cluster::new(1);
    pod(&mut cluster, "p", "3", |_| {});
    place(&mut cluster);
    assert_eq!(message(&cluster, "p"), "no nodes available to schedule pods");
    node(&mut cluster, "a", "2", |_| {});
    for name in ["b", "c"] {
        node(&mut cluster, name, "8", |node| {
            node["spec"]["taints"] =
                json!([{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]);
        });
    }
    place(&mut cluster);
    let expected = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint \
                    {gpu: yes}. preemption: 0/3 nodes are available: 1 No preemption victims found \
                    for incoming pod, 2 Preemption is not helpful for scheduling.";
    assert_eq!(message(&cluster, "p"), expected);
    node(&mut cluster, "d", "4", |_| {});
    place(&mut cluster);
    assert_eq!(node_of(&cluster, "p"), "d");
}

#[test]
fn taints_selectors_ports_and_cordons_are_kept() {
    let mut cluster = Cluster::new(1);
    node(&mut cluster, "closed", "8", |node| node["spec"]["unschedulable"] = true.into());
    node(&mut cluster, "ssd", "8", |node| node["metadata"]["labels"]["disk"] = "ssd".into());
    node(&mut cluster, "tainted", "8", |node| {
        node["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
    });
    let port = |pod: &mut Value| {
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 1, "hostPort": 80}]);
    };
    pod(&mut cluster, "one", "1", port);
    place(&mut cluster);
    assert_eq!(node_of(&cluster, "one"), "ssd");
    pod(&mut cluster, "two", "1", |pod| {
        port(pod);
        pod["spec"]["tolerations"] = json!([{"key": "k", "operator": "Equal", "value": "v"}]);
    });
    place(&mut cluster);
    assert_eq!(node_of(&cluster, "two"), "tainted");
    pod(&mut cluster, "three", "1", |pod| pod["spec"]["nodeSelector"] = json!({"disk": "hdd"}));
    place(&mut cluster);
    assert!(message(&cluster, "three").contains("1 node(s) didn't match Pod's node affinity"));
    assert_eq!(node_of(&cluster, "three"), "");
}

#[test]
fn anti_affinity_keeps_pods_apart_and_affinity_together() {
    let mut cluster = Cluster::new(1);
    for name in ["a", "b", "c"] {
        node(&mut cluster, name, "8", |_| {});
    }
    let term = json!([{
        "labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname",
    }]);
    for n in 0..4 {
        pod(&mut cluster, &format!("p{n}"), "1m", |pod| {
            pod["spec"]["affinity"]["podAntiAffinity"][FIELD] = term.clone();
        });
    }
    place(&mut cluster);
    let nodes: BTreeSet<String> = (0..3).map(|n| node_of(&cluster, &format!("p{n}"))).collect();
    assert_eq!(nodes.len(), 3);
    assert!(message(&cluster, "p3").contains("3 node(s) didn't match pod anti-affinity rules"));
    pod(&mut cluster, "friend", "1m", |pod| {
        pod["metadata"]["labels"]["app"] = "friend".into();
        pod["spec"]["affinity"]["podAffinity"][FIELD] = json!([{
            "labelSelector": {"matchLabels": {"app": "nobody"}},
            "topologyKey": "kubernetes.io/hostname",
        }]);
    });
    place(&mut cluster);
    assert!(message(&cluster, "friend").contains("3 node(s) didn't match pod affinity rules"));
}

#[test]
fn pods_are_spread_over_zones() {
    let mut cluster = Cluster::new(1);
    for (name, zone, cpu) in [("a", "x", "8"), ("b", "x", "8"), ("c", "y", "1")] {
        node(&mut cluster, name, cpu, |node| node["metadata"]["labels"]["zone"] = zone.into());
    }
    for n in 0..4 {
        pod(&mut cluster, &format!("p{n}"), "500m", |pod| {
            pod["spec"]["topologySpreadConstraints"] = json!([{
                "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": "web"}},
            }]);
        });
    }
    place(&mut cluster);
    let on_c = (0..4).filter(|n| node_of(&cluster, &format!("p{n}")) == "c").count();
    assert_eq!(on_c, 2);
}

#[test]
fn important_pods_displace_as_few_as_they_must() {
    let mut cluster = Cluster::new(1);
    node(&mut cluster, "a", "2", |_| {});
    pod(&mut cluster, "low", "1", |pod| pod["spec"]["priority"] = 1.into());
    pod(&mut cluster, "mid", "1", |pod| pod["spec"]["priority"] = 2.into());
    place(&mut cluster);
    pod(&mut cluster, "high", "1", |pod| pod["spec"]["priority"] = 9.into());
    place(&mut cluster);
    let low = cluster.get(PODS, "default", "low").unwrap();
    assert!(object::is_terminating(&low));
    assert!(!object::is_terminating(&cluster.get(PODS, "default", "mid").unwrap()));
    let high = cluster.get(PODS, "default", "high").unwrap();
    assert_eq!(high["status"]["nominatedNodeName"], "a");
    cluster.run_nodes(1, false);
    place(&mut cluster);
    assert_eq!(node_of(&cluster, "high"), "a");
}
