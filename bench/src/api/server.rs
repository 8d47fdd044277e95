//! A server as a process of its own, and what it costs.

use std::{
    fs,
    path::PathBuf,
    process::{Child as Process, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use control_plane::remote::Remote;
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;

use super::Options;

/// A server that ends with this, and its folder.
pub(super) struct Child {
    process: Process,
    folder: PathBuf,
    /// From its start to its first answer.
    pub(super) ready: Duration,
}

/// How long a start may take.
const START_MAX: Duration = Duration::from_secs(30);

impl Child {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Self> {
        let folder = options.folder.join(format!("hashplane-bench-api-{}", std::process::id()));
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let kubeconfig = folder.join("kubeconfig");
        let begin = Instant::now();
        let process = Command::new(&options.program)
            .args(["server", "--listen", "127.0.0.1:0", "--log", "warn", "--data-dir"])
            .arg(folder.join("data"))
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", options.program.display()))?;
        let mut child = Self { process, folder, ready: Duration::ZERO };
        loop {
            if child.answers().await {
                break;
            }
            if let Some(status) = child.process.try_wait().context("cannot look at the server")? {
                bail!("the server ended: {status}");
            }
            ensure!(begin.elapsed() < START_MAX, "the server does not serve after {START_MAX:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        child.ready = begin.elapsed();
        Ok(child)
    }

    async fn answers(&self) -> bool {
        let Ok(client) = self.client().await else { return false };
        let Ok(request) = request("GET", "/readyz", None) else { return false };
        client.request_text(request).await.is_ok()
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A connection of its own.
    pub(super) async fn client(&self) -> anyhow::Result<kube::Client> {
        let file = Kubeconfig::read_from(self.kubeconfig())?;
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(file, &options).await?;
        config.read_timeout = None;
        Ok(kube::Client::try_from(config)?)
    }

    pub(super) async fn remote(&self) -> anyhow::Result<Remote> {
        Ok(Remote::open(&self.kubeconfig()).await?)
    }

    /// Waits until so many nodes are registered.
    pub(super) async fn wait_for_nodes(&self, nodes: u32) -> anyhow::Result<()> {
        let client = self.client().await?;
        for _ in 0..600 {
            let list: Value = client.request(request("GET", "/api/v1/nodes", None)?).await?;
            let there = list["items"].as_array().map_or(0, Vec::len);
            if there >= usize::try_from(nodes)? {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{nodes} simulated nodes are not registered after 30 s")
    }

    /// Resident memory.
    pub(super) fn rss_mib(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).context("no VmRSS")?;
        Ok(kib.parse::<f64>().context("VmRSS is no number")? / 1024.0)
    }

    /// Seconds of processor time so far.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/stat", self.process.id());
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        // After the name in parentheses: state is the 3rd field, utime and stime the 14th and 15th.
        let (_, rest) = text.rsplit_once(')').context("no process name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("no times")?;
        // USER_HZ is 100 on every architecture that Linux calls by this interface.
        Ok((user + system) / 100.0)
    }
}

/// A request with a JSON body.
pub(super) fn request(
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> anyhow::Result<http::Request<Vec<u8>>> {
    let request = http::Request::builder().method(method).uri(path);
    let request = request.header("content-type", "application/json");
    Ok(request.body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default())?)
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}
