//! Deployments on simulated nodes: controllers, scheduler and API together, as kubectl sees them.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use control_plane::{
    remote::Remote,
    simulate::{self, Settings, pod::Pace},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Cluster, service, skipped};

/// Simulated nodes of a cluster; they go when this is dropped.
pub(crate) struct Nodes {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Nodes {
    pub(crate) fn start(cluster: &Cluster, nodes: u32) -> Self {
        let kubeconfig = cluster.kubeconfig();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let client = Arc::new(Remote::open(&kubeconfig).await.unwrap());
                let ready = Duration::from_millis(50);
                let pace = Pace { start: ready, ready, stop: ready, crash_percent: 0 };
                let settings = Settings { nodes, pace, ..Settings::default() };
                tokio::select! {
                    ended = simulate::run(client, settings) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said itself why it panicked.
            let _panicked = thread.join();
        }
    }
}

pub(crate) fn deployment(name: &str, replicas: u32, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "web", "image": image}]},
            },
        },
    })
}

/// Waits until something is so, for at most a minute.
fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_mins(1), "{what}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

#[test]
fn a_deployment_rolls_out_and_back_and_its_service_follows() {
    if skipped("a_deployment_rolls_out_and_back_and_its_service_follows") {
        return;
    }
    let cluster = Cluster::start();
    let _nodes = Nodes::start(&cluster, 3);
    cluster.created(&deployment("web", 4, "web:1"));
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}]);
    cluster.created(&service("web", &json!({"ports": ports, "selector": {"app": "web"}})));
    let status = |replicas: i64| {
        let status = &cluster.get("deployment/web")["status"];
        number(&status["availableReplicas"]) == replicas
            && number(&status["updatedReplicas"]) == replicas
            && number(&status["replicas"]) == replicas
    };
    wait("four pods of the first image are available", || status(4));
    let pods = cluster.get("pods");
    let mut nodes: Vec<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pod| pod["spec"]["nodeName"].as_str().unwrap())
        .collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), 3, "the pods are spread over the nodes");
    let ready = || {
        let slices = cluster.get("endpointslices");
        let all = slices["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["metadata"]["labels"]["kubernetes.io/service-name"] == "web");
        all.flat_map(|it| it["endpoints"].as_array().unwrap().clone())
            .filter(|it| it["conditions"]["ready"] == true)
            .count()
    };
    wait("the service has four ready endpoints", || ready() == 4);

    let image = |image: &str| {
        json!({"spec": {"template": {"spec": {"containers": [{"name": "web", "image": image}]}}}})
            .to_string()
    };
    cluster.says(&["patch", "deployment", "web", "-p", &image("web:broken")]);
    wait("the new replica set has pods that do not start", || {
        number(&cluster.get("deployment/web")["status"]["updatedReplicas"]) > 0
    });
    thread::sleep(Duration::from_millis(300));
    let available = number(&cluster.get("deployment/web")["status"]["availableReplicas"]);
    assert!(available >= 3, "a bad image costs a quarter of the pods at most: {available}");
    assert!(ready() >= 3);

    cluster.says(&["patch", "deployment", "web", "-p", &image("web:2")]);
    wait("four pods of the third image are available", || status(4));
    let sets = cluster.get("replicasets");
    assert_eq!(sets["items"].as_array().unwrap().len(), 3, "one per revision");

    cluster.says(&["scale", "deployment", "web", "--replicas=1"]);
    wait("one pod is left", || status(1) && ready() == 1);
    cluster.says(&["delete", "deployment", "web"]);
    wait("its replica sets and pods are gone as well", || {
        let left = |what: &str| cluster.get(what)["items"].as_array().unwrap().len();
        left("replicasets") == 0 && left("pods") == 0
    });
}

#[test]
fn a_namespace_goes_with_everything_in_it() {
    if skipped("a_namespace_goes_with_everything_in_it") {
        return;
    }
    let cluster = Cluster::start();
    cluster
        .created(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    wait("it gets its account", || {
        cluster.run(&["get", "serviceaccount", "default", "-n", "shop"]).status.success()
    });
    let mut map = super::config_map("a");
    map["metadata"]["namespace"] = json!("shop");
    cluster.created(&map);
    cluster.says(&["delete", "namespace", "shop", "--timeout=30s"]);
    let words = cluster.refuses(&["get", "configmap", "a", "-n", "shop"]);
    assert!(words.contains("not found"), "{words}");
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    if skipped("a_pod_that_fits_nowhere_says_why") {
        return;
    }
    let cluster = Cluster::start();
    let _nodes = Nodes::start(&cluster, 2);
    wait("the nodes are there", || cluster.get("nodes")["items"].as_array().unwrap().len() == 2);
    cluster.created(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "big"},
        "spec": {"containers": [{
            "name": "a", "image": "a", "resources": {"requests": {"cpu": "1000"}},
        }]},
    }));
    let mut message = String::new();
    wait("there is an event", || {
        let events = cluster.get("events");
        let event = events["items"]
            .as_array()
            .unwrap()
            .iter()
            .find(|it| it["reason"] == "FailedScheduling")
            .cloned();
        message = event.map(|it| it["message"].as_str().unwrap().to_owned()).unwrap_or_default();
        message.contains("2 nodes") || message.contains("0/2")
    });
    assert!(message.contains("Insufficient cpu"), "{message}");
}

#[test]
fn people_are_shown_what_upstream_shows() {
    if skipped("people_are_shown_what_upstream_shows") {
        return;
    }
    let cluster = Cluster::start();
    let _nodes = Nodes::start(&cluster, 1);
    cluster.created(&deployment("web", 2, "web:1"));
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 8080}]);
    let spec = json!({"type": "NodePort", "ports": ports, "selector": {"app": "web"}});
    cluster.created(&service("web", &spec));
    cluster.says(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    // Each table without the column of ages.
    let table = |what: &[&str]| {
        let arguments = [&["get"][..], what].concat();
        let text = cluster.says(&arguments);
        let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        lines.collect::<Vec<String>>()
    };
    let pods = table(&["pods"]);
    assert_eq!(pods[0], "NAME READY STATUS RESTARTS AGE");
    assert!(pods[1].starts_with("web-") && pods[1].contains(" 1/1 Running 0 "), "{}", pods[1]);
    let pods = table(&["pods", "-o", "wide"]);
    assert_eq!(pods[0], "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES");
    assert!(pods[1].contains(" 10.128.0.") && pods[1].ends_with("simulated-0 <none> <none>"));
    let deployments = table(&["deployments", "-o", "wide"]);
    assert_eq!(deployments[0], "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR");
    assert!(deployments[1].starts_with("web 2/2 2 2 "), "{}", deployments[1]);
    assert!(deployments[1].ends_with(" web web:1 app=web"), "{}", deployments[1]);
    let services = table(&["service", "web"]);
    assert_eq!(services[0], "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE");
    let words: Vec<&str> = services[1].split(' ').collect();
    assert_eq!((words[1], words[3]), ("NodePort", "<none>"));
    assert!(words[4].starts_with("80:3") && words[4].ends_with("/TCP"), "{}", services[1]);
    let nodes = table(&["nodes"]);
    assert_eq!(nodes[0], "NAME STATUS ROLES AGE VERSION");
    assert!(nodes[1].starts_with("simulated-0 Ready <none> "), "{}", nodes[1]);
    cluster.says(&["cordon", "simulated-0"]);
    assert!(table(&["nodes"])[1].contains("Ready,SchedulingDisabled"));
    let text = cluster.says(&["describe", "deployment", "web"]);
    assert!(
        text.contains("2 desired | 2 updated | 2 total | 2 available | 0 unavailable"),
        "{text}"
    );
    let text = cluster.says(&["rollout", "history", "deployment/web"]);
    assert!(text.contains("REVISION") && text.contains("1         <none>"), "{text}");
}
