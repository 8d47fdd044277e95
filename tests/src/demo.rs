//! What the demo shows, step by step.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use dataplane_user::backend::Mode;

use crate::{
    Daemon, DaemonOptions, Lab, LabOptions, Place,
    agent::protocol::{Load, Loaded, Pattern, Transport},
    lab::{Family, Keeper, NodeName, RunningLoad, eventually},
};

/// The manifests of the demo, with their names in the folder that the daemons watch.
const MANIFESTS: [(&str, &str); 6] = [
    ("web.yaml", include_str!("../../deploy/examples/web.yaml")),
    ("web-pod-1.yaml", include_str!("../../deploy/examples/web-pod-1.yaml")),
    ("web-pod-2.yaml", include_str!("../../deploy/examples/web-pod-2.yaml")),
    ("web-pod-3.yaml", include_str!("../../deploy/examples/web-pod-3.yaml")),
    ("echo.yaml", include_str!("../../deploy/examples/echo.yaml")),
    ("empty.yaml", include_str!("../../deploy/examples/empty.yaml")),
];
const WEB: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0xa)),
];
const ECHO: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)),
    IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x14)),
];
const EMPTY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 30));
const WEB_NODE_PORT: u16 = 30_080;
const ECHO_NODE_PORT: u16 = 30_053;

/// Requests that show who answers.
const REQUESTS: usize = 6;
/// How long each change of the endpoints is left in place under load.
const CHANGE_PAUSE: Duration = Duration::from_millis(400);

/// How the demo went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every request was answered.
    Good,
    /// Some were not.
    Errors,
}

/// The demo, ready to run.
#[derive(Debug)]
pub struct Demo {
    lab: Lab,
    daemons: [Daemon; 2],
    pods: Vec<Arc<Place>>,
    tool: PathBuf,
    binary: PathBuf,
    begun: Instant,
}

impl Demo {
    /// Builds the lab, starts its servers and the daemons.
    pub fn build(tool: &Path, binary: &Path) -> anyhow::Result<Self> {
        if let Some(reason) = crate::skip::why_no_datapath(Mode::Ebpf) {
            anyhow::bail!("the demo cannot run here: {reason}");
        }
        let begun = Instant::now();
        let binary = binary
            .canonicalize()
            .with_context(|| format!("cannot find the binary {}", binary.display()))?;
        let lab = Lab::new(&LabOptions::new(tool))?;
        let mut pods = Vec::new();
        for (name, node) in [("web-1", NodeName::A), ("web-2", NodeName::B), ("web-3", NodeName::B)]
        {
            let pod = lab.pod(name, node)?;
            pod.serve(8080)?;
            pod.serve(5353)?;
            pods.push(pod);
        }
        pods.push(lab.pod("client", NodeName::A)?);
        pods.push(lab.pod_without_hooks("plain", NodeName::A)?);
        for (file, text) in MANIFESTS {
            lab.manifests().write(file, text)?;
        }
        let daemons = lab.start_daemons([(); 2].map(|()| DaemonOptions::new(&binary)))?;
        Ok(Self { daemons, lab, pods, tool: tool.to_owned(), binary, begun })
    }

    /// Who removes the lab.
    pub fn keeper(&self) -> Arc<Keeper> {
        self.lab.keeper()
    }

    /// Shows everything; afterwards the lab is gone, or left if it should be.
    pub fn run(mut self, keep: bool) -> anyhow::Result<Outcome> {
        say("Hashplane demo: two nodes, five pods and an outside client in network namespaces.")?;
        say(&format!(
            "The lab {} and its daemons are up after {:.1} s.\n",
            self.lab.name(),
            self.begun.elapsed().as_secs_f64()
        ))?;
        say(&format!("{:<9} {:<34} who answers {REQUESTS} requests", "client", "asks"))?;
        let mut errors = self.show_requests()?;
        say("\nPods of `web` come and go while clients ask, and a daemon is killed and started:")?;
        errors += self.change_under_load()?;
        // The daemon that was started again tells names within a quarter of a second.
        thread::sleep(Duration::from_millis(500));
        say("\n$ hashplane services     (on nodeA)")?;
        say(self.daemons[0].tool(&["services"])?.trim_end())?;
        say(&format!("\nerrors: {errors}"))?;
        if keep {
            self.leave()?;
        } else {
            drop(self);
            say("The lab is removed.")?;
        }
        Ok(if errors == 0 { Outcome::Good } else { Outcome::Errors })
    }

    fn show_requests(&self) -> anyhow::Result<usize> {
        let node = self.lab.host(NodeName::A);
        let (client, plain, outside) =
            (self.pod("client")?, self.pod("plain")?, self.lab.outside());
        let node_ips = Family::ALL.map(|family| node.addresses().of(family));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        // The first requests wait for the daemons to have read the manifests.
        let web = SocketAddr::new(WEB[0], 80);
        eventually(Duration::from_secs(10), || Ok(client.ask(Transport::Tcp, web)?))?;
        let (tcp, udp) = (Transport::Tcp, Transport::Udp);
        let rows = [
            (&client, tcp, WEB[0], 80),
            (&client, tcp, WEB[1], 80),
            (&plain, tcp, WEB[0], 80),
            (&plain, tcp, WEB[1], 80),
            (&node, tcp, WEB[0], 80),
            (&node, tcp, loopback, WEB_NODE_PORT),
            (&outside, tcp, node_ips[0], WEB_NODE_PORT),
            (&outside, tcp, node_ips[1], WEB_NODE_PORT),
            (&client, udp, ECHO[0], 53),
            (&plain, udp, ECHO[1], 53),
            (&outside, udp, node_ips[1], ECHO_NODE_PORT),
        ];
        let mut errors = 0;
        for (from, transport, address, port) in rows {
            errors += show_answers(from, transport, SocketAddr::new(address, port))?;
        }
        for from in [&client, &plain] {
            errors += show_refusal(from, SocketAddr::new(EMPTY, 80))?;
        }
        Ok(errors)
    }

    fn change_under_load(&mut self) -> anyhow::Result<usize> {
        let loads = self.start_loads()?;
        let text = |file: &str| {
            MANIFESTS.iter().find(|(name, _)| *name == file).map_or("", |(_, text)| *text)
        };
        for file in ["web-pod-1.yaml", "web-pod-2.yaml", "web-pod-3.yaml"] {
            self.lab.manifests().remove(file)?;
            thread::sleep(CHANGE_PAUSE);
            self.lab.manifests().write(file, text(file))?;
            thread::sleep(CHANGE_PAUSE);
        }
        self.daemons[0].kill()?;
        thread::sleep(CHANGE_PAUSE);
        self.daemons[0].start_again()?;
        thread::sleep(CHANGE_PAUSE);
        let mut total = Loaded::default();
        for load in loads {
            let loaded = load.stop()?;
            for (pod, answers) in loaded.answers {
                *total.answers.entry(pod).or_default() += answers;
            }
            total.errors += loaded.errors;
            total.first_error = total.first_error.or(loaded.first_error);
        }
        say(&format!(
            "  {} requests: {}; {} errors",
            total.total(),
            counts(&total.answers),
            total.errors
        ))?;
        if let Some(error) = total.first_error {
            say(&format!("  the first error: {error}"))?;
        }
        Ok(usize::try_from(total.errors).unwrap_or(usize::MAX))
    }

    fn start_loads(&self) -> anyhow::Result<Vec<RunningLoad>> {
        let node = self.lab.host(NodeName::A).addresses();
        let mut loads = Vec::new();
        for (family, web) in Family::ALL.into_iter().zip(WEB) {
            let cluster_ip = SocketAddr::new(web, 80);
            let node_port = node.port(family, WEB_NODE_PORT);
            let (client, plain, outside) =
                (self.pod("client")?, self.pod("plain")?, self.lab.outside());
            for (from, to) in [(client, cluster_ip), (plain, cluster_ip), (outside, node_port)] {
                for pattern in [Pattern::NewSocket, Pattern::OneSocket] {
                    let (transport, workers) = (Transport::Tcp, 2);
                    let load =
                        Load { transport, to, pattern, workers, pause_ms: 5, timeout_ms: 3000 };
                    loads.push(from.start_load(load)?);
                }
            }
        }
        Ok(loads)
    }

    fn leave(mut self) -> anyhow::Result<()> {
        for daemon in &mut self.daemons {
            daemon.leave();
        }
        for pod in &self.pods {
            pod.leave()?;
        }
        let lab = self.lab.name().to_owned();
        let (node, bpffs) = (
            self.lab.host(NodeName::A).addresses().v4,
            self.daemons[0].bpffs().display().to_string(),
        );
        let (tool, binary) = (self.tool.display(), self.binary.display());
        self.lab.leave()?;
        say(&format!(
            "\nThe lab stays, with its daemons. Look around:\n\
             \x20 ip netns exec {lab}-outside curl http://{node}:{WEB_NODE_PORT}\n\
             \x20 ip netns exec {lab}-plain curl http://{}\n\
             \x20 {binary} flows --bpffs {bpffs} --instance nodeA\n\
             \x20 ls {}\n\
             Remove it:\n\x20 {tool} --remove {lab}",
            WEB[0],
            self.lab.manifests().path().display()
        ))
    }

    fn pod(&self, name: &str) -> anyhow::Result<Arc<Place>> {
        let found = self.pods.iter().find(|pod| pod.name() == name);
        found.cloned().with_context(|| format!("the lab has no pod {name}"))
    }
}

/// Asks a few times and says who has answered; how many have not.
fn show_answers(from: &Place, transport: Transport, to: SocketAddr) -> anyhow::Result<usize> {
    let mut answers = BTreeMap::new();
    let mut errors = 0;
    for _ in 0..REQUESTS {
        match from.ask(transport, to) {
            Ok(answer) => *answers.entry(answer.seen.pod).or_default() += 1,
            Err(error) => {
                errors += 1;
                *answers.entry(format!("{:?}", error.why)).or_default() += 1;
            }
        }
    }
    say(&format!("{:<9} {:<34} {}", from.name(), url(transport, to), counts(&answers)))?;
    Ok(errors)
}

/// Asks a Service without pods; 1 if it does anything but refuse.
fn show_refusal(from: &Place, to: SocketAddr) -> anyhow::Result<usize> {
    let (word, errors) = match from.ask(Transport::Tcp, to) {
        Ok(answer) => (format!("{} (wrong: nobody should)", answer.seen.pod), 1),
        Err(failure) if failure.why == crate::agent::protocol::Why::Refused => {
            (format!("refused after {} ms: it has no pods", failure.elapsed_ms), 0)
        }
        Err(failure) => (failure.to_string(), 1),
    };
    say(&format!("{:<9} {:<34} {word}", from.name(), url(Transport::Tcp, to)))?;
    Ok(errors)
}

fn url(transport: Transport, to: SocketAddr) -> String {
    match (transport, to.port()) {
        (Transport::Udp, _) => format!("udp {to}"),
        (Transport::Sctp, _) => format!("sctp {to}"),
        (Transport::Tcp, 80) if to.is_ipv6() => format!("http://[{}]", to.ip()),
        (Transport::Tcp, 80) => format!("http://{}", to.ip()),
        (Transport::Tcp, _) => format!("http://{to}"),
    }
}

fn counts(answers: &BTreeMap<String, u64>) -> String {
    let each: Vec<String> = answers.iter().map(|(who, times)| format!("{who} {times}")).collect();
    each.join(", ")
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}
