//! One netfilter mode and one size: rules in a network namespace, filled, changed, read back.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use dataplane_user::{
    backend::{Applied, Backend, Mode, Node},
    iptables::backend::Iptables,
    ipvs::backend::Ipvs,
    model::{NodeIdentity, ObjectEvent, ServiceTable},
    nftables::Nftables,
};
use nix::sched::{CloneFlags, unshare};

use super::{
    CHANGE_WARM_UP, STRIDE, objects,
    world::{NODE_IP, World},
};
use crate::routing::lab;

/// Rules of this instance meet no others: each sample has a namespace of its own.
const INSTANCE: &str = "default";
/// From objects to rules, each time in a fresh namespace; fewer where that takes long.
const COLD_SAMPLES_MAX: usize = 11;
/// No further sample begins after this.
const COLD_BUDGET: Duration = Duration::from_mins(1);
/// Changes of one endpoint, spread over all services; fewer where they take long.
const CHANGE_SAMPLES_MAX: u32 = 500;
/// No further change begins after this.
const CHANGE_BUDGET: Duration = Duration::from_mins(1);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// The mode.
    pub mode: Mode,
    /// How many services.
    pub services: u32,
    /// How many endpoints each of them has.
    pub endpoints: u32,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Samples {
    /// From the first object to the last rule, in ms.
    pub cold_ms: Vec<f64>,
    /// Parts of the sample in the middle: table, compile, apply, in ms.
    pub parts_ms: [f64; 3],
    /// From one event to the rules, in µs.
    pub change_us: Vec<f64>,
    /// What the kernel's memory grew by, in bytes.
    pub kernel_bytes: f64,
}

/// A backend that has written nothing. It speaks to the namespace of this thread.
fn backend(mode: Mode) -> anyhow::Result<Box<dyn Backend>> {
    match mode {
        Mode::Ebpf => Err(anyhow!("{mode} is measured through its maps")),
        Mode::Nftables => Ok(Box::new(Nftables::new(INSTANCE))),
        Mode::Iptables => Ok(Box::new(Iptables::new(INSTANCE, None))),
        Mode::Ipvs => Ok(Box::new(Ipvs::new(INSTANCE))),
    }
}

/// Measures; needs root.
pub fn run(case: Case) -> anyhow::Result<Samples> {
    let mut samples = Samples::default();
    let mut parts = Vec::new();
    let begun = Instant::now();
    loop {
        let is_last =
            samples.cold_ms.len() + 1 == COLD_SAMPLES_MAX || begun.elapsed() > COLD_BUDGET;
        // A namespace ends with its thread.
        let one = thread::scope(|scope| scope.spawn(|| one(case, is_last)).join());
        let one = one.map_err(|_payload| anyhow!("the thread of a sample panicked"))??;
        samples.cold_ms.push(one.parts.iter().sum());
        parts.push(one.parts);
        samples.kernel_bytes = one.kernel_bytes;
        samples.change_us = one.change_us;
        if is_last {
            break;
        }
    }
    parts.sort_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum()));
    samples.parts_ms = parts.get(parts.len() / 2).copied().unwrap_or_default();
    Ok(samples)
}

struct One {
    parts: [f64; 3],
    change_us: Vec<f64>,
    kernel_bytes: f64,
}

/// One fill in a namespace of its own; changes follow if this is the last one.
fn one(case: Case, with_changes: bool) -> anyhow::Result<One> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
    // Without a device that is up the kernel has no routes at all, and IPVS takes no destination.
    lab::ip("link set lo up\n")?;
    let mut rules = Rules::new(case.mode)?;
    let events: Vec<_> = World::events(case.services, case.endpoints).collect();
    let before = kernel_bytes()?;
    let parts = rules.fill(events)?;
    let kernel_bytes = kernel_bytes()? - before;
    rules.verify(case.mode)?;
    let change_us = if with_changes { rules.changes(case)? } else { Vec::new() };
    rules.backend.remove().map_err(|error| anyhow!(error))?;
    Ok(One { parts, change_us, kernel_bytes })
}

/// A table and the backend that it is programmed by.
pub struct Rules {
    table: ServiceTable,
    backend: Box<dyn Backend>,
    begun: Instant,
}

impl Rules {
    /// An empty table, in the namespace of this thread.
    pub fn new(mode: Mode) -> anyhow::Result<Self> {
        let table = ServiceTable::new(NodeIdentity::new(objects::NODE, [NODE_IP.into()]));
        Ok(Self { table, backend: backend(mode)?, begun: Instant::now() })
    }

    /// From objects to rules, the way the daemon starts: ms for table, compilation and kernel.
    pub fn fill(
        &mut self,
        events: impl IntoIterator<Item = ObjectEvent>,
    ) -> anyhow::Result<[f64; 3]> {
        let begun = Instant::now();
        for event in events {
            self.table.apply(event);
        }
        // The first compilation covers everything.
        drop(self.table.take_changed());
        let table = begun.elapsed();
        let begun = Instant::now();
        self.backend.observe().map_err(|error| anyhow!(error))?;
        self.backend.set_node(&node());
        self.backend.compile(&self.table);
        let compile = begun.elapsed();
        let begun = Instant::now();
        self.backend.apply(0).map_err(|error| anyhow!(error))?;
        Ok([table, compile, begun.elapsed()].map(super::ms))
    }

    /// Replaces one endpoint after the other, each in another service; µs of each.
    fn changes(&mut self, case: Case) -> anyhow::Result<Vec<f64>> {
        let mut samples = Vec::new();
        let begun = Instant::now();
        for number in 0..CHANGE_WARM_UP + CHANGE_SAMPLES_MAX {
            let service = u64::from(number) * u64::from(STRIDE) % u64::from(case.services);
            let event = objects::slice(u32::try_from(service)?, case.endpoints, Some(number));
            let elapsed = self.change(event)?;
            // Where a change takes seconds there is nothing to warm up.
            if number >= CHANGE_WARM_UP || elapsed > Duration::from_secs(1) {
                samples.push(elapsed.as_secs_f64() * 1e6);
            }
            if begun.elapsed() > CHANGE_BUDGET && !samples.is_empty() {
                break;
            }
        }
        self.verify(case.mode)?;
        Ok(samples)
    }

    fn change(&mut self, event: ObjectEvent) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.table.apply(event);
        let now_ms = u64::try_from(self.begun.elapsed().as_millis())?;
        self.backend.reclaim(now_ms);
        for key in self.table.take_changed() {
            self.backend.change(&key, self.table.port(&key).as_ref());
        }
        self.backend.apply(now_ms).map_err(|error| anyhow!(error))?;
        let elapsed = begun.elapsed();
        drop(self.backend.take_departed());
        Ok(elapsed)
    }

    /// Whether the kernel holds what the table says, as another backend finds it there.
    fn verify(&self, mode: Mode) -> anyhow::Result<()> {
        let left_out = self.backend.left_out().values().next();
        ensure!(left_out.is_none(), "not every service fits: {left_out:?}");
        ensure!(self.backend.services().len() == self.table.keys().len(), "services are missing");
        let mut other = backend(mode)?;
        other.observe().map_err(|error| anyhow!(error))?;
        other.set_node(&node());
        other.compile(&self.table);
        // What differs it would put right, and count.
        let applied = other.apply(0).map_err(|error| anyhow!(error))?;
        ensure!(applied == Applied::default(), "the kernel is not as the table says: {applied:?}");
        Ok(())
    }
}

impl std::fmt::Debug for Rules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rules").finish_non_exhaustive()
    }
}

fn node() -> Node {
    let addresses = [NODE_IP.into()].into();
    Node { node_port_addresses: [NODE_IP.into()].into(), addresses, ..Node::default() }
}

/// What the kernel has allocated in pieces, in pages it maps, and per processor.
fn kernel_bytes() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok())
    };
    let sum: Option<f64> = ["SUnreclaim", "VmallocUsed", "Percpu"].into_iter().map(kib).sum();
    Ok(sum.context("/proc/meminfo does not tell the kernel's memory")? * 1024.0)
}
