//! A worker: the lab of one mode and one size, and what is measured in it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, Write as _},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_common::{Tuple, UDP};
use nix::sys::{prctl, signal::Signal};
use serde::{Deserialize, Serialize};

use super::evidence;
use crate::{
    frame::Spec,
    routing::{
        lab::{
            Lab, MACS, NODE_IP, NODE_IP6, cgroup,
            dataplane::{Dataplane, Seen, mode, resident_mib},
            objects::{NODE_PORT, Size, TARGET_PORT},
        },
        load::{self, frames, processor::Ticks, server},
        plan::Task,
        results::{Measure, Position, Route},
    },
};

/// Connections before those that count.
const WARM_UP: usize = 30;
/// Short connections per second of the fixed load.
const FIXED_LOAD: u32 = 2_000;
/// How long a change may take to be followed.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// Where the generator's datagrams come from.
const CLIENT_PORT: u16 = 40_000;
/// Between two changes; what was replaced rests for a while.
const CHANGE_PAUSE: Duration = Duration::from_millis(10);

/// Samples of one measure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Part {
    /// What.
    pub measure: Measure,
    /// To which service.
    pub position: Position,
    /// `ipv4`, `ipv6` or `both`.
    pub family: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// In the measure's unit.
    pub samples: Vec<f64>,
    /// How it is known that packets took the route.
    pub evidence: String,
}

/// What a worker says to a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// It is done.
    Done(Vec<Part>),
    /// It failed, in one sentence.
    Failed(String),
}

/// Takes tasks from standard input until it ends; answers go to standard output.
///
/// `run` is the process that asks. This process must not have other threads yet.
pub fn run(route: Route, size: Size, run: u32) -> anyhow::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL).context("cannot ask to end with the run")?;
    let mut worker = Worker::new(route, size, run)?;
    for line in std::io::stdin().lock().lines() {
        let task: Task = serde_json::from_str(&line?).context("this is no task")?;
        let answer = match worker.work(task) {
            Ok(parts) => Answer::Done(parts),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
        out.flush()?;
    }
    Ok(())
}

struct Worker {
    route: Route,
    size: Size,
    lab: Lab,
    dataplane: Option<Dataplane>,
    /// Ports that clients have bound so far, per position and family.
    ports: BTreeMap<(Position, bool), u32>,
}

impl Worker {
    fn new(route: Route, size: Size, run: u32) -> anyhow::Result<Self> {
        let cgroup = (route == Route::EbpfSocket).then(|| cgroup::enter(run)).transpose()?;
        let lab = Lab::new()?;
        for (host, name) in lab.hosts.iter().zip([b'0', b'1']) {
            host.run(move || server::tcp(TARGET_PORT, name))?;
        }
        let [near, _] = &lab.hosts;
        for at in 0..size.endpoints {
            let address = size.endpoint(size.middle(), at, false);
            near.run(move || server::udp(address))?;
        }
        let dataplane = mode(route).map(|_| Dataplane::new(route, cgroup)).transpose()?;
        Ok(Self { route, size, lab, dataplane, ports: BTreeMap::new() })
    }

    fn work(&mut self, task: Task) -> anyhow::Result<Vec<Part>> {
        match task {
            Task::Prepare => self.prepare(),
            Task::Connect { position, ipv6, samples } => self.connect(position, ipv6, samples),
            Task::Datagram { samples } => self.datagram(samples),
            Task::Short { ms } => self.short(Duration::from_millis(ms)),
            Task::Requests { ms } => self.requests(Duration::from_millis(ms)),
            Task::Throughput { ms } => self.throughput(Duration::from_millis(ms)),
            Task::CpuLeft { ms } => self.cpu_left(Duration::from_millis(ms)),
            Task::Packets { ipv6, ms } => self.packets(ipv6, Duration::from_millis(ms)),
            Task::Change { samples } => self.changes(samples),
        }
    }

    fn prepare(&mut self) -> anyhow::Result<Vec<Part>> {
        let size = self.size;
        let Some(dataplane) = &mut self.dataplane else { return Ok(Vec::new()) };
        let filled = dataplane.fill(size.events())?;
        let part = |measure, sample| Part {
            samples: vec![sample],
            ..part(measure, Position::All, "both", "tcp", String::new())
        };
        Ok(vec![
            part(Measure::ColdProgramming, filled.elapsed.as_secs_f64() * 1e3),
            part(Measure::KernelMemory, filled.kernel_mib),
            part(Measure::DaemonMemory, resident_mib()?),
        ])
    }

    /// Addresses that clients ask, as many as there are samples.
    fn targets(&self, position: Position, ipv6: bool, samples: usize) -> Vec<SocketAddr> {
        let mut random = 0x9e37_79b9_u64;
        (0_u32..).take(samples).map(|at| self.target(position, ipv6, at, &mut random)).collect()
    }

    fn target(&self, position: Position, ipv6: bool, at: u32, random: &mut u64) -> SocketAddr {
        let number = match position {
            Position::First => 0,
            Position::Middle | Position::All => self.size.middle(),
            Position::Last => self.size.last(),
            Position::Random => {
                // Knuth's MMIX generator; its upper bits are the random ones.
                *random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                u32::try_from((*random >> 33) % u64::from(self.size.services)).unwrap_or_default()
            }
        };
        if self.route.is_direct() {
            self.size.endpoint(number, at, ipv6)
        } else {
            self.size.frontend(number, ipv6)
        }
    }

    fn middle(&self) -> SocketAddr {
        self.target(Position::Middle, false, 0, &mut 0)
    }

    fn connect(
        &mut self,
        position: Position,
        ipv6: bool,
        samples: u32,
    ) -> anyhow::Result<Vec<Part>> {
        let targets = self.targets(position, ipv6, WARM_UP + samples as usize);
        let last = targets.last().copied().context("no samples were asked for")?;
        let first = self.new_ports((position, ipv6), targets.len());
        let before = self.seen()?;
        let samples = self.lab.client.run(move || load::connect_all(&targets, first))?;
        let evidence = self.evidence(before, samples.len(), last)?;
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let part = part(Measure::ConnectLatency, position, family, "tcp", evidence);
        Ok(vec![Part { samples: samples.get(WARM_UP..).unwrap_or_default().to_vec(), ..part }])
    }

    fn datagram(&mut self, samples: u32) -> anyhow::Result<Vec<Part>> {
        let targets = self.targets(Position::Middle, false, WARM_UP + samples as usize);
        let last = targets.last().copied().context("no samples were asked for")?;
        let first = self.new_ports((Position::All, false), targets.len());
        let before = self.seen()?;
        let samples = self.lab.client.run(move || load::exchange_all(&targets, first))?;
        let evidence = self.evidence(before, samples.len(), last)?;
        let part = part(Measure::FirstDatagramLatency, Position::Middle, "ipv4", "udp", evidence);
        Ok(vec![Part { samples: samples.get(WARM_UP..).unwrap_or_default().to_vec(), ..part }])
    }

    /// The number of the first of so many ports that clients have not used for this.
    fn new_ports(&mut self, of: (Position, bool), count: usize) -> u32 {
        let next = self.ports.entry(of).or_default();
        let first = *next;
        *next = first.wrapping_add(u32::try_from(count).unwrap_or_default());
        first
    }

    fn short(&mut self, length: Duration) -> anyhow::Result<Vec<Part>> {
        let (to, before) = (self.middle(), self.seen()?);
        let (rate, cpu_seconds) = self.lab.client.run(move || {
            let before = Ticks::now()?;
            let rate = load::short(to, length)?;
            Ok((rate, Ticks::now()?.busy_seconds_since(before)))
        })?;
        ensure!(rate.done > 0, "no connection was finished in {} ms", length.as_millis());
        let evidence = self.evidence(before, usize::try_from(rate.done)?, to)?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let cost = cpu_seconds * 1e6 / rate.done as f64;
        Ok(vec![
            one(Measure::ShortConnections, rate.per_second(), evidence.clone()),
            one(Measure::ConnectionCpu, cost, evidence),
        ])
    }

    fn requests(&mut self, length: Duration) -> anyhow::Result<Vec<Part>> {
        let (to, before) = (self.middle(), self.seen()?);
        let rate = self.lab.client.run(move || load::requests(to, length))?;
        let evidence = self.evidence(before, 1, to)?;
        Ok(vec![one(Measure::Requests, rate.per_second(), evidence)])
    }

    fn throughput(&mut self, length: Duration) -> anyhow::Result<Vec<Part>> {
        let (to, before) = (self.middle(), self.seen()?);
        let rate = self.lab.client.run(move || load::throughput(to, length))?;
        let evidence = self.evidence(before, 1, to)?;
        Ok(vec![one(Measure::Throughput, rate.per_second() * 8.0 / 1e9, evidence)])
    }

    fn cpu_left(&mut self, length: Duration) -> anyhow::Result<Vec<Part>> {
        let (to, before) = (self.middle(), self.seen()?);
        let (rate, idle) = self.lab.client.run(move || {
            let before = Ticks::now()?;
            let rate = load::paced(to, length, FIXED_LOAD)?;
            Ok((rate, Ticks::now()?.idle_percent_since(before)))
        })?;
        ensure!(
            rate.per_second() > f64::from(FIXED_LOAD) * 0.9,
            "{:.0} connections per second are less than the fixed load of {FIXED_LOAD}",
            rate.per_second()
        );
        let evidence = self.evidence(before, usize::try_from(rate.done)?, to)?;
        Ok(vec![one(Measure::CpuLeft, idle, evidence)])
    }

    fn packets(&mut self, ipv6: bool, length: Duration) -> anyhow::Result<Vec<Part>> {
        let frame = self.frame(ipv6);
        let before = self.seen()?;
        let [near, _] = &self.lab.hosts;
        let frames::Passed { came_back, sent, elapsed } =
            near.run(move || frames::Generator::new("lan", frame)?.run(length))?;
        let family = if ipv6 { "ipv6" } else { "ipv4" };
        let took = self.packet_evidence(before, came_back, ipv6)?;
        let evidence = format!(
            "{took}; {came_back} of {sent} packets of one UDP flow came back; the generator's and \
             the sink's share on the same core is included"
        );
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let rate = came_back as f64 / elapsed.as_secs_f64();
        let part = |measure, sample| Part {
            samples: vec![sample],
            ..part(measure, Position::Middle, family, "udp", evidence.clone())
        };
        Ok(vec![part(Measure::Packets, rate), part(Measure::PacketCost, 1e9 / rate)])
    }

    /// A datagram from outside to the node port, or straight to an endpoint.
    fn frame(&self, ipv6: bool) -> Vec<u8> {
        let middle = self.size.middle();
        let endpoint = self.size.endpoint(middle, 0, ipv6);
        let port = if self.route.is_direct() { TARGET_PORT } else { NODE_PORT };
        let [host, node] = MACS;
        let mut frame = match (ipv6, endpoint.ip()) {
            (false, std::net::IpAddr::V4(pod)) => {
                let to = if self.route.is_direct() { pod } else { NODE_IP };
                let from = [192, 0, 2, 200];
                Spec::<4>::new(tuple(from, to.octets(), port), UDP, 0).build()
            }
            (_, pod) => {
                let pod = match pod {
                    std::net::IpAddr::V6(pod) => pod,
                    std::net::IpAddr::V4(pod) => pod.to_ipv6_mapped(),
                };
                let to = if self.route.is_direct() { pod } else { NODE_IP6 };
                let from = std::net::Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 0x200);
                let tuple = tuple(from.octets(), to.octets(), port);
                Spec::<16>::new(tuple, UDP, 0).build()
            }
        };
        for (byte, mac) in frame.iter_mut().zip(node.into_iter().chain(host)) {
            *byte = mac;
        }
        frame
    }

    /// Moves the first service to the other host and back, again and again.
    fn changes(&mut self, samples: u32) -> anyhow::Result<Vec<Part>> {
        let target = self.target(Position::First, false, 0, &mut 0);
        let mut elapsed = Vec::new();
        // An odd number of moves would leave the service on the other host.
        for number in 0..samples.next_multiple_of(2) {
            let host = 1 - number % 2;
            let wanted = if host == 0 { b'0' } else { b'1' };
            let events = self.size.slices(0, host);
            let over = Arc::new(AtomicBool::new(false));
            let stop = Arc::clone(&over);
            let followed = self.lab.client.start(move || follow(target, wanted, &stop))?;
            thread::sleep(CHANGE_PAUSE);
            let begun = Instant::now();
            let dataplane = self.dataplane.as_mut().context("nothing was programmed")?;
            let changed = dataplane.change(events);
            if changed.is_err() {
                over.store(true, Ordering::Relaxed);
            }
            changed?;
            let first = followed.recv().context("the client has ended")??;
            elapsed.push(first.saturating_duration_since(begun).as_secs_f64() * 1e3);
        }
        let evidence = "each new connection says which host has answered".to_owned();
        let part = part(Measure::Change, Position::First, "ipv4", "tcp", evidence);
        Ok(vec![Part { samples: elapsed, ..part }])
    }

    fn seen(&self) -> anyhow::Result<Seen> {
        self.dataplane.as_ref().map_or_else(|| Ok(Seen::default()), Dataplane::seen)
    }

    /// How it is known that this many connections to `to` took the route; an error if they did not.
    fn evidence(&self, before: Seen, count: usize, to: SocketAddr) -> anyhow::Result<String> {
        let Some(dataplane) = &self.dataplane else { return Ok(evidence::NOTHING.to_owned()) };
        evidence::connections(dataplane, before, count as u64, to)
    }

    fn packet_evidence(&self, before: Seen, count: u64, ipv6: bool) -> anyhow::Result<String> {
        let Some(dataplane) = &self.dataplane else { return Ok(evidence::NOTHING.to_owned()) };
        evidence::packets(dataplane, before, count, ipv6)
    }
}

/// Connects until the answer comes from host `wanted`; when that connection began.
fn follow(to: SocketAddr, wanted: u8, over: &AtomicBool) -> anyhow::Result<Instant> {
    let limit = Instant::now() + CHANGE_LIMIT;
    loop {
        let begun = Instant::now();
        if load::ask_once(to)? == wanted {
            return Ok(begun);
        }
        ensure!(!over.load(Ordering::Relaxed), "the change failed");
        ensure!(
            begun < limit,
            "connections do not follow the change within {} s",
            CHANGE_LIMIT.as_secs()
        );
    }
}

fn tuple<const N: usize>(src: [u8; N], dst: [u8; N], port: u16) -> Tuple<N> {
    Tuple { src, dst, src_port: CLIENT_PORT.to_be_bytes(), dst_port: port.to_be_bytes() }
}

fn part(
    measure: Measure,
    position: Position,
    family: &str,
    transport: &str,
    evidence: String,
) -> Part {
    Part {
        measure,
        position,
        family: family.to_owned(),
        transport: transport.to_owned(),
        samples: Vec::new(),
        evidence,
    }
}

/// One sample about the service in the middle.
fn one(measure: Measure, sample: f64, evidence: String) -> Part {
    Part { samples: vec![sample], ..part(measure, Position::Middle, "ipv4", "tcp", evidence) }
}
