//! A containerd of our own: its settings, its life, images that it is given.

use std::{
    fmt::Write as _,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use crate::{cri::Runtime, pause};

/// How long containerd has until it answers.
const START_MAX: Duration = Duration::from_secs(30);
/// Before it is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// The number of the capability (capabilities(7)).
const CAP_SYS_RESOURCE: u32 = 24;

/// Why there is no runtime.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error("cannot {doing} {}: {cause}", path.display())]
    File {
        /// What failed.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A program.
    #[error(
        "cannot start {program}: {cause}; install containerd and runc, or give --runtime-endpoint"
    )]
    Start {
        /// Which.
        program: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// It does not answer.
    #[error("containerd does not answer in {START_MAX:?}; see {}", log.display())]
    Silent {
        /// Where it says more.
        log: PathBuf,
    },
    /// An image.
    #[error("containerd does not take the image {what}: {words}")]
    Image {
        /// Which.
        what: String,
        /// What it says.
        words: String,
    },
}

/// Whether this process may make the kernel spare others when memory is short (`CAP_SYS_RESOURCE`). Inside
/// some containers and machines root may not.
fn may_lower_oom_score() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|it| it.strip_prefix("CapEff:"));
    let bits = bits.and_then(|it| u64::from_str_radix(it.trim(), 16).ok()).unwrap_or(0);
    bits & (1 << CAP_SYS_RESOURCE) != 0
}

/// Where things of our own containerd are.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    root: PathBuf,
    state: PathBuf,
}

impl Places {
    /// Below the directories for what lasts and for what goes with the machine's next start.
    pub(crate) fn new(data: &Path, run: &Path) -> Self {
        Self { root: data.join("containerd"), state: run.join("containerd") }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// Where network configuration is read from.
    pub(crate) fn cni_conf(&self) -> PathBuf {
        self.root.join("cni/conf")
    }

    /// Where network plugins are.
    pub(crate) fn cni_bin(&self) -> PathBuf {
        self.root.join("cni/bin")
    }

    fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    fn pid_file(&self) -> PathBuf {
        self.state.join("containerd.pid")
    }

    /// The process that was started last, if it is containerd still.
    pub(crate) fn pid(&self) -> Option<nix::unistd::Pid> {
        let pid: i32 = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        (name.trim() == "containerd").then(|| nix::unistd::Pid::from_raw(pid))
    }

    fn log_file(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    fn config(&self) -> String {
        let text = |path: &Path| format!("{:?}", path.display().to_string());
        let mut config = String::from("version = 2\n");
        let mut line = |line: String| {
            let _always_fits = writeln!(config, "{line}");
        };
        line(format!("root = {}", text(&self.root.join("root"))));
        line(format!("state = {}", text(&self.state.join("state"))));
        line(
            "disabled_plugins = [\"io.containerd.snapshotter.v1.aufs\", \
              \"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.devmapper\", \
              \"io.containerd.snapshotter.v1.zfs\"]"
                .into(),
        );
        line(format!("[grpc]\naddress = {}", text(&self.socket())));
        line("[plugins.\"io.containerd.grpc.v1.cri\"]".into());
        line(format!("sandbox_image = {:?}", pause::IMAGE));
        line("stream_server_address = \"127.0.0.1\"".into());
        if !may_lower_oom_score() {
            line("restrict_oom_score_adj = true".into());
        }
        line("[plugins.\"io.containerd.grpc.v1.cri\".cni]".into());
        line(format!("conf_dir = {}", text(&self.cni_conf())));
        line(format!("bin_dir = {}", text(&self.cni_bin())));
        config
    }

    /// Writes the settings.
    fn write(&self) -> Result<(), Error> {
        for path in [&self.root, &self.state, &self.cni_conf(), &self.cni_bin()] {
            let failed = |cause| Error::File { doing: "make", path: path.clone(), cause };
            fs::create_dir_all(path).map_err(failed)?;
        }
        let path = self.config_file();
        fs::write(&path, self.config()).map_err(|cause| Error::File { doing: "write", path, cause })
    }

    fn spawn(&self) -> Result<Child, Error> {
        let path = self.log_file();
        let mut log = fs::OpenOptions::new();
        let log = log.create(true).append(true).open(&path);
        let log = log.map_err(|cause| Error::File { doing: "write", path, cause })?;
        // A group of its own: what ends us from a terminal must not end it before us.
        Command::new("containerd")
            .arg("--config")
            .arg(self.config_file())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(|cause| Error::Start { program: "containerd", cause })
            .inspect(|child| {
                let pid = child.id().unwrap_or_default();
                if let Err(error) = fs::write(self.pid_file(), pid.to_string()) {
                    tracing::warn!(%error, "the process of containerd is not noted");
                }
            })
    }

    /// Starts containerd unless one answers already, and waits until it answers.
    pub(crate) async fn start(&self, runtime: &Runtime) -> Result<Option<Child>, Error> {
        self.write()?;
        if self.socket().exists() && runtime.version().await.is_ok() {
            return Ok(None);
        }
        // One that is there and busy is waited for: two of them would fight over the same files.
        let child = if self.pid().is_some() { None } else { Some(self.spawn()?) };
        let end = Instant::now() + START_MAX;
        loop {
            if runtime.version().await.is_ok() {
                return Ok(child);
            }
            if Instant::now() > end {
                return Err(Error::Silent { log: self.log_file() });
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it again whenever it ends. Containers live on without it.
    pub(crate) async fn supervise(self, runtime: Runtime, mut child: Option<Child>) {
        loop {
            match &mut child {
                Some(running) => {
                    let status = running.wait().await;
                    tracing::warn!(?status, "containerd has ended and is started again");
                    sleep(PAUSE).await;
                }
                // Somebody else's, or that of a life before: look after it from afar.
                None => loop {
                    sleep(10 * PAUSE).await;
                    if runtime.version().await.is_err() {
                        break;
                    }
                },
            }
            child = match self.start(&runtime).await {
                Ok(child) => child,
                Err(error) => {
                    tracing::error!(%error, "containerd is not there");
                    sleep(PAUSE).await;
                    None
                }
            };
        }
    }

    /// Gives it the image of the pods' first process, and all archives of a directory.
    pub(crate) async fn import(&self, images: &Path) -> Result<(), Error> {
        let path = self.root.join("pause.tar");
        let failed = |cause| Error::File { doing: "write", path: path.clone(), cause };
        let archive = pause::archive().map_err(failed)?;
        fs::write(&path, archive).map_err(failed)?;
        self.import_file(&path).await?;
        let mut archives: Vec<PathBuf> = fs::read_dir(images)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|it| it.path()))
            .filter(|path| path.extension().is_some_and(|it| it == "tar"))
            .collect();
        archives.sort();
        for archive in archives {
            // One bad archive keeps the node from nothing else.
            match self.import_file(&archive).await {
                Ok(()) => tracing::info!(archive = %archive.display(), "images are imported"),
                Err(error) => tracing::warn!(%error, "images are not imported"),
            }
        }
        Ok(())
    }

    async fn import_file(&self, path: &Path) -> Result<(), Error> {
        let output = Command::new("ctr")
            .arg("--address")
            .arg(self.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .await
            .map_err(|cause| Error::Start { program: "ctr", cause })?;
        if output.status.success() {
            return Ok(());
        }
        let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::Image { what: path.display().to_string(), words })
    }
}
