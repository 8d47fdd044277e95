//! The node itself: what it has, how it is, and that it lives.

use std::{
    fs,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use nix::sys::statvfs::statvfs;
use serde_json::{Value, json};
use tokio::time::{interval, sleep};

use crate::{cri::Runtime, settings::Settings};

/// Between heartbeats, as of kubelets.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A status that has not changed is written again after this long.
const REPEAT: Duration = Duration::from_mins(5);
/// What pods cannot have, in bytes: below it the node sends pods away.
const MEMORY_RESERVE: i64 = 100 << 20;
const LEASES: &str = "kube-node-lease";
/// Images that the status names at most, as of kubelets.
const IMAGES_MAX: usize = 50;

/// What the machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    /// CPUs, in thousandths.
    pub(crate) cpu: i64,
    /// Bytes of memory.
    pub(crate) memory: i64,
    /// Bytes of disk where pods' files are.
    pub(crate) disk: i64,
    /// Pods.
    pub(crate) pods: u32,
}

impl Capacity {
    pub(crate) fn read(settings: &Settings) -> Self {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = total.and_then(|it| it.trim().trim_end_matches(" kB").trim().parse().ok());
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let disk = statvfs(&settings.data).map_or(0, |it| it.blocks() * it.fragment_size());
        Self {
            cpu: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory: kilobytes.unwrap_or(0_i64) * 1024,
            disk: i64::try_from(disk).unwrap_or(i64::MAX),
            pods: settings.pods_max,
        }
    }

    /// Bytes of memory that pods may have.
    pub(crate) fn pods_memory(&self) -> i64 {
        (self.memory - MEMORY_RESERVE).max(0)
    }

    fn quantities(&self, memory: i64) -> Value {
        json!({
            "cpu": format!("{}m", self.cpu), "memory": format!("{}Ki", memory / 1024),
            "ephemeral-storage": format!("{}Ki", self.disk / 1024), "pods": self.pods.to_string(),
            "hugepages-1Gi": "0", "hugepages-2Mi": "0",
        })
    }
}

/// How the node is.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Why pods cannot run, if they cannot.
    pub(crate) not_ready: Mutex<Option<String>>,
    /// Which of memory, disk and processes are short.
    pub(crate) pressures: Mutex<[bool; 3]>,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|it| it.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".into(), |it| it.trim_matches('"').to_owned())
}

/// The node and its life in the API.
pub(crate) struct Registered {
    pub(crate) client: Client,
    pub(crate) settings: Settings,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) capacity: Capacity,
    pub(crate) health: Arc<Health>,
    pub(crate) runtime: Runtime,
    pub(crate) runtime_version: String,
}

impl Registered {
    fn labels(&self) -> Value {
        let name = &self.settings.node;
        let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let mut labels = json!({
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch,
            "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch,
        });
        for (key, value) in &self.settings.labels {
            labels[key] = json!(value);
        }
        labels
    }

    /// Makes the Node object, or gives the one that is there its labels; it is told as often as it takes.
    pub(crate) async fn register(&self) -> Node {
        let name = &self.settings.node;
        let api = Api::<Node>::all(self.client.clone());
        loop {
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": self.labels()},
            });
            let node: Node = serde_json::from_value(node).unwrap_or_default();
            let done = match api.create(&PostParams::default(), &node).await {
                Err(kube::Error::Api(error)) if error.code == 409 => {
                    let patch = json!({"metadata": {"labels": self.labels()}});
                    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
                }
                other => other,
            };
            match done {
                Ok(node) => return node,
                Err(error) => {
                    tracing::warn!(%error, "the node is not registered");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    async fn status(&self) -> Value {
        let name = &self.settings.node;
        let now = Timestamp::now();
        let images = self.runtime.images().await.unwrap_or_default();
        let images: Vec<Value> = images
            .into_iter()
            .map(|it| {
                let names = [it.repo_digests, it.repo_tags].concat();
                json!({"names": names, "sizeBytes": it.size})
            })
            .take(IMAGES_MAX)
            .collect();
        let mut addresses: Vec<Value> =
            self.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        let [memory, disk, processes] =
            *self.health.pressures.lock().unwrap_or_else(PoisonError::into_inner);
        let not_ready =
            self.health.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let condition = |kind: &str, is: bool, reason: &str, message: &str| {
            json!({
                "type": kind, "status": if is { "True" } else { "False" }, "reason": reason,
                "message": message, "lastHeartbeatTime": format!("{now:.0}"),
            })
        };
        let pressure = |kind: &str, is: bool, short: [&str; 2], enough: [&str; 2]| {
            let [reason, message] = if is { short } else { enough };
            condition(kind, is, reason, message)
        };
        let ready = match &not_ready {
            None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
            Some(words) => condition("Ready", false, "KubeletNotReady", words),
        };
        json!({
            "capacity": self.capacity.quantities(self.capacity.memory),
            "allocatable": self.capacity.quantities(self.capacity.pods_memory()),
            "addresses": addresses,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.settings.listen.port()}},
            "conditions": [
                pressure("MemoryPressure", memory,
                    ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
                    ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"]),
                pressure("DiskPressure", disk,
                    ["KubeletHasDiskPressure", "kubelet has disk pressure"],
                    ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"]),
                pressure("PIDPressure", processes,
                    ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
                    ["KubeletHasSufficientPID", "kubelet has sufficient PID available"]),
                ready,
            ],
            "images": images,
            "nodeInfo": {
                "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
                "operatingSystem": "linux", "osImage": os_image(),
                "kernelVersion": line("/proc/sys/kernel/osrelease"),
                "containerRuntimeVersion": self.runtime_version,
                "kubeletVersion": concat!("v1.33.0-hashplane-", env!("CARGO_PKG_VERSION")),
                "kubeProxyVersion": "", "machineID": line("/etc/machine-id"),
                "systemUUID": line("/sys/class/dmi/id/product_uuid"),
                "bootID": line("/proc/sys/kernel/random/boot_id"),
            },
        })
    }

    /// Writes the status; times of conditions change with the conditions only.
    pub(crate) async fn write_status(&self, known: Option<&Node>) -> Result<(), kube::Error> {
        let mut status = self.status().await;
        let old = serde_json::to_value(known.and_then(|it| it.status.as_ref())).unwrap_or_default();
        let old = old["conditions"].as_array().cloned().unwrap_or_default();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            let before = old.iter().find(|it| it["type"] == condition["type"]);
            let same = before.filter(|it| it["status"] == condition["status"]);
            condition["lastTransitionTime"] = match same {
                Some(before) => before["lastTransitionTime"].clone(),
                None => condition["lastHeartbeatTime"].clone(),
            };
        }
        let api = Api::<Node>::all(self.client.clone());
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&self.settings.node, &PatchParams::default(), &patch).await.map(drop)
    }

    /// Looks at the runtime and writes the status when something has changed, and now and then.
    pub(crate) async fn follow(self: Arc<Self>, mut changed: tokio::sync::watch::Receiver<()>) {
        let mut last = None;
        let mut written = tokio::time::Instant::now();
        let mut ticks = interval(HEARTBEAT);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                told = changed.changed() => if told.is_err() { return },
            }
            let words = match self.runtime.not_ready().await {
                Ok(words) => words,
                Err(status) => Some(format!("the runtime does not answer: {}", status.message())),
            };
            self.health.not_ready.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&words);
            let pressures = *self.health.pressures.lock().unwrap_or_else(PoisonError::into_inner);
            let now = (words, pressures);
            if last.as_ref() == Some(&now) && written.elapsed() < REPEAT {
                continue;
            }
            let api = Api::<Node>::all(self.client.clone());
            let known = api.get_opt(&self.settings.node).await.ok().flatten();
            if known.is_none() {
                // Somebody took it away: a node that lives comes back.
                self.register().await;
            }
            match self.write_status(known.as_ref()).await {
                Ok(()) => {
                    written = tokio::time::Instant::now();
                    last = Some(now);
                }
                Err(error) => tracing::warn!(%error, "the node's status is not written"),
            }
        }
    }

    /// Says every few seconds that the node lives.
    pub(crate) async fn beat(self: Arc<Self>) {
        let name = self.settings.node.clone();
        let api = Api::<Lease>::namespaced(self.client.clone(), LEASES);
        let mut ticks = interval(HEARTBEAT);
        loop {
            ticks.tick().await;
            let now = format!("{:.6}", Timestamp::now());
            let spec = json!({
                "holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": now,
            });
            let patch = Patch::Merge(json!({"spec": spec}));
            let done = match api.patch(&name, &PatchParams::default(), &patch).await {
                Err(kube::Error::Api(error)) if error.code == 404 => {
                    let lease = json!({"metadata": {"name": name}, "spec": spec});
                    let lease: Lease = serde_json::from_value(lease).unwrap_or_default();
                    api.create(&PostParams::default(), &lease).await
                }
                other => other,
            };
            if let Err(error) = done {
                tracing::warn!(%error, "no heartbeat");
            }
        }
    }
}

/// Addresses of this machine from which it would send to others. Nothing is sent.
pub fn own_addresses() -> Vec<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): only the way there is looked up.
    let ways = [("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let own = |(any, other): (&str, &str)| {
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.connect(other).ok()?;
        let ip = socket.local_addr().ok()?.ip();
        (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
    };
    ways.into_iter().filter_map(own).collect()
}
