//! Two servers over one etcd.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Cluster, etcd_server::Server, skipped};

fn replicas(cluster: &Cluster) -> usize {
    cluster.get("pods")["items"].as_array().map_or(0, Vec::len)
}

fn holder(cluster: &Cluster) -> String {
    let lease =
        cluster.says(&["get", "lease", "hashplane-controllers", "-n", "kube-system", "-o", "json"]);
    let lease: Value = serde_json::from_str(&lease).unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_mins(1), "{what}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn two_servers_show_the_same_and_one_acts_at_a_time() {
    let test = "two_servers_show_the_same_and_one_acts_at_a_time";
    if skipped(test) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(etcd) = Server::start(test, &folder) else { return };
    let mut one = Cluster::new();
    one.etcd = vec![etcd.address.clone()];
    wait("etcd answers", || {
        std::net::TcpStream::connect(etcd.address.trim_start_matches("http://")).is_ok()
    });
    one.begin();
    // The second server has the same keys.
    let mut other = Cluster::new();
    other.etcd.clone_from(&one.etcd);
    let keys = other.folder.path().join("data/pki");
    fs::create_dir_all(&keys).unwrap();
    for file in fs::read_dir(one.folder.path().join("data/pki")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), keys.join(file.file_name())).unwrap();
    }
    other.begin();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 5, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    });
    one.created(&deployment);
    // At once, from the other server.
    assert_eq!(other.get("deployment/web")["spec"]["replicas"], 5);
    wait("five pods are there", || replicas(&other) == 5);
    // Two that acted both would make more of them, for a moment at least.
    for _ in 0..10 {
        assert_eq!((replicas(&one), replicas(&other)), (5, 5));
        thread::sleep(Duration::from_millis(50));
    }
    let first = holder(&one);
    one.end();
    other.says(&["scale", "deployment/web", "--replicas=7"]);
    wait("the other server acts once the lease is over", || replicas(&other) == 7);
    assert_ne!(holder(&other), first);
}
