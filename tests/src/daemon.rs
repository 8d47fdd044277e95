//! `hashplane proxy` on a node of the lab, and the tools that look at it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Output, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use dataplane_user::{
    backend::Mode, daemon::settings::socket_path, http::client, view::ServiceName,
};

use crate::{
    lab::{self, NodeName, Place, eventually, within},
    manifests::Written,
};

/// Where daemons in a lab report; each node has a loopback of its own.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
/// What chooses the backend of daemons that are not told otherwise.
const MODE: &str = "HASHPLANE_MODE";
/// How long a daemon may take until it is healthy.
const START_WAIT: Duration = Duration::from_secs(20);
/// How long a change of the manifests may take until it is in the kernel.
const SYNC_WAIT: Duration = Duration::from_secs(10);
/// Longer than the loop lets an object wait that comes right behind another.
const AFTER_MARK: Duration = Duration::from_millis(30);

/// How to run a daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The binary `hashplane`.
    pub binary: PathBuf,
    /// Arguments beside those that every daemon of a lab gets.
    pub arguments: Vec<String>,
}

impl DaemonOptions {
    /// Runs `binary` with the usual arguments.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into(), arguments: Vec::new() }
    }

    /// Adds arguments, in place of the usual ones with the same flag.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}

/// A daemon that runs on a node. Dropping it kills it; its pinned programs go on.
#[derive(Debug)]
pub struct Daemon {
    host: Arc<Place>,
    node: NodeName,
    options: DaemonOptions,
    bpffs: PathBuf,
    arguments: Vec<String>,
    state: PathBuf,
    log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    pub(crate) fn start(
        lab: &str,
        manifests: &Path,
        host: Arc<Place>,
        node: NodeName,
        options: DaemonOptions,
    ) -> anyhow::Result<Self> {
        let folder = lab::node_folder(lab, node);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let bpffs = lab::bpffs(lab);
        let state = folder.join("state");
        let arguments = usual_arguments(lab, manifests, &host, node, &options.arguments);
        let log = folder.join("daemon.log");
        let mut daemon = Self { host, node, options, bpffs, arguments, state, log, child: None };
        daemon.start_again()?;
        Ok(daemon)
    }

    /// Starts the process, which must not be running, and waits until it is healthy.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        ensure!(self.child.is_none(), "the daemon of {} is running", self.node);
        self.spawn()?;
        let healthy = eventually(START_WAIT, || match self.ended()? {
            // Nothing to wait for: the outer result ends the wait, the inner one is the answer.
            Some(status) => Ok(Err(anyhow!("it has ended with {status}"))),
            None => self.health().map(Ok),
        });
        let healthy = healthy.and_then(|answer| answer);
        let log = || format!("the daemon of {} does not get healthy:\n{}", self.node, self.log());
        healthy.map(drop).with_context(log)
    }

    /// How the process has ended, if it has.
    fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        let child = self.child.as_mut().context("the daemon is not running")?;
        child.try_wait().context("cannot ask for the daemon's end")
    }

    fn spawn(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("cannot open {}", self.log.display()))?;
        // To try out what the node can do takes most of a second, and the answer is known here.
        let mode = std::env::var_os(MODE).unwrap_or_else(|| "ebpf".into());
        let child = self
            .host
            .command(&self.options.binary)
            .env(MODE, mode)
            .arg("proxy")
            .args(&self.arguments)
            .args(&self.options.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            // Ctrl-C is for the owner of the lab, who ends the daemon in its own way.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.options.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends the process at once, as `kill -9` does.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        child.kill().context("cannot kill the daemon")?;
        child.wait().context("cannot wait for the daemon")?;
        Ok(())
    }

    /// Asks the process to end and waits for it.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the daemon is not running")?;
        let pid = Pid::from_raw(i32::try_from(child.id()).context("no such process")?);
        kill(pid, Signal::SIGTERM).context("cannot signal the daemon")?;
        let ended = eventually(Duration::from_secs(10), || {
            child.try_wait().context("cannot wait for the daemon")?.context("it still runs")
        });
        let status = ended.inspect_err(|_runs| drop(child.kill()))?;
        ensure!(status.success(), "the daemon ended with {status}:\n{}", self.log());
        Ok(())
    }

    /// Lets the process run on when this is dropped.
    pub fn leave(&mut self) {
        self.child = None;
    }

    /// The daemon's state directory.
    pub fn state_dir(&self) -> &Path {
        &self.state
    }

    /// What the daemon has logged so far, all of its runs.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Succeeds while `/healthz` does.
    pub fn health(&self) -> anyhow::Result<String> {
        http_get(self.host.netns(), HEALTH, "/healthz")
    }

    /// Everything that `/metrics` says.
    pub fn metrics(&self) -> anyhow::Result<String> {
        http_get(self.host.netns(), METRICS, "/metrics")
    }

    /// The sum of all samples of a metric whose labels contain all of `labels`.
    pub fn metric(&self, name: &str, labels: &[&str]) -> anyhow::Result<f64> {
        let text = self.metrics()?;
        let samples = text.lines().filter(|line| {
            let (full_name, _) = line.split_once(['{', ' ']).unwrap_or((line, ""));
            full_name == name && labels.iter().all(|label| line.contains(label))
        });
        let values = samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Ok(values.sum())
    }

    /// What `hashplane <tool> -o json` prints.
    pub fn json(&self, tool: &str) -> anyhow::Result<Value> {
        let text = self.tool(&[tool, "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("{tool} printed no JSON: {text}"))
    }

    /// Waits until packets from and to a pod on this node are translated.
    pub fn wait_for_pod(&self, pod: &Place) -> anyhow::Result<()> {
        eventually(SYNC_WAIT, || self.sees_pod(pod))
            .with_context(|| format!("{} does not see a pod\n{}", self.node, self.log()))
    }

    /// Succeeds once the backend that serves knows the link of a pod.
    fn sees_pod(&self, pod: &Place) -> anyhow::Result<()> {
        let link = format!("hp{}", pod.name());
        let report = self.report()?;
        if report["mode"].as_str().is_none_or(|mode| mode == Mode::Ebpf.name()) {
            let attached = self.metric("hashplane_attached", &[&format!("target=\"{link}\"")])?;
            ensure!(attached >= 2.0, "{attached} programs are attached to {link}");
            return Ok(());
        }
        let links = report["pod_links"].as_array().context("the report names no pod links")?;
        ensure!(links.iter().any(|known| known == &link), "{link} is not among {links:?}");
        Ok(())
    }

    /// Waits until everything that was written is in the kernel.
    pub fn wait_for(&self, written: &Written) -> anyhow::Result<()> {
        let mark = written.mark();
        eventually(SYNC_WAIT, || {
            let names = self.programmed()?;
            ensure!(names.contains(&mark), "{mark} is not among {names:?}");
            Ok(())
        })
        .with_context(|| self.state_of(written))?;
        // Objects that come behind the mark in their file may be on their way.
        thread::sleep(lab::slowed(AFTER_MARK));
        Ok(())
    }

    /// The services, `namespace/name`, that the kernel serves, unless there is more to write.
    pub fn programmed(&self) -> anyhow::Result<BTreeSet<String>> {
        let services: Vec<ServiceName> = self.ask("/services")?;
        let report = self.report()?;
        ensure!(report["pending"] == 0, "changes wait for the kernel: {report}");
        let name = |name: ServiceName| format!("{}/{}", name.namespace, name.service);
        Ok(services.into_iter().map(name).collect())
    }

    /// What the daemon says of itself.
    pub fn report(&self) -> anyhow::Result<Value> {
        self.ask("/status")
    }

    /// What the daemon answers on its socket.
    fn ask<T: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let socket = socket_path(&self.state, self.node.as_str());
        client::get(&socket, path).with_context(|| format!("{} does not tell {path}", self.node))
    }

    /// What is known of a daemon that does not sync.
    fn state_of(&self, written: &Written) -> String {
        let said = self.json("status").map(|status| status["report"].to_string());
        let said = said.unwrap_or_else(|error| format!("{error:?}"));
        let is_there = written.path().is_file();
        let (node, file, log) = (self.node, written.file(), self.log());
        format!("{node} does not sync {file} (there: {is_there})\nit says {said}\n{log}")
    }

    /// What `hashplane <arguments>` prints on this node.
    pub fn tool(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "hashplane {arguments:?} failed: {said}");
        String::from_utf8(output.stdout).context("a tool printed something else than UTF-8")
    }

    /// Runs `hashplane <arguments>` on this node, for its daemon's maps.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.host.command(&self.options.binary);
        command.args(arguments).arg("--bpffs").arg(&self.bpffs);
        command.args(["--instance", self.node.as_str(), "--state-dir"]).arg(&self.state);
        command.output().with_context(|| format!("cannot run hashplane {arguments:?}"))
    }

    /// Runs a second daemon with the same arguments, which should end at once.
    pub fn run_second_daemon(&self) -> anyhow::Result<Output> {
        let mut command = self.host.command("timeout");
        command.arg("10").arg(&self.options.binary).arg("proxy").args(&self.arguments);
        command.output().context("cannot run a second daemon")
    }

    /// Where bpffs is mounted.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The folder where the programs and maps of this daemon are pinned.
    pub fn instance_pins(&self) -> PathBuf {
        let abi = format!("v{}", dataplane_common::ABI);
        self.bpffs.join("hashplane").join(abi).join(self.node.as_str())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The arguments of every daemon of a lab, but for flags that `own` has.
fn usual_arguments(
    lab: &str,
    manifests: &Path,
    host: &Place,
    node: NodeName,
    own: &[String],
) -> Vec<String> {
    let addresses = host.addresses();
    let state = lab::node_folder(lab, node).join("state");
    [
        ("--manifests", manifests.display().to_string()),
        ("--node-name", node.to_string()),
        ("--node-ip", format!("{},{}", addresses.v4, addresses.v6)),
        ("--bpffs", lab::bpffs(lab).display().to_string()),
        ("--state-dir", state.display().to_string()),
        ("--instance", node.to_string()),
        ("--cgroup", lab::node_cgroup(lab, node).display().to_string()),
        ("--nics", "eth0".to_owned()),
        ("--pod-links", "hp*".to_owned()),
        ("--metrics-address", METRICS.to_string()),
        ("--health-address", HEALTH.to_string()),
        // Small maps: those of a real node take most of the time that a daemon needs to start.
        ("--frontends-max", "16384".to_owned()),
        ("--endpoints-max", "65536".to_owned()),
        ("--flows-max", "16384".to_owned()),
        ("--peers-max", "16384".to_owned()),
    ]
    .into_iter()
    .filter(|(flag, _)| !own.iter().any(|own| own == flag))
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect()
}

/// The body of a successful answer.
fn http_get(netns: &str, at: SocketAddr, path: &str) -> anyhow::Result<String> {
    within(netns, || {
        let mut stream = TcpStream::connect(at).with_context(|| format!("cannot reach {at}"))?;
        stream.set_read_timeout(Some(lab::slowed(Duration::from_secs(5))))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).with_context(|| format!("cannot read {path}"))?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| anyhow!("no HTTP: {text}"))?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{path} says {head}: {body}");
        Ok(body.to_owned())
    })
}
