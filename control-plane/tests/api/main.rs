//! The server as kubectl sees it, over TLS on loopback.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that cannot run says so"
)]

mod apply;
mod commands;
#[path = "../shared/etcd_server.rs"]
mod etcd_server;
mod protobuf;
mod rollout;
mod security;
mod several;

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::mpsc,
    thread,
};

use control_plane::server;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A server with a directory of its own; it ends when this is dropped.
struct Cluster {
    folder: TempDir,
    audit: Option<PathBuf>,
    seals_secrets: bool,
    etcd: Vec<String>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Cluster {
    fn start() -> Self {
        let mut cluster = Self::new();
        cluster.begin();
        cluster
    }

    /// A server that does not run yet.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            audit: None,
            seals_secrets: false,
            etcd: Vec::new(),
            stop: None,
            thread: None,
        }
    }

    fn begin(&mut self) {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = server::Settings {
            kubeconfig: Some(self.kubeconfig()),
            audit: self.audit.clone(),
            seals_secrets: self.seals_secrets,
            etcd: self.etcd.clone(),
            ..server::Settings::new(self.folder.path().join("data"), listen)
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (serving, served) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let stop = async { drop(stopped.await) };
                let run = server::run(settings, stop, |_| serving.send(()).unwrap());
                if let Err(error) = run.await {
                    panic!("{error}");
                }
            });
        });
        served.recv().unwrap();
        (self.stop, self.thread) = (Some(stop), Some(thread));
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn kubectl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(arguments)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.folder.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.kubectl(arguments).output().unwrap()
    }

    /// What kubectl prints; it must succeed.
    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What kubectl complains of; it must fail.
    fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        String::from_utf8(output.stderr).unwrap()
    }

    fn get(&self, what: &str) -> Value {
        let text = self.says(&["get", what, "-o", "json"]);
        serde_json::from_str(&text).unwrap()
    }

    /// Creates an object from a file.
    fn create(&self, object: &Value) -> Output {
        let file = self.folder.path().join("object.json");
        std::fs::write(&file, object.to_string()).unwrap();
        self.run(&["create", "--validate=false", "-f", file.to_str().unwrap()])
    }

    fn created(&self, object: &Value) {
        let output = self.create(object);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has said itself why it panicked.
            let _panicked = thread.join();
        }
    }
}

/// Says so, and is true, where there is no kubectl.
fn skipped(test: &str) -> bool {
    let missing = Command::new("kubectl")
        .args(["version", "--client"])
        .stdout(Stdio::null())
        .status()
        .is_err();
    if missing {
        println!("SKIP {test}: kubectl is not installed");
    }
    missing
}

fn config_map(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}},
        "data": {"key": "value"},
    })
}

fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

#[test]
fn a_new_cluster_has_its_namespaces_and_a_file_for_the_administrator_alone() {
    if skipped("a_new_cluster_has_its_namespaces_and_a_file_for_the_administrator_alone") {
        return;
    }
    let cluster = Cluster::start();
    let names = cluster.says(&["get", "namespaces", "-o", "name"]);
    for name in ["default", "kube-system", "kube-public", "kube-node-lease"] {
        assert!(names.contains(&format!("namespace/{name}")), "{names}");
    }
    let mode = std::fs::metadata(cluster.kubeconfig()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(cluster.says(&["api-resources"]).contains("deployments"));
}

#[test]
fn an_object_is_created_changed_in_each_way_and_deleted() {
    if skipped("an_object_is_created_changed_in_each_way_and_deleted") {
        return;
    }
    let cluster = Cluster::start();
    cluster.created(&config_map("a"));
    let again = cluster.create(&config_map("a"));
    let words = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        words.contains("AlreadyExists") && words.contains("configmaps \"a\" already exists"),
        "{words}"
    );
    for (kind, patch) in [
        ("merge", r#"{"data":{"merge":"1","key":null}}"#),
        ("strategic", r#"{"data":{"strategic":"2"}}"#),
        ("json", r#"[{"op":"add","path":"/data/json","value":"3"}]"#),
    ] {
        cluster.says(&["patch", "configmap", "a", "--type", kind, "-p", patch]);
    }
    cluster.says(&["label", "configmap", "a", "tier=front"]);
    let object = cluster.get("configmap/a");
    assert_eq!(object["data"], json!({"merge": "1", "strategic": "2", "json": "3"}));
    assert_eq!(object["metadata"]["labels"], json!({"app": "a", "tier": "front"}));
    let listed = cluster.says(&["get", "configmaps", "-l", "tier=front", "-o", "name"]);
    assert_eq!(listed.trim(), "configmap/a");
    let none = cluster.says(&["get", "configmaps", "-l", "tier!=front", "-o", "name"]);
    assert!(!none.contains("configmap/a"), "{none}");
    cluster.says(&["delete", "configmap", "a"]);
    let words = cluster.refuses(&["get", "configmap", "a"]);
    assert!(words.contains("(NotFound): configmaps \"a\" not found"), "{words}");
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    if skipped("what_was_written_is_there_after_a_restart") {
        return;
    }
    let mut cluster = Cluster::start();
    cluster.created(&config_map("a"));
    let before = cluster.get("configmap/a");
    cluster.end();
    cluster.begin();
    assert_eq!(cluster.get("configmap/a"), before);
}

#[test]
fn services_get_addresses_and_ports_that_nobody_else_has() {
    if skipped("services_get_addresses_and_ports_that_nobody_else_has") {
        return;
    }
    let cluster = Cluster::start();
    let ports = json!([{"port": 80, "protocol": "TCP", "targetPort": 80}]);
    let spec = |kind: &str| json!({"type": kind, "ports": ports, "selector": {"app": "a"}});
    cluster.created(&service("a", &spec("ClusterIP")));
    cluster.created(&service("b", &spec("NodePort")));
    let (a, b) = (cluster.get("service/a"), cluster.get("service/b"));
    let address = a["spec"]["clusterIP"].as_str().unwrap();
    assert!(address.starts_with("10.96."), "{address}");
    let port = b["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    let mut taken = spec("ClusterIP");
    taken["clusterIP"] = json!(address);
    let words = cluster.create(&service("c", &taken)).stderr;
    let words = String::from_utf8(words).unwrap();
    assert!(words.contains("provided IP is already allocated"), "{words}");
    let mut taken = spec("NodePort");
    taken["ports"][0]["nodePort"] = json!(port);
    let words = String::from_utf8(cluster.create(&service("c", &taken)).stderr).unwrap();
    assert!(words.contains("provided port is already allocated"), "{words}");
    cluster.says(&["delete", "service", "a", "b"]);
    let mut free = spec("NodePort");
    free["clusterIP"] = json!(address);
    free["ports"][0]["nodePort"] = json!(port);
    cluster.created(&service("c", &free));
}

#[test]
fn a_watch_tells_every_change() {
    use std::io::{BufRead as _, BufReader};
    if skipped("a_watch_tells_every_change") {
        return;
    }
    let cluster = Cluster::start();
    cluster.created(&config_map("before"));
    // Every namespace gets a ConfigMap of the server's own, when it is its turn.
    let mut watch = cluster.kubectl(&["get", "configmaps", "-w", "-o", "name"]);
    watch.args(["--output-watch-events", "--field-selector", "metadata.name!=kube-root-ca.crt"]);
    let mut watch = watch.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    while !next().contains("configmap/before") {}
    cluster.created(&config_map("a"));
    assert!(next().contains("configmap/a"));
    cluster.says(&["label", "configmap", "a", "x=y"]);
    assert!(next().contains("configmap/a"));
    cluster.says(&["delete", "configmap", "a"]);
    assert!(next().contains("configmap/a"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn who_may_what_follows_from_roles() {
    if skipped("who_may_what_follows_from_roles") {
        return;
    }
    let cluster = Cluster::start();
    cluster.created(
        &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "bot"}}),
    );
    let account = "system:serviceaccount:default:bot";
    let can = |verb: &str| {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": {"verb": verb, "resource": "pods", "namespace": "default"}},
        });
        let file = cluster.folder.path().join("review.json");
        std::fs::write(&file, review.to_string()).unwrap();
        let path = file.to_str().unwrap().to_owned();
        let text = cluster.says(&["create", "--validate=false", "-f", &path, "-o", "json"]);
        serde_json::from_str::<Value>(&text).unwrap()["status"]["allowed"] == json!(true)
    };
    assert!(!can("list"));
    cluster.created(&json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "bot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "bot", "namespace": "default"}],
    }));
    let begun = std::time::Instant::now();
    while !can("list") {
        assert!(begun.elapsed().as_secs() < 10, "the binding has no effect");
    }
    assert!(!can("delete"));
}
