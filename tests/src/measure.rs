//! What pods cost: a cluster of one node with containerd and runc, asked through `kubectl proxy`.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    process::Child,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bench::report::Raw;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Options as ClusterOptions, address, get},
    lab::within,
    story::archive,
};

/// The image of all pods, which the node has before anything is measured.
const IMAGE: &str = "hashplane.demo/shop:1";
const NODE_PORT: u16 = 30_080;
/// Where `kubectl proxy` listens, in the node's network namespace.
const PROXY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 18_001);
/// Pods of an idle node.
const IDLE_PODS: usize = 10;
/// Before an idle node is measured, and for how long.
const SETTLE: Duration = Duration::from_secs(10);
const IDLE_FOR: Duration = Duration::from_secs(30);
/// A pod that takes longer has failed.
const POD_MAX: Duration = Duration::from_mins(1);
/// Of `/proc/PID/stat`, in ticks a second.
const TICKS: f64 = 100.0;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The binary.
    pub binary: PathBuf,
    /// The program that pods run, without shared libraries.
    pub program: PathBuf,
    /// How many times a cluster is started.
    pub starts: usize,
    /// Pods that are started one after the other.
    pub pods: usize,
    /// How many a second.
    pub per_second: u32,
}

/// Measures everything, one thing after the other.
pub fn run(options: &Options) -> anyhow::Result<Vec<Raw>> {
    if let Some(reason) = crate::skip::why_no_pods() {
        bail!("pods cannot be measured here: {reason}");
    }
    let mut rows = Vec::new();
    let mut serving = Vec::new();
    for _ in 0..options.starts {
        serving.push(first_request(options)?);
    }
    rows.push(Raw { name: "up_to_first_request".into(), unit: "s", samples: serving });
    let cluster = start(options)?;
    let mut proxy = cluster.start_kubectl(&["proxy", &format!("--port={}", PROXY.port())])?;
    let measured = pods(options, &cluster).and_then(|pods| Ok((pods, idle(&cluster)?)));
    end(&mut proxy)?;
    let (pods, idle) = measured?;
    rows.push(Raw { name: "pod_created_to_running".into(), unit: "ms", samples: pods });
    rows.extend(idle);
    Ok(rows)
}

fn end(child: &mut Child) -> anyhow::Result<()> {
    child.kill().context("cannot end kubectl")?;
    child.wait().map(drop).context("cannot wait for kubectl")
}

fn start(options: &Options) -> anyhow::Result<Cluster> {
    Cluster::start(&cluster(options)?)
}

fn cluster(options: &Options) -> anyhow::Result<ClusterOptions<'_>> {
    let program = fs::read(&options.program)
        .with_context(|| format!("cannot read {}", options.program.display()))?;
    let images = vec![("shop-1.tar", archive(&program, 1)?)];
    Ok(ClusterOptions {
        binary: &options.binary,
        nodes: 1,
        images,
        arguments: &[],
        stop: Arc::default(),
    })
}

/// Seconds from the start of `hashplane up`, with the image there and nothing else, to the first answer of
/// a pod by its node port; kubectl applies as soon as it can.
fn first_request(options: &Options) -> anyhow::Result<f64> {
    let mut cluster = Cluster::prepare(&cluster(options)?)?;
    // Once, so that containerd has the image; then from an empty cluster again.
    cluster.run(0)?;
    cluster.until("the node is ready", || Ok(cluster.nodes_ready()? == 1))?;
    cluster.down(0)?;
    let server = cluster.data(0).join("server");
    fs::remove_dir_all(&server).with_context(|| format!("cannot remove {}", server.display()))?;
    let begun = Instant::now();
    cluster.run(0)?;
    let mut manifest = pod("first");
    manifest["metadata"]["labels"] = json!({"app": "first"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "first"},
        "spec": {
            "type": "NodePort", "selector": {"app": "first"},
            "ports": [{"port": 80, "targetPort": 8080, "nodePort": NODE_PORT}],
        },
    });
    let all = json!({"apiVersion": "v1", "kind": "List", "items": [manifest, service]});
    let path = cluster.data(0).join("first.json");
    fs::write(&path, all.to_string()).context("cannot write a manifest")?;
    let apply = ["apply", "-f", &path.to_string_lossy()];
    cluster.until("kubectl applies", || Ok(cluster.try_kubectl(&apply)?.status.success()))?;
    let to = SocketAddr::new(address(0), NODE_PORT);
    within(cluster.outside(), || {
        while get(to).is_err() {
            ensure!(begun.elapsed() < POD_MAX, "nobody answers");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(begun.elapsed().as_secs_f64())
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": IMAGE, "args": ["serve", "8080"]}],
        },
    })
}

/// Milliseconds from the request that creates a pod to the event that says that it runs, pod by pod.
fn pods(options: &Options, cluster: &Cluster) -> anyhow::Result<Vec<f64>> {
    let netns = cluster.netns(0).to_owned();
    cluster.until("kubectl forwards", || Ok(ask(&netns, "GET", "/readyz", "").is_ok()))?;
    let (tell, told) = mpsc::channel();
    let own = netns.clone();
    thread::spawn(move || {
        // It ends with the connection, and the connection with kubectl.
        let _ended = within(&own, || watch(&tell));
    });
    let mut created = BTreeMap::new();
    let begun = Instant::now();
    for number in 0..options.pods {
        let number = u32::try_from(number)?;
        let at = begun + Duration::from_secs(1) * number / options.per_second;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let name = format!("pod-{number}");
        created.insert(name.clone(), Instant::now());
        ask(&netns, "POST", "/api/v1/namespaces/default/pods", &pod(&name).to_string())?;
    }
    let mut samples = Vec::new();
    while samples.len() < options.pods {
        let (name, at): (String, Instant) =
            told.recv_timeout(POD_MAX).context("pods do not come to run")?;
        if let Some(created) = created.remove(&name) {
            samples.push((at - created).as_secs_f64() * 1e3);
        }
    }
    Ok(samples)
}

/// Tells each pod that runs and is ready, and when that was heard.
fn watch(tell: &mpsc::Sender<(String, Instant)>) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(PROXY).context("cannot reach kubectl")?;
    let path = "/api/v1/namespaces/default/pods?watch=1";
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    for line in BufReader::new(stream).lines() {
        let line = line.context("the watch ends")?;
        let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
        let conditions = event["object"]["status"]["conditions"].as_array();
        let is_ready = conditions
            .into_iter()
            .flatten()
            .any(|it| it["type"] == "Ready" && it["status"] == "True");
        let name = event["object"]["metadata"]["name"].as_str();
        if let Some(name) = name.filter(|_| is_ready) {
            tell.send((name.to_owned(), Instant::now())).context("nobody listens")?;
        }
    }
    Ok(())
}

fn ask(netns: &str, method: &str, path: &str, body: &str) -> anyhow::Result<String> {
    within(netns, || {
        let mut stream = TcpStream::connect(PROXY).context("cannot reach kubectl")?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all((head + body).as_bytes()).context("cannot ask")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).context("no answer")?;
        let status = text.split_whitespace().nth(1).unwrap_or_default();
        ensure!(status.starts_with('2'), "{method} {path}: {text}");
        Ok(text)
    })
}

/// What the process uses while ten pods run and nothing happens.
fn idle(cluster: &Cluster) -> anyhow::Result<Vec<Raw>> {
    let names = cluster.kubectl(&["get", "pods", "-o", "name"])?;
    let mut names: Vec<&str> = names.lines().collect();
    let mut delete = vec!["delete", "--wait=true"];
    delete.extend(names.split_off(IDLE_PODS.min(names.len())));
    if delete.len() > 2 {
        cluster.kubectl(&delete)?;
    }
    thread::sleep(SETTLE);
    let pid = cluster.pid(0).context("the node does not run")?;
    let before = processor_s(pid)?;
    thread::sleep(IDLE_FOR);
    let used = (processor_s(pid)? - before) / IDLE_FOR.as_secs_f64() * 100.0;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("cannot read memory")?;
    let resident = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    let resident: f64 = resident.context("the kernel does not tell the memory")?;
    Ok(vec![
        Raw { name: "idle_memory".into(), unit: "MB", samples: vec![resident * 1024.0 / 1e6] },
        Raw { name: "idle_processor".into(), unit: "% of a core", samples: vec![used] },
    ])
}

/// Seconds of processor time that a process has used.
fn processor_s(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("cannot read its time")?;
    let rest = stat.rsplit_once(')').context("what the kernel tells of it")?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|it| it.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).context("what the kernel tells of it")?;
    Ok((user + system) / TICKS)
}
