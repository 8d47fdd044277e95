//! A cluster for one test: nodes in network namespaces on one bridge, and a place outside.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use hashplane_tests::lab;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use node_agent::image::{self, Content, File};
use serde_json::Value;
use tempfile::TempDir;

/// Tests of one process have numbers.
static NUMBER: AtomicUsize = AtomicUsize::new(0);
/// How long anything may take that takes seconds at most on an idle machine.
const WITHIN: Duration = Duration::from_secs(90);
/// The image of all containers.
pub(crate) const IMAGE: &str = "hashplane.test/busybox:1";
/// What busybox is called as in the image.
const NAMES: [&str; 16] = [
    "sh", "cat", "echo", "sleep", "httpd", "hostname", "nslookup", "touch", "rm", "test", "grep",
    "id", "mkdir", "ls", "tail", "env",
];

struct Node {
    name: String,
    netns: String,
    data: PathBuf,
    run: PathBuf,
    instance: String,
    process: Option<Child>,
}

/// A cluster; everything of it goes with it.
pub(crate) struct Cluster {
    folder: TempDir,
    id: String,
    nodes: Vec<Node>,
    outside: String,
}

fn binary() -> PathBuf {
    std::env::var_os("HASHPLANE_BIN")
        .map(PathBuf::from)
        .expect("HASHPLANE_BIN names the binary under test")
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An archive of busybox as an image.
fn archive() -> Vec<u8> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("busybox"))
        .find(|path| path.is_file())
        .unwrap();
    let directory =
        |path: &str, mode| File { path: path.into(), content: Content::Directory(mode) };
    let mut files =
        vec![directory("bin", 0o755), directory("tmp", 0o1777), directory("etc", 0o755)];
    files.push(File::program("bin/busybox", fs::read(path).unwrap()));
    files.extend(NAMES.map(|name| File {
        path: format!("bin/{name}"),
        content: Content::Link("busybox".into()),
    }));
    image::archive(IMAGE, &files, &["/bin/sh"], "").unwrap()
}

/// What a program said, if it said it with success.
pub(crate) fn said(output: &Output) -> String {
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words}{}", String::from_utf8_lossy(&output.stderr));
    words.into_owned()
}

impl Cluster {
    /// A cluster of so many nodes, all of them ready.
    pub(crate) fn start(count: usize) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}n{number}", std::process::id());
        let folder = tempfile::tempdir().unwrap();
        let outside = format!("hp{id}o");
        let mut cluster = Self { folder, id, nodes: Vec::new(), outside };
        fs::create_dir(cluster.folder.path().join("images")).unwrap();
        fs::write(cluster.folder.path().join("images/busybox.tar"), archive()).unwrap();
        let outside = cluster.outside.clone();
        ip(&format!("netns add {outside}"));
        ip(&format!("-n {outside} link set lo up"));
        ip(&format!("-n {outside} link add br0 type bridge"));
        ip(&format!("-n {outside} link set br0 up"));
        ip(&format!("-n {outside} addr add 192.0.2.1/24 dev br0"));
        for index in 0..count {
            cluster.add(index);
        }
        cluster.run(0);
        cluster
            .until("the API answers", || cluster.try_kubectl(&["get", "nodes"]).status.success());
        for index in 1..count {
            cluster.run(index);
        }
        let is_ready = |wanted: usize| {
            let nodes = cluster.json(&["get", "nodes"]);
            let ready = |node: &Value| {
                let conditions = node["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .any(|it| it["type"] == "Ready" && it["status"] == "True")
            };
            nodes["items"].as_array().into_iter().flatten().filter(|it| ready(it)).count() == wanted
        };
        cluster.until("all nodes are ready", || is_ready(count));
        cluster
    }

    fn add(&mut self, index: usize) {
        let netns = format!("hp{}n{index}", self.id);
        let (outside, inner) = (&self.outside, format!("out{index}"));
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("link add up0 netns {netns} type veth peer name {inner} netns {outside}"));
        ip(&format!("-n {outside} link set {inner} master br0 up"));
        ip(&format!("-n {netns} addr add 192.0.2.{}/24 dev up0", index + 2));
        ip(&format!("-n {netns} link set up0 up"));
        ip(&format!("-n {netns} route add default via 192.0.2.1"));
        let data = self.folder.path().join(format!("data{index}"));
        fs::create_dir(&data).unwrap();
        let run = self.folder.path().join(format!("run{index}"));
        let instance = format!("e{}n{index}", self.id);
        fs::create_dir_all(cgroup(&netns)).unwrap();
        let config =
            format!("cgroup: {}\ninstance: {instance}\nnics: up0\n", cgroup(&netns).display());
        fs::write(data.join("proxy.yaml"), config).unwrap();
        let name = format!("n{}", index + 1);
        self.nodes.push(Node { name, netns, data, run, instance, process: None });
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.conf")
    }

    /// A command in the network namespace of a node, in its control group.
    fn command(&self, index: usize, program: &Path) -> Command {
        let node = &self.nodes[index];
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", node.netns)).arg(program).stdin(Stdio::null());
        command
    }

    /// Starts, or starts again, what makes a node.
    pub(crate) fn run(&mut self, index: usize) {
        let token = (index > 0 && !self.nodes[index].data.join("node.json").exists()).then(|| {
            let mut command = self.command(0, &binary());
            command.args(["token", "create", "--kubeconfig"]).arg(self.kubeconfig());
            said(&command.output().unwrap()).trim().to_owned()
        });
        let mut command = self.command(index, &binary());
        let node = &self.nodes[index];
        if index == 0 {
            command.arg("up").arg("--kubeconfig").arg(self.kubeconfig());
            command.args(["--load-balancer-pool", "192.0.2.200-192.0.2.210"]);
        } else {
            command.arg("node");
        }
        if let Some(token) = token {
            command.args(["--join", "https://192.0.2.2:6443", "--token", &token]);
        }
        command.arg("--data-dir").arg(&node.data).arg("--run-dir").arg(&node.run);
        command.arg("--images").arg(self.folder.path().join("images"));
        command.arg("--proxy-config").arg(node.data.join("proxy.yaml"));
        command.args(["--node-name", &node.name, "--node-ip", &format!("192.0.2.{}", index + 2)]);
        command.args([
            "--pods-cgroup",
            &format!("/{}", node.netns),
            "--crash-loop-seconds",
            "1",
            "5",
        ]);
        let log =
            fs::OpenOptions::new().create(true).append(true).open(node.data.join("log")).unwrap();
        command.stderr(log).stdout(Stdio::null());
        let child = command.spawn().unwrap();
        // Its socket hooks act on this group, and so on it and what it starts.
        fs::write(cgroup(&node.netns).join("cgroup.procs"), child.id().to_string()).unwrap();
        self.nodes[index].process = Some(child);
    }

    /// Ends a node's process without a warning.
    pub(crate) fn kill(&mut self, index: usize) {
        let mut process = self.nodes[index].process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(0, Path::new("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).arg("--cache-dir");
        command.arg(self.folder.path().join("cache")).args(arguments).output().unwrap()
    }

    /// What kubectl says, which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        said(&self.try_kubectl(arguments))
    }

    /// A kubectl that goes on; its output is to be read.
    pub(crate) fn start_kubectl(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(0, Path::new("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.try_kubectl(&[arguments, &["-o", "json"]].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    pub(crate) fn apply(&self, manifest: &str) {
        let path = self.folder.path().join("manifest.yaml");
        fs::write(&path, manifest.replace("IMAGE", IMAGE)).unwrap();
        self.kubectl(&["apply", "-f", path.to_str().unwrap()]);
    }

    /// Waits for something; fails with what the cluster says of its pods.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let begin = Instant::now();
        while !is_so() {
            if begin.elapsed() > WITHIN {
                let pods = self.try_kubectl(&["get", "pods,events", "-A"]);
                let pods = String::from_utf8_lossy(&pods.stdout).into_owned();
                let log =
                    |node: &Node| fs::read_to_string(node.data.join("log")).unwrap_or_default();
                let logs: Vec<String> = self.nodes.iter().map(log).collect();
                let end = |log: &String| log.lines().rev().take(15).collect::<Vec<_>>().join("\n");
                let logs: Vec<String> = logs.iter().map(end).collect();
                panic!("{what}: not within {WITHIN:?}\n{pods}\n{}", logs.join("\n--\n"));
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// One field of a pod; empty if it is not there.
    pub(crate) fn pod(&self, name: &str, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        let output = self.try_kubectl(&["get", "pod", name, "-o", &path]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Does something outside of the cluster, on the nodes' network.
    pub(crate) fn outside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.outside);
        thread::spawn(move || {
            setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }
}

/// The body of the answer to `GET /`; otherwise why there is none.
pub(crate) fn get(to: SocketAddr) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{to}: {error}");
    let limit = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&to, limit).map_err(failed)?;
    stream.set_read_timeout(Some(limit)).map_err(failed)?;
    stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n").map_err(failed)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(failed)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => Err(format!("{to}: {text}")),
    }
}

fn cgroup(netns: &str) -> PathBuf {
    lab::cgroup2_root().unwrap().join(netns)
}

/// Groups are removed from below, in all hierarchies; what is in them has ended.
fn remove_groups(name: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|it| it.path());
    for path in hierarchies.chain([root.to_owned()]) {
        remove_group(&path.join(name));
    }
}

fn remove_group(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    let _not_there = fs::remove_dir(path);
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            if let Some(mut process) = self.nodes[index].process.take() {
                let pid = Pid::from_raw(i32::try_from(process.id()).unwrap());
                let _ended_already = kill(pid, Signal::SIGTERM);
                let _ended = process.wait();
            }
            let node = &self.nodes[index];
            let mut command = self.command(index, &binary());
            command.arg("down").arg("--data-dir").arg(&node.data).arg("--run-dir").arg(&node.run);
            let _said = command.args(["--instance", &node.instance]).output();
            let _gone = Command::new("ip").args(["netns", "del", &node.netns]).output();
            remove_groups(&node.netns);
        }
        let _gone = Command::new("ip").args(["netns", "del", &self.outside]).output();
    }
}
