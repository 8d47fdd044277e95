//! A cluster that runs pods: nodes in network namespaces on one bridge, with containerd and runc, and
//! a place outside of it.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{self, slowed};

/// Clusters of one process have numbers.
static NUMBER: AtomicUsize = AtomicUsize::new(0);
/// How long anything may take that takes seconds at most on an idle machine.
const WITHIN: Duration = Duration::from_secs(90);
/// Between two looks at something that is waited for.
const PAUSE: Duration = Duration::from_millis(50);
/// A node that takes longer to end is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// Lines of each node's log that a failure shows.
const LOG_LINES: usize = 15;

#[derive(Debug)]
struct Node {
    name: String,
    netns: String,
    data: PathBuf,
    run: PathBuf,
    instance: String,
    process: Option<Child>,
}

/// A cluster; everything of it goes with it.
#[derive(Debug)]
pub struct Cluster {
    folder: TempDir,
    binary: PathBuf,
    id: String,
    nodes: Vec<Node>,
    outside: String,
    arguments: Vec<String>,
    stop: Arc<AtomicBool>,
}

/// What a cluster is made of.
#[derive(Debug)]
pub struct Options<'a> {
    /// The binary under test.
    pub binary: &'a Path,
    /// How many nodes it has.
    pub nodes: usize,
    /// Archives of the images that its nodes have, by file name.
    pub images: Vec<(&'a str, Vec<u8>)>,
    /// Further arguments of every node.
    pub arguments: &'a [&'a str],
    /// What ends waiting early.
    pub stop: Arc<AtomicBool>,
}

/// The address of a node, or of the outside below them.
pub fn address(node: usize) -> IpAddr {
    let last = u8::try_from(node + 2).unwrap_or(u8::MAX);
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn ip(arguments: &str) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments.split(' ')).output().context("cannot run ip")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {arguments}: {words}");
    Ok(())
}

/// What a program said, if it said it with success.
pub fn said(output: &Output) -> anyhow::Result<String> {
    let words = String::from_utf8_lossy(&output.stdout);
    let success = output.status.success();
    ensure!(success, "{words}{}", String::from_utf8_lossy(&output.stderr));
    Ok(words.into_owned())
}

impl Cluster {
    /// A cluster whose nodes are all ready.
    pub fn start(options: &Options<'_>) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(options)?;
        cluster.run(0)?;
        cluster.until("the API answers", || {
            Ok(cluster.try_kubectl(&["get", "nodes"])?.status.success())
        })?;
        for index in 1..options.nodes {
            cluster.run(index)?;
        }
        cluster.until("all nodes are ready", || Ok(cluster.nodes_ready()? == options.nodes))?;
        Ok(cluster)
    }

    /// A cluster of which nothing runs yet.
    pub fn prepare(options: &Options<'_>) -> anyhow::Result<Self> {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}n{number}", std::process::id());
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        let outside = format!("hp{id}o");
        let binary = options.binary.canonicalize();
        let binary = binary.with_context(|| format!("no binary {}", options.binary.display()))?;
        let stop = Arc::clone(&options.stop);
        let arguments = options.arguments.iter().map(|it| (*it).to_owned()).collect();
        let mut cluster = Self { folder, binary, id, nodes: Vec::new(), outside, arguments, stop };
        let images = cluster.folder.path().join("images");
        fs::create_dir(&images).context("cannot make a folder")?;
        for (name, archive) in &options.images {
            fs::write(images.join(name), archive).context("cannot write an image")?;
        }
        let outside = cluster.outside.clone();
        ip(&format!("netns add {outside}"))?;
        ip(&format!("-n {outside} link set lo up"))?;
        ip(&format!("-n {outside} link add br0 type bridge"))?;
        ip(&format!("-n {outside} link set br0 up"))?;
        ip(&format!("-n {outside} addr add 192.0.2.1/24 dev br0"))?;
        for index in 0..options.nodes {
            cluster.add(index)?;
        }
        Ok(cluster)
    }

    /// How many nodes are ready.
    pub fn nodes_ready(&self) -> anyhow::Result<usize> {
        let nodes = self.json(&["get", "nodes"])?;
        let is_ready = |node: &&Value| {
            let conditions = node["status"]["conditions"].as_array();
            let mut conditions = conditions.into_iter().flatten();
            conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
        };
        Ok(nodes["items"].as_array().into_iter().flatten().filter(is_ready).count())
    }

    fn add(&mut self, index: usize) -> anyhow::Result<()> {
        let netns = format!("hp{}n{index}", self.id);
        let (outside, inner) = (&self.outside, format!("out{index}"));
        ip(&format!("netns add {netns}"))?;
        ip(&format!("-n {netns} link set lo up"))?;
        ip(&format!("link add up0 netns {netns} type veth peer name {inner} netns {outside}"))?;
        ip(&format!("-n {outside} link set {inner} master br0 up"))?;
        ip(&format!("-n {netns} addr add {}/24 dev up0", address(index)))?;
        ip(&format!("-n {netns} link set up0 up"))?;
        ip(&format!("-n {netns} route add default via 192.0.2.1"))?;
        let data = self.folder.path().join(format!("data{index}"));
        fs::create_dir(&data).context("cannot make a folder")?;
        let run = self.folder.path().join(format!("run{index}"));
        let instance = format!("e{}n{index}", self.id);
        let group = cgroup(&netns)?;
        fs::create_dir_all(&group).context("cannot make a control group")?;
        let config = format!("cgroup: {}\ninstance: {instance}\nnics: up0\n", group.display());
        fs::write(data.join("proxy.yaml"), config).context("cannot write a configuration")?;
        let name = format!("n{}", index + 1);
        self.nodes.push(Node { name, netns, data, run, instance, process: None });
        Ok(())
    }

    /// The file by which kubectl finds the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("admin.conf")
    }

    /// The network namespace of a node.
    pub fn netns(&self, index: usize) -> &str {
        &self.nodes[index].netns
    }

    /// The network namespace of who is not in the cluster.
    pub fn outside(&self) -> &str {
        &self.outside
    }

    /// Where a node keeps its data.
    pub fn data(&self, index: usize) -> &Path {
        &self.nodes[index].data
    }

    /// A command in the network namespace of a node.
    pub fn command(&self, index: usize, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.nodes[index].netns));
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Starts, or starts again, what makes a node.
    pub fn run(&mut self, index: usize) -> anyhow::Result<()> {
        let mut command = self.command(index, &self.binary);
        let node = &self.nodes[index];
        if index == 0 {
            command.arg("up").arg("--kubeconfig").arg(self.kubeconfig());
            command.args(["--load-balancer-pool", "192.0.2.200-192.0.2.210"]);
        } else {
            command.arg("node");
            if !node.data.join("node.json").exists() {
                command.args(["--join", "https://192.0.2.2:6443", "--token", &self.token()?]);
            }
        }
        command.arg("--data-dir").arg(&node.data).arg("--run-dir").arg(&node.run);
        command.arg("--images").arg(self.folder.path().join("images"));
        command.arg("--proxy-config").arg(node.data.join("proxy.yaml"));
        command.args(["--node-name", &node.name, "--node-ip", &address(index).to_string()]);
        command.args(["--pods-cgroup", &format!("/{}", node.netns)]);
        command.args(["--crash-loop-seconds", "1", "5"]).args(&self.arguments);
        if !self.arguments.iter().any(|it| it == "--eviction-hard") {
            // How full this machine is decides nothing.
            command.args(["--eviction-hard", ""]);
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(node.data.join("log"));
        command.stderr(log.context("cannot write a log")?).stdout(Stdio::null());
        let child = command.spawn().context("cannot start a node")?;
        // Its socket hooks act on this group, and so on it and what it starts.
        let joined = fs::write(cgroup(&node.netns)?.join("cgroup.procs"), child.id().to_string());
        self.nodes[index].process = Some(child);
        joined.context("cannot move a node into its control group")
    }

    /// A token with which a machine joins.
    fn token(&self) -> anyhow::Result<String> {
        let mut command = self.command(0, &self.binary);
        command.args(["token", "create", "--kubeconfig"]).arg(self.kubeconfig());
        Ok(said(&command.output().context("cannot make a token")?)?.trim().to_owned())
    }

    /// Ends a node's process without a warning.
    pub fn kill(&mut self, index: usize) -> anyhow::Result<()> {
        let mut process = self.nodes[index].process.take().context("the node does not run")?;
        process.kill().context("cannot kill a node")?;
        process.wait().map(drop).context("cannot wait for a node")
    }

    /// The process of a node.
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.nodes[index].process.as_ref().map(Child::id)
    }

    /// Whether the node's daemon answers.
    pub fn is_serving(&self, index: usize) -> anyhow::Result<bool> {
        let health = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 10256);
        lab::within(&self.nodes[index].netns, || Ok(TcpStream::connect(health).is_ok()))
    }

    /// What kubectl says, with or without success.
    pub fn try_kubectl(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(0, Path::new("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).arg("--cache-dir");
        command.arg(self.folder.path().join("cache")).args(arguments);
        command.output().context("cannot run kubectl")
    }

    /// What kubectl says, which must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        said(&self.try_kubectl(arguments)?)
            .with_context(|| format!("kubectl {}", arguments.join(" ")))
    }

    /// A kubectl that goes on; its output is to be read.
    pub fn start_kubectl(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        let mut command = self.command(0, Path::new("kubectl"));
        command.arg("--kubeconfig").arg(self.kubeconfig()).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().context("cannot start kubectl")
    }

    /// What kubectl says, as JSON; nothing if it fails.
    pub fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.try_kubectl(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Applies objects.
    pub fn apply(&self, manifest: &str) -> anyhow::Result<String> {
        let path = self.folder.path().join("manifest.yaml");
        fs::write(&path, manifest).context("cannot write a manifest")?;
        self.kubectl(&["apply", "-f", &path.to_string_lossy()])
    }

    /// Waits for something; fails with what the cluster says of its pods.
    pub fn until(
        &self,
        what: &str,
        is_so: impl Fn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        while !is_so()? {
            ensure!(!self.stop.load(Ordering::SeqCst), "interrupted");
            if begun.elapsed() > slowed(WITHIN) {
                let pods = self.try_kubectl(&["get", "pods,events", "-A"])?;
                let pods = String::from_utf8_lossy(&pods.stdout);
                bail!("{what}: not within {WITHIN:?}\n{pods}\n{}", self.logs());
            }
            thread::sleep(PAUSE);
        }
        Ok(begun.elapsed())
    }

    /// The ends of the nodes' logs, the newest lines first.
    fn logs(&self) -> String {
        let end = |node: &Node| {
            let log = fs::read_to_string(node.data.join("log")).unwrap_or_default();
            log.lines().rev().take(LOG_LINES).collect::<Vec<_>>().join("\n")
        };
        self.nodes.iter().map(end).collect::<Vec<_>>().join("\n--\n")
    }

    /// One field of a pod; empty if it is not there.
    pub fn pod(&self, name: &str, path: &str) -> anyhow::Result<String> {
        let path = format!("jsonpath={{{path}}}");
        let output = self.try_kubectl(&["get", "pod", name, "-o", &path])?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// The body of the answer to `GET /`.
pub fn get(to: SocketAddr) -> anyhow::Result<String> {
    let limit = Duration::from_secs(5);
    let mut stream =
        TcpStream::connect_timeout(&to, limit).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(limit)).context("the socket")?;
    stream
        .write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n")
        .with_context(|| format!("asking {to}"))?;
    let mut text = String::new();
    stream.read_to_string(&mut text).with_context(|| format!("the answer of {to}"))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.contains(" 200 ") => Ok(body.trim().to_owned()),
        _ => bail!("{to} answers {text:?}"),
    }
}

fn cgroup(netns: &str) -> anyhow::Result<PathBuf> {
    Ok(lab::cgroup2_root().context("no cgroup2 is mounted")?.join(netns))
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

impl Cluster {
    /// Ends everything that runs on a node.
    pub fn down(&mut self, index: usize) -> anyhow::Result<()> {
        if let Some(mut process) = self.nodes[index].process.take() {
            let pid = i32::try_from(process.id()).unwrap_or_default();
            let _ended_already = kill(Pid::from_raw(pid), Signal::SIGTERM);
            let begun = Instant::now();
            while matches!(process.try_wait(), Ok(None)) {
                if begun.elapsed() > ENDS_WITHIN {
                    let _ended_already = process.kill();
                }
                thread::sleep(PAUSE);
            }
        }
        let node = &self.nodes[index];
        let mut command = self.command(index, &self.binary);
        command.arg("down").arg("--data-dir").arg(&node.data).arg("--run-dir").arg(&node.run);
        command.args(["--instance", &node.instance]);
        said(&command.output().context("cannot run `hashplane down`")?).map(drop)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.nodes.len() {
            let _said = self.down(index);
            let node = &self.nodes[index];
            let _gone = Command::new("ip").args(["netns", "del", &node.netns]).output();
            remove_groups(&node.netns);
        }
        let _gone = Command::new("ip").args(["netns", "del", &self.outside]).output();
    }
}
