//! What the demo shows: a cluster of two nodes, from `kubectl apply` to a rolling update under load.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use node_agent::image::{self, Content, File};
use serde_json::Value;

use crate::{
    cluster::{Cluster, Options, address, get},
    demo::Outcome,
    lab::within,
};

const MANIFEST: &str = include_str!("../../deploy/demo/shop.yaml");
/// What that manifest calls for.
const REPLICAS: usize = 4;
const NODE_PORT: u16 = 30_080;
/// Requests of one client that shows who answers.
const REQUESTS: usize = 12;
/// An image of nobody: nothing listens there.
const BROKEN: &str = "shop=127.0.0.1:1/shop:3";
/// How long the node is left without an agent.
const WITHOUT_AGENT: Duration = Duration::from_secs(1);

/// An image with the program for pods and a file that tells its version.
pub(crate) fn archive(program: &[u8], version: u32) -> anyhow::Result<Vec<u8>> {
    let directory = |path: &str| File { path: path.into(), content: Content::Directory(0o755) };
    let text = |path: &str, text: String| File {
        path: path.into(),
        content: Content::Bytes(text.into_bytes(), 0o644),
    };
    let files = [
        directory("bin"),
        directory("etc"),
        File::program("bin/test-pod", program.to_vec()),
        text("version", format!("v{version}")),
    ];
    let name = format!("hashplane.demo/shop:{version}");
    image::archive(&name, &files, &["/bin/test-pod"], "").context("cannot make an image")
}

/// Clients that ask one after the other, each on its own.
#[derive(Debug)]
struct Load {
    over: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// From outside, one client per node.
    fn start(cluster: &Cluster) -> Self {
        let (over, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let client = |node| {
            let (over, asked) = (Arc::clone(&over), Arc::clone(&asked));
            let (netns, to) = (cluster.outside().to_owned(), node_port(node));
            thread::spawn(move || {
                let failures = within(&netns, || {
                    let mut failures = Vec::new();
                    while !over.load(Ordering::SeqCst) {
                        failures.extend(get(to).err().map(|error| format!("{error:#}")));
                        asked.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(failures)
                });
                failures.unwrap_or_else(|error| vec![format!("{error:#}")])
            })
        };
        let clients = (0..2).map(client).collect();
        Self { over, asked, clients }
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }

    /// How many asked, and what failed.
    fn end(self) -> anyhow::Result<(u64, Vec<String>)> {
        self.over.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for client in self.clients {
            failures.extend(client.join().map_err(|_panic| anyhow!("a client has panicked"))?);
        }
        Ok((self.asked.load(Ordering::SeqCst), failures))
    }
}

fn node_port(node: usize) -> SocketAddr {
    SocketAddr::new(address(node), NODE_PORT)
}

/// The story, while it is told.
#[derive(Debug)]
struct Story {
    cluster: Cluster,
    begun: Instant,
}

/// Tells all of it; afterwards the cluster is gone, or stays until `stop` if it should be kept.
///
/// `program` is what the images have: `test-pod`, without shared libraries.
pub fn run(
    binary: &Path,
    program: &Path,
    keep: bool,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<Outcome> {
    if let Some(reason) = crate::skip::why_no_pods() {
        anyhow::bail!("the demo cannot run here: {reason}");
    }
    say("Hashplane demo: a Kubernetes cluster of two nodes from one binary, and kubectl.")?;
    let begun = Instant::now();
    let program =
        fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let images = vec![("shop-1.tar", archive(&program, 1)?), ("shop-2.tar", archive(&program, 2)?)];
    let options = Options { binary, nodes: 2, images, arguments: &[], stop: Arc::clone(stop) };
    let mut story = Story { cluster: Cluster::start(&options)?, begun };
    story.step("both nodes are Ready: API, controllers, agents, dataplane and DNS run")?;
    let outcome = story.tell()?;
    if keep {
        let kubeconfig = story.cluster.kubeconfig();
        say(&format!(
            "\nThe cluster stays until Ctrl-C. In another terminal:\n  \
             nsenter --net=/run/netns/{} kubectl --kubeconfig {} get pods -A",
            story.cluster.netns(0),
            kubeconfig.display()
        ))?;
        while !stop.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(100));
        }
    }
    drop(story);
    say("The cluster is removed.")?;
    Ok(outcome)
}

impl Story {
    fn step(&self, what: &str) -> anyhow::Result<()> {
        say(&format!("{:5.1} s  {what}", self.begun.elapsed().as_secs_f64()))
    }

    fn command(&self, arguments: &[&str]) -> anyhow::Result<String> {
        say(&format!("\n$ kubectl {}", arguments.join(" ")))?;
        self.cluster.kubectl(arguments)
    }

    fn rolled_out(&self) -> anyhow::Result<()> {
        let arguments = ["rollout", "status", "deployment/shop", "--timeout=60s"];
        self.cluster.kubectl(&arguments).map(drop)
    }

    fn tell(&mut self) -> anyhow::Result<Outcome> {
        say("\n$ kubectl apply -f deploy/demo/shop.yaml")?;
        self.cluster.apply(MANIFEST)?;
        self.rolled_out()?;
        self.cluster.until("the client runs", || {
            Ok(self.cluster.pod("client", ".status.phase")? == "Running")
        })?;
        self.step(&format!("{REPLICAS} pods are ready on both nodes"))?;
        self.show_requests()?;
        let load = Load::start(&self.cluster);
        self.roll(&load)?;
        self.roll_back()?;
        self.change_greeting()?;
        self.lose_agent()?;
        let (asked, failures) = load.end()?;
        say(&format!("\nrequests from outside in the meantime: {asked}"))?;
        for failure in failures.iter().take(5) {
            say(&format!("  {failure}"))?;
        }
        say(&format!("errors: {}", failures.len()))?;
        Ok(if failures.is_empty() { Outcome::Good } else { Outcome::Errors })
    }

    fn show_requests(&self) -> anyhow::Result<()> {
        let ip = ["get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}"];
        let ip = self.cluster.kubectl(&ip)?;
        let balancer =
            ["get", "service", "shop", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"];
        let balancer = self.cluster.kubectl(&balancer)?;
        for (from, url) in [
            ("pod", "http://shop/".to_owned()),
            ("pod", "http://shop.default.svc.cluster.local/".to_owned()),
            ("pod", format!("http://{ip}/")),
            ("outside", format!("http://{}/", node_port(0))),
            ("outside", format!("http://{}/", node_port(1))),
            ("outside", format!("http://{balancer}:80/")),
        ] {
            let mut answers = BTreeSet::new();
            let count = if from == "pod" { 1 } else { REQUESTS };
            for _ in 0..count {
                answers.insert(if from == "pod" {
                    let arguments = ["exec", "client", "--", "/bin/test-pod", "get", &url];
                    self.cluster.kubectl(&arguments)?.trim().to_owned()
                } else {
                    let to = url.trim_start_matches("http://").trim_end_matches('/').parse();
                    let to = to.context("the address of a frontend")?;
                    within(self.cluster.outside(), || get(to))?
                });
            }
            let first = answers.first().cloned().unwrap_or_default();
            let others = match answers.len() {
                1 => String::new(),
                count => format!(" and {} other pods", count - 1),
            };
            say(&format!("         {from:<7} {url:<39} {first}{others}"))?;
        }
        Ok(())
    }

    fn roll(&self, load: &Load) -> anyhow::Result<()> {
        let before = load.asked();
        self.command(&["set", "image", "deployment/shop", "shop=hashplane.demo/shop:2"])?;
        self.rolled_out()?;
        let asked = load.asked() - before;
        let answer = within(self.cluster.outside(), || get(node_port(1)))?;
        self.step(&format!("rolled out while {asked} requests came: {answer}"))
    }

    fn roll_back(&self) -> anyhow::Result<()> {
        self.command(&["set", "image", "deployment/shop", BROKEN])?;
        let reasons = || -> anyhow::Result<Vec<String>> {
            let pods = self.cluster.json(&["get", "pods", "-l", "app=shop"])?;
            let pods = pods["items"].as_array().cloned().unwrap_or_default();
            let reason = |pod: &Value| {
                let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
                let reason = waiting["reason"].as_str()?;
                let name = pod["metadata"]["name"].as_str()?;
                reason.contains("Pull").then(|| format!("{name} says {reason}"))
            };
            Ok(pods.iter().filter_map(reason).collect())
        };
        self.cluster.until("the image is missed", || Ok(!reasons()?.is_empty()))?;
        self.step(&reasons()?.join(", "))?;
        self.command(&["rollout", "undo", "deployment/shop"])?;
        self.rolled_out()?;
        let answer = within(self.cluster.outside(), || get(node_port(0)))?;
        self.step(&format!("rolled back: {answer}"))
    }

    fn change_greeting(&self) -> anyhow::Result<()> {
        let patch = r#"{"data":{"text":"bonjour"}}"#;
        self.command(&["patch", "configmap", "greeting", "-p", patch])?;
        let begun = Instant::now();
        let mut greeted = BTreeSet::new();
        let mut first = None;
        while greeted.len() < REPLICAS {
            let answer = within(self.cluster.outside(), || get(node_port(0)))?;
            if answer.ends_with("bonjour") {
                first.get_or_insert_with(|| begun.elapsed());
                greeted.insert(answer);
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_mins(1), "pods do not follow");
        }
        let first = first.unwrap_or_default().as_secs_f64();
        let all = begun.elapsed().as_secs_f64();
        let example = greeted.first().cloned().unwrap_or_default();
        self.step(&format!("seen in a pod after {first:.2} s, in all after {all:.2} s: {example}"))
    }
}

impl Story {
    /// Nothing that runs on the second node needs its daemon.
    fn lose_agent(&mut self) -> anyhow::Result<()> {
        say("\n$ kill -9 the daemon of the second node")?;
        let before = self.containers()?;
        self.cluster.kill(1)?;
        thread::sleep(WITHOUT_AGENT);
        self.cluster.run(1)?;
        // It says so of its pods, once it has found them again.
        let same = || Ok(self.cluster.is_serving(1)? && self.containers()? == before);
        self.cluster.until("the node is back", same)?;
        self.step("started again; its pods are the same ones, and answered all the time")
    }

    /// Which containers run, and how often they were started again.
    fn containers(&self) -> anyhow::Result<BTreeSet<String>> {
        let path = "jsonpath={range .items[*].status.containerStatuses[*]}\
                    {.containerID} {.restartCount}{\"\\n\"}{end}";
        let text = self.cluster.kubectl(&["get", "pods", "-l", "app=shop", "-o", path])?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
