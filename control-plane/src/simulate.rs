//! Simulated nodes: they register, send heartbeats, and run pods as state machines, without containers.
//!
//! For tests of scale. What a pod does is [`pod::next`]; here are nodes, clocks and writes.

pub mod pod;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use self::pod::{Next, Pace};
use crate::{
    api::status::{Failure, Reason},
    cache::{
        follow::{self, Told},
        kinds::{LEASES, NODES, PODS},
    },
    client::{Change, Client, Deletion},
    controllers::node::LEASE_NAMESPACE,
    object,
    runner::time,
};

/// How many nodes, and how they behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many; the first is `PREFIX-0`.
    pub nodes: u32,
    /// What their names begin with.
    pub prefix: String,
    /// What each node has: quantities of `cpu`, `memory` and `pods`.
    pub capacity: [(&'static str, String); 3],
    /// How long pods take.
    pub pace: Pace,
}

impl Default for Settings {
    fn default() -> Self {
        let capacity = [("cpu", "32".into()), ("memory", "256Gi".into()), ("pods", "250".into())];
        Self { nodes: 1, prefix: "simulated".into(), capacity, pace: Pace::default() }
    }
}

/// Time between heartbeats, as of kubelets.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Writes that wait for answers.
const WRITES_MAX: usize = 128;
/// Nodes that there can be: each has a /24 of 10.128.0.0/9.
pub const NODES_MAX: u32 = 1 << 15;

/// Runs the nodes until the task is dropped.
pub async fn run(client: Arc<dyn Client>, settings: Settings) -> Result<(), Failure> {
    for number in 0..settings.nodes {
        register(&client, &settings, number).await?;
    }
    tracing::info!(nodes = settings.nodes, "simulated nodes are registered");
    let mut tasks = JoinSet::new();
    tasks.spawn(beat(client.clone(), settings.clone()));
    let (tell, told) = mpsc::channel(1_024);
    tasks.spawn(follow::follow(client.clone(), PODS, tell));
    Runner::new(client, settings).run(told).await;
    Ok(())
}

fn name(settings: &Settings, number: u32) -> String {
    format!("{}-{number}", settings.prefix)
}

/// The first three bytes of a node's pod network.
fn network(number: u32) -> String {
    let [_, high, middle, _] = (0x0a80_0000_u32 + (number << 8)).to_be_bytes();
    format!("10.{high}.{middle}")
}

async fn register(
    client: &Arc<dyn Client>,
    settings: &Settings,
    number: u32,
) -> Result<(), Failure> {
    let (name, now) = (name(settings, number), Timestamp::now());
    let node = node(settings, &name, number, now);
    match client.create(NODES, node.clone()).await {
        Err(failure) if failure.reason() == Reason::AlreadyExists => {
            client.update_status(NODES, node).await?;
        }
        other => drop(other?),
    }
    match client.create(LEASES, lease(&name, now)).await {
        Err(failure) if failure.reason() == Reason::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

fn node(settings: &Settings, name: &str, number: u32, now: Timestamp) -> Value {
    let quantities: serde_json::Map<String, Value> =
        settings.capacity.iter().map(|(what, much)| ((*what).to_owned(), json!(much))).collect();
    let network = network(number);
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "type": kind, "status": status, "reason": reason, "message": "simulated",
            "lastHeartbeatTime": time(now), "lastTransitionTime": time(now),
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
            "hashplane.dev/simulated": "true",
        }},
        "spec": {"podCIDR": format!("{network}.0/24"), "podCIDRs": [format!("{network}.0/24")]},
        "status": {
            "capacity": quantities, "allocatable": quantities,
            "addresses": [
                {"type": "InternalIP", "address": format!("{network}.1")},
                {"type": "Hostname", "address": name},
            ],
            "conditions": [
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID"),
                condition("Ready", "True", "KubeletReady"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "operatingSystem": "linux", "osImage": "simulated",
                "kernelVersion": "simulated", "containerRuntimeVersion": "simulated://0",
                "kubeletVersion": concat!("v", env!("CARGO_PKG_VERSION"), "-hashplane"),
                "kubeProxyVersion": "", "machineID": "", "systemUUID": "", "bootID": "",
            },
        },
    })
}

fn lease(name: &str, now: Timestamp) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": LEASE_NAMESPACE, "name": name},
        "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": format!("{now:.6}")},
    })
}

/// Renews all leases, evenly over the time between two heartbeats.
async fn beat(client: Arc<dyn Client>, settings: Settings) {
    let pause = HEARTBEAT / settings.nodes.max(1);
    loop {
        for number in 0..settings.nodes {
            let (name, begin) = (name(&settings, number), Instant::now());
            if let Err(failure) = client.update(LEASES, lease(&name, Timestamp::now())).await {
                tracing::debug!(name, ?failure, "no heartbeat");
            }
            sleep_until(begin + pause).await;
        }
    }
}

type Id = (String, String);

/// What is known of a pod on one of the nodes.
struct Known {
    pod: Arc<Value>,
    since: Instant,
    address: String,
    /// Whether a write is under way.
    writing: bool,
}

/// All pods of all nodes.
struct Runner {
    client: Arc<dyn Client>,
    settings: Settings,
    numbers: BTreeMap<String, u32>,
    pods: BTreeMap<Id, Known>,
    due: BTreeSet<(Instant, Id)>,
    taken: BTreeSet<String>,
    cursors: BTreeMap<u32, u8>,
    writes: Arc<Semaphore>,
}

impl Runner {
    fn new(client: Arc<dyn Client>, settings: Settings) -> Self {
        let numbers = (0..settings.nodes).map(|number| (name(&settings, number), number)).collect();
        Self {
            client,
            settings,
            numbers,
            pods: BTreeMap::new(),
            due: BTreeSet::new(),
            taken: BTreeSet::new(),
            cursors: BTreeMap::new(),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
        }
    }

    async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        let (finished, mut done) = mpsc::unbounded_channel::<(Id, bool)>();
        loop {
            let next = self.due.first().map(|(at, _)| *at);
            let wait = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                told = told.recv() => match told {
                    Some(Told::Listed(_, objects)) => self.listed(&objects.items),
                    Some(Told::Changed(_, Change::Put(pod))) => self.put(&pod),
                    Some(Told::Changed(_, Change::Gone(pod))) => self.gone(&id(&pod)),
                    None => return,
                },
                Some((id, written)) = done.recv() => self.wrote(&id, written),
                () = wait => self.act(&finished),
            }
        }
    }

    fn listed(&mut self, pods: &[Arc<Value>]) {
        let there: BTreeSet<Id> = pods.iter().map(|pod| id(pod)).collect();
        let lost: Vec<Id> = self.pods.keys().filter(|id| !there.contains(*id)).cloned().collect();
        for id in lost {
            self.gone(&id);
        }
        for pod in pods {
            self.put(pod);
        }
    }

    fn put(&mut self, pod: &Arc<Value>) {
        let node = object::text(pod, &["spec", "nodeName"]);
        let Some(number) = self.numbers.get(node).copied() else { return };
        let id = id(pod);
        if self.pods.get(&id).is_some_and(|known| object::uid(&known.pod) != object::uid(pod)) {
            self.gone(&id);
        }
        let now = Instant::now();
        if let Some(known) = self.pods.get_mut(&id) {
            // Only what the pod is to do next starts its clock anew.
            if pod::stage(&known.pod) != pod::stage(pod) {
                known.since = now;
            }
            known.pod = pod.clone();
        } else {
            let address = self.address(number);
            let known = Known { pod: pod.clone(), since: now, address, writing: false };
            self.pods.insert(id.clone(), known);
        }
        self.due.insert((now, id));
    }

    fn gone(&mut self, id: &Id) {
        if let Some(known) = self.pods.remove(id) {
            self.taken.remove(&known.address);
        }
    }

    /// A free address of a node's network; none if all are taken.
    fn address(&mut self, number: u32) -> String {
        let cursor = self.cursors.entry(number).or_insert(1);
        for _ in 0..u8::MAX {
            *cursor = if *cursor >= 254 { 2 } else { *cursor + 1 };
            let address = format!("{}.{cursor}", network(number));
            if self.taken.insert(address.clone()) {
                return address;
            }
        }
        String::new()
    }

    /// Does what is due.
    fn act(&mut self, finished: &mpsc::UnboundedSender<(Id, bool)>) {
        let now = Instant::now();
        while let Some((at, _)) = self.due.first()
            && *at <= now
        {
            let Some((_, id)) = self.due.pop_first() else { return };
            let Some(known) = self.pods.get_mut(&id) else { continue };
            if known.writing {
                continue;
            }
            let age = now.duration_since(known.since);
            let pace = &self.settings.pace;
            match pod::next(&known.pod, &known.address, age, pace, Timestamp::now()) {
                Next::Nothing => {}
                Next::Wait(rest) => {
                    self.due.insert((now + rest, id));
                }
                next @ (Next::Status(_) | Next::Delete) => {
                    known.writing = true;
                    let (client, writes) = (self.client.clone(), self.writes.clone());
                    let (pod, finished) = (known.pod.clone(), finished.clone());
                    tokio::spawn(async move {
                        let _permit = writes.acquire().await;
                        let written = write(&client, &pod, next).await;
                        // The runner may have ended.
                        drop(finished.send((id, written)));
                    });
                }
            }
        }
    }

    fn wrote(&mut self, id: &Id, written: bool) {
        if let Some(known) = self.pods.get_mut(id) {
            known.writing = false;
            // After a success the watch tells what became of it.
            let pause = if written { HEARTBEAT } else { Duration::from_millis(50) };
            self.due.insert((Instant::now() + pause, id.clone()));
        }
    }
}

fn id(pod: &Value) -> Id {
    (object::namespace(pod).to_owned(), object::name(pod).to_owned())
}

async fn write(client: &Arc<dyn Client>, pod: &Arc<Value>, next: Next) -> bool {
    let result = match next {
        Next::Status(status) => {
            let mut pod = Value::clone(pod);
            pod["status"] = status;
            client.update_status(PODS, pod).await.map(drop)
        }
        Next::Delete => {
            let uid = Some(object::uid(pod).to_owned());
            let deletion = Deletion { uid, grace_s: Some(0), ..Deletion::default() };
            client.delete(PODS, object::namespace(pod), object::name(pod), deletion).await
        }
        Next::Nothing | Next::Wait(_) => Ok(()),
    };
    match result {
        Ok(()) => true,
        Err(failure) => {
            tracing::debug!(pod = object::name(pod), ?failure, "a pod's state is not written");
            if failure.reason() == Reason::ServiceUnavailable {
                sleep(Duration::from_secs(1)).await;
            }
            false
        }
    }
}
