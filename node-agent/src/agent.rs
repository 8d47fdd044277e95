//! The agent as a whole: what it starts, what it follows, and who is told of what.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use crate::{
    announce,
    cgroup::Groups,
    configs::{self, Configs, Key},
    containerd::{self, Places},
    cri::{self, Runtime, events::Happened},
    dns,
    events::Events,
    network::follow,
    node::{Capacity, Health, Registered},
    pod::{
        env::Place,
        seen::label,
        worker::{Told, Worker},
    },
    pressure,
    quantity::pod_request,
    serve,
    settings::Settings,
    shared::Shared,
};

pub use crate::node::own_addresses;

/// Messages that wait for a worker.
const WAITING_MAX: usize = 256;
/// Runtimes without events are asked this often.
const RELIST: Duration = Duration::from_secs(1);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory.
    #[error("cannot make {}: {cause}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The way to the API.
    #[error("the kubeconfig {} is not as it should be: {words}", path.display())]
    Kubeconfig {
        /// Which file.
        path: PathBuf,
        /// Why.
        words: String,
    },
    /// The runtime.
    #[error(transparent)]
    Containerd(#[from] containerd::Error),
    /// The runtime of somebody else.
    #[error("the runtime at {} does not answer: {words}", socket.display())]
    Runtime {
        /// Its socket.
        socket: PathBuf,
        /// What it says.
        words: String,
    },
    /// Control groups.
    #[error("cannot read where control groups are mounted: {0}")]
    Groups(io::Error),
    /// The machine has no address that others could reach.
    #[error("this machine has no address for others; give --node-ip")]
    NoAddress,
    /// Serving.
    #[error(transparent)]
    Serve(#[from] serve::Error),
}

/// Runs until `stop` is done. Containers live on.
pub async fn run(settings: Settings, stop: impl Future<Output = ()>) -> Result<(), Error> {
    tokio::select! {
        ended = work(settings) => ended,
        () = stop => Ok(()),
    }
}

async fn work(settings: Settings) -> Result<(), Error> {
    for path in [&settings.data, &settings.run] {
        let failed = |cause| Error::Directory { path: path.clone(), cause };
        fs::create_dir_all(path).map_err(failed)?;
    }
    let client = client(&settings).await?;
    let mut tasks = JoinSet::new();
    let (runtime, places) = runtime(&settings, &mut tasks).await?;
    let version = runtime.version().await.unwrap_or_default();
    let addresses = addresses(&settings)?;
    let capacity = Capacity::read(&settings);
    let health = Arc::new(Health::default());
    let registered = Arc::new(Registered {
        client: client.clone(),
        settings: settings.clone(),
        addresses: addresses.clone(),
        capacity,
        health: health.clone(),
        runtime: runtime.clone(),
        runtime_version: format!("{}://{}", version.runtime_name, version.runtime_version),
    });
    let (config_changed, changed) = mpsc::channel(WAITING_MAX);
    let place = Place {
        node: settings.node.clone(),
        host: addresses,
        cpu: capacity.cpu,
        memory: capacity.pods_memory(),
    };
    let shared = Arc::new(Shared::new(
        settings.clone(),
        runtime.clone(),
        client.clone(),
        Configs::new(client.clone(), config_changed),
        Groups::find(&settings.cgroup).map_err(Error::Groups)?,
        Events::new(client.clone(), settings.node.clone()),
        place,
        capacity.memory,
    ));
    let pods = serve::Pods::default();
    let server = serve::Server::new(shared.clone(), pods.clone());
    tasks.spawn(serve::listen(server, &settings).await?);
    let node = registered.register().await;
    shared.events.node(&node, false, "Starting", "Starting the node agent.".into());
    let (node_changed, told) = watch::channel(());
    tasks.spawn(registered.clone().follow(told));
    tasks.spawn(registered.beat());
    let (ready, nodes) = watch::channel(announce::Nodes::new());
    tasks.spawn(follow::follow(shared.clone(), places, node_changed, ready));
    tasks.spawn(announce::follow(shared.clone(), nodes));
    tasks.spawn(dns::follow::follow(shared.clone()));
    let (evict, evicted) = mpsc::channel(1);
    tasks.spawn(pressure::Watcher::new(&shared, &health, &pods, &node, evict).run());
    if !settings.dns.is_empty() {
        tasks.spawn(serve_names(shared.clone(), node));
    }
    tasks.spawn(serve::logs::rotate(shared.clone()));
    let (happened, happens) = mpsc::channel(WAITING_MAX);
    tasks.spawn(follow_runtime(runtime, happened));
    let (workers, ended) = (BTreeMap::new(), JoinSet::new());
    let agent = Agent { shared, capacity, health, pods, workers, ended };
    Box::pin(agent.run(changed, happens, evicted)).await;
    Ok(())
}

fn addresses(settings: &Settings) -> Result<Vec<IpAddr>, Error> {
    let given = settings.addresses.clone();
    let addresses = if given.is_empty() { own_addresses() } else { given };
    if addresses.is_empty() { Err(Error::NoAddress) } else { Ok(addresses) }
}

async fn client(settings: &Settings) -> Result<Client, Error> {
    let path = &settings.kubeconfig;
    let failed = |words: String| Error::Kubeconfig { path: path.clone(), words };
    let file = Kubeconfig::read_from(path).map_err(|error| failed(error.to_string()))?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let mut config = config.map_err(|error| failed(error.to_string()))?;
    // Watches are silent for as long as nothing changes.
    config.read_timeout = None;
    Client::try_from(config).map_err(|error| failed(error.to_string()))
}

/// The runtime that is given, or a containerd of our own.
async fn runtime(
    settings: &Settings,
    tasks: &mut JoinSet<()>,
) -> Result<(Runtime, Option<Places>), Error> {
    if let Some(socket) = &settings.runtime {
        let runtime = Runtime::new(socket);
        if let Err(status) = runtime.version().await {
            let words = status.message().to_owned();
            return Err(Error::Runtime { socket: socket.clone(), words });
        }
        return Ok((runtime, None));
    }
    let places = Places::new(&settings.data, &settings.run);
    let runtime = Runtime::new(&places.socket());
    let child = places.start(&runtime).await?;
    places.import(&settings.images).await?;
    tasks.spawn(places.clone().supervise(runtime.clone(), child));
    Ok((runtime, Some(places)))
}

/// Tells which containers something happens to.
async fn follow_runtime(runtime: Runtime, happened: mpsc::Sender<Option<Happened>>) {
    loop {
        match cri::events::subscribe(runtime.channel()).await {
            Ok(events) => {
                let mut events = std::pin::pin!(events);
                // What happened before is looked for.
                if happened.send(None).await.is_err() {
                    return;
                }
                while let Some(Ok(event)) = events.next().await {
                    if happened.send(Some(event)).await.is_err() {
                        return;
                    }
                }
                sleep(RELIST / 10).await;
            }
            Err(_has_none) => {
                if happened.send(None).await.is_err() {
                    return;
                }
                sleep(RELIST).await;
            }
        }
    }
}

/// Answers for the names of the cluster, and says so in the API.
async fn serve_names(shared: Arc<Shared>, node: Node) {
    let place = shared.place();
    let addresses: Vec<SocketAddr> =
        place.host.iter().map(|ip| SocketAddr::new(*ip, dns::PORT)).collect();
    let mut others = dns::forward::servers(shared.resolv());
    others.retain(|it| !shared.settings.dns.contains(&it.ip()) && !place.host.contains(&it.ip()));
    let forwarder = dns::forward::Forwarder::new(others);
    let server = Arc::new(dns::server::Server::new(shared.zone.clone(), forwarder));
    while let Err(error) = server.listen(&addresses).await {
        tracing::error!(%error, "pods of this node find no names");
        sleep(RELIST).await;
    }
    dns::publish::publish(shared.client.clone(), node, place.host).await;
}

struct Handle {
    tell: mpsc::Sender<Told>,
    pod: Arc<Pod>,
    uses: BTreeSet<Key>,
}

struct Agent {
    shared: Arc<Shared>,
    capacity: Capacity,
    health: Arc<Health>,
    pods: serve::Pods,
    workers: BTreeMap<String, Handle>,
    ended: JoinSet<String>,
}

impl Agent {
    async fn run(
        mut self,
        mut changed: mpsc::Receiver<Key>,
        mut happens: mpsc::Receiver<Option<Happened>>,
        mut evicted: mpsc::Receiver<pressure::Eviction>,
    ) {
        let api = Api::<Pod>::all(self.shared.client.clone());
        let own = format!("spec.nodeName={}", self.shared.settings.node);
        let config = watcher::Config::default().fields(&own);
        let mut events = std::pin::pin!(watcher::watcher(api, config).default_backoff());
        let mut listed: Option<BTreeSet<String>> = None;
        loop {
            tokio::select! {
                Some(event) = events.next() => match event {
                    Ok(Event::Init) => listed = Some(BTreeSet::new()),
                    Ok(Event::InitApply(pod)) => {
                        let uid = self.put(pod).await;
                        if let Some(listed) = &mut listed {
                            listed.insert(uid);
                        }
                    }
                    Ok(Event::Apply(pod)) => drop(self.put(pod).await),
                    Ok(Event::Delete(pod)) => {
                        self.tell(pod.metadata.uid.as_deref().unwrap_or_default(), Told::Gone);
                    }
                    Ok(Event::InitDone) => {
                        if let Some(listed) = listed.take() {
                            self.only(&listed).await;
                        }
                    }
                    Err(error) => tracing::debug!(%error, "the watch of pods goes on later"),
                },
                Some(key) = changed.recv() => {
                    for handle in self.workers.values().filter(|it| it.uses.contains(&key)) {
                        look(&handle.tell);
                    }
                }
                Some(id) = happens.recv() => match id {
                    Some(Happened { id, has_ended }) => {
                        if let Some(uid) = self.shared.owner(&id) {
                            let told = if has_ended { Told::Ended(id) } else { Told::Look };
                            self.tell(&uid, told);
                        }
                    }
                    None => self.workers.values().for_each(|it| look(&it.tell)),
                },
                Some((uid, message)) = evicted.recv() => {
                    self.tell(&uid, Told::Refused("Evicted", message));
                }
                Some(ended) = self.ended.join_next() => {
                    if let Ok(uid) = ended {
                        self.forget(&uid);
                    }
                }
            }
        }
    }

    fn tell(&self, uid: &str, told: Told) {
        let Some(handle) = self.workers.get(uid) else { return };
        if handle.tell.try_send(told).is_err() {
            tracing::warn!(uid, "a pod's worker does not listen");
        }
    }

    /// Takes a pod as it is now.
    async fn put(&mut self, pod: Pod) -> String {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let uses = configs::used_by(&pod);
        self.pods.put(&pod);
        let pod = Arc::new(pod);
        if let Some(handle) = self.workers.get_mut(&uid) {
            handle.pod = pod.clone();
            handle.uses = uses;
            let tell = handle.tell.clone();
            // A worker that is busy hears of it in its turn; the order stays.
            if let Err(error) = tell.send(Told::Pod(pod)).await {
                tracing::debug!(%error, "a pod's worker has ended");
            }
            return uid;
        }
        let (tell, told) = mpsc::channel(WAITING_MAX);
        let refused = self.refused(&pod).await;
        let worker = Worker::new(self.shared.clone(), Pod::clone(&pod), tell.clone(), told);
        if let Some((reason, message)) = refused {
            self.shared.events.pod(&pod, None, true, reason, message.clone());
            if let Err(error) = tell.send(Told::Refused(reason, message)).await {
                tracing::debug!(%error, "a pod's worker has ended");
            }
        }
        self.workers.insert(uid.clone(), Handle { tell, pod, uses });
        let own = uid.clone();
        self.ended.spawn(async move {
            Box::pin(worker.run()).await;
            own
        });
        uid
    }

    /// Why the node cannot have a new pod.
    async fn refused(&self, pod: &Pod) -> Option<(&'static str, String)> {
        let status = pod.status.as_ref();
        let phase = status.and_then(|it| it.phase.as_deref());
        if pod.metadata.deletion_timestamp.is_some() || phase != Some("Pending") {
            return None;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if !self.shared.runtime.sandboxes(Some((label::UID, uid))).await.ok()?.is_empty() {
            return None;
        }
        let pressures = *self.health.pressures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refused) = pressure::refuses(pressures, pod) {
            return Some(refused);
        }
        let others: Vec<&Pod> =
            self.workers.values().map(|it| &*it.pod).filter(|it| lives(it)).collect();
        let places = u32::try_from(others.len()).unwrap_or(u32::MAX);
        if places >= self.capacity.pods {
            return Some((
                "OutOfpods",
                format!(
                    "Pod was rejected: Node didn't have enough resource: pods, requested: 1, used: {places}, capacity: {}",
                    self.capacity.pods
                ),
            ));
        }
        for (name, word, have) in [
            ("cpu", "OutOfcpu", self.capacity.cpu),
            ("memory", "OutOfmemory", self.capacity.pods_memory() * 1000),
        ] {
            let asked = pod_request(pod, name);
            let used: i64 = others.iter().map(|it| pod_request(it, name)).sum();
            if asked > 0 && used + asked > have {
                let unit = if name == "cpu" { 1 } else { 1000 };
                return Some((
                    word,
                    format!(
                        "Pod was rejected: Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                        asked / unit,
                        used / unit,
                        have / unit,
                    ),
                ));
            }
        }
        let own = host_ports(pod);
        let taken = others.iter().flat_map(|it| host_ports(it)).any(|it| own.contains(&it));
        if taken {
            let message =
                "Pod was rejected: node(s) didn't have free ports for the requested pod ports";
            return Some(("NodePorts", message.into()));
        }
        None
    }

    /// Pods that the API does not know any more end.
    async fn only(&mut self, listed: &BTreeSet<String>) {
        for uid in self.workers.keys().filter(|uid| !listed.contains(*uid)) {
            self.tell(uid, Told::Gone);
        }
        let sandboxes = match self.shared.runtime.sandboxes(None).await {
            Ok(sandboxes) => sandboxes,
            Err(status) => {
                tracing::warn!(%status, "cannot look for pods of nobody");
                return;
            }
        };
        for sandbox in sandboxes {
            let uid = sandbox.labels.get(label::UID).cloned().unwrap_or_default();
            if self.workers.contains_key(&uid) {
                continue;
            }
            tracing::info!(uid, sandbox = sandbox.id, "a pod of nobody is removed");
            let shared = self.shared.clone();
            tokio::spawn(async move {
                let runtime = &shared.runtime;
                let stopped = runtime.stop_sandbox(&sandbox.id).await;
                let removed = runtime.remove_sandbox(&sandbox.id).await;
                if let Err(status) = stopped.and(removed) {
                    tracing::warn!(uid, %status, "a pod of nobody stays");
                }
                let directory = shared.settings.data.join("pods").join(&uid);
                if let Err(error) = crate::volume::tear_down(&directory) {
                    tracing::warn!(uid, %error, "files of a pod of nobody stay");
                }
                shared.groups.remove(&uid);
            });
        }
    }

    fn forget(&mut self, uid: &str) {
        if let Some(handle) = self.workers.remove(uid) {
            self.pods.remove(&handle.pod);
        }
        let used = self.workers.values().flat_map(|it| it.uses.iter().cloned()).collect();
        self.shared.configs.keep_only(&used);
    }
}

/// One look that is waited for is enough.
fn look(tell: &mpsc::Sender<Told>) {
    let _waits_already = tell.try_send(Told::Look);
}

fn lives(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    !matches!(phase, Some("Failed" | "Succeeded"))
}

fn host_ports(pod: &Pod) -> BTreeSet<(String, i32)> {
    let ports = configs::containers(pod).flat_map(|it| it.ports.iter().flatten());
    let of = |it: &k8s_openapi::api::core::v1::ContainerPort| {
        let protocol = it.protocol.clone().unwrap_or_else(|| "TCP".into());
        Some((protocol, it.host_port.filter(|port| *port > 0)?))
    };
    ports.filter_map(of).collect()
}
