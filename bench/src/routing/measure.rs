//! The run: workers side by side, one per mode, that take turns.

mod child;
mod evidence;
mod worker;

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, bail, ensure};

use self::child::{Child, Failure};
pub use self::worker::run as worker;
use super::{
    lab::{
        cgroup,
        dataplane::{self, mode},
        objects::Size,
    },
    machine,
    plan::{Observer, Options, Plan, Task},
    results::{FORMAT, Measure, Missing, Results, Route},
    store::{self, Key},
};

/// Memory that a mode needs per endpoint, in bytes: objects, table, program, and the kernel's part.
const BYTES_PER_ENDPOINT: u64 = 3_000;
/// Memory that a mode needs in any case, in MiB: eBPF maps have their full size from the start.
const MIB_PER_MODE: u64 = 400;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Ends the run after the step that goes on now; for a handler of signals.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// Measures what is not in the folder yet, and keeps `results.json` there after every step.
pub fn run(options: &Options, observer: &mut dyn Observer) -> anyhow::Result<Results> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "namespaces and rules need root; run it with sudo, or measure a Service that is there with \
         --target"
    );
    fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make the folder {}", options.out.display()))?;
    for name in cgroup::remove_stale() {
        observer.say(&format!("removed what a run that crashed has left behind: cgroup {name}"));
    }
    let mut plan = Plan::new(options);
    ensure!(!plan.services.contains(&0), "there is nothing to measure with 0 services");
    let mut results = begin(options, observer)?;
    leave_out(&mut plan, options, &mut results, observer);
    ensure!(!plan.routes.is_empty(), "none of the modes that were asked for works on this machine");
    let sizes: Vec<u32> = plan
        .services
        .iter()
        .copied()
        .filter(|size| !results.finished_sizes.contains(size))
        .collect();
    observer.begin(sizes.iter().map(|&size| steps(&plan, size)).sum());
    let mut run = Run { options, plan, results, observer };
    for services in sizes {
        let done = run.size(services);
        cgroup::remove(std::process::id());
        done?;
    }
    run.results.finished = machine::now();
    store::write(&run.options.out, &run.results)?;
    Ok(run.results)
}

/// A new run, or the one that was interrupted, without what it has half of.
fn begin(options: &Options, observer: &mut dyn Observer) -> anyhow::Result<Results> {
    if let Some(mut old) = store::read(&options.out)? {
        ensure!(
            old.preset == options.preset.name(),
            "{} is of a {} run; give another --out",
            store::path(&options.out).display(),
            old.preset
        );
        let finished = old.finished_sizes.clone();
        old.series.retain(|series| finished.contains(&series.services));
        old.missing.retain(|missing| missing.services.is_some_and(|size| finished.contains(&size)));
        observer.say(&format!(
            "going on with the run of {}: {} sizes are done",
            old.started,
            finished.len()
        ));
        old.finished.clear();
        return Ok(old);
    }
    Ok(Results {
        format: FORMAT,
        preset: options.preset.name().to_owned(),
        started: machine::now(),
        machine: machine::describe(),
        ..Results::default()
    })
}

/// Routes that this machine cannot take, with the reason.
fn leave_out(
    plan: &mut Plan,
    options: &Options,
    results: &mut Results,
    observer: &mut dyn Observer,
) {
    let mut lacking = dataplane::lacking(&plan.routes);
    let found = options.kube_proxy.clone().or_else(|| machine::on_path("kube-proxy"));
    let kube_proxy = match found {
        None => "there is no kube-proxy on PATH; --kube-proxy names one",
        Some(_) => "driving kube-proxy is not supported yet",
    };
    let is_kube_proxy = |route: &Route| !route.is_direct() && mode(*route).is_none();
    let routes = plan.routes.iter().copied().filter(is_kube_proxy);
    lacking.extend(routes.map(|route| (route, kube_proxy.to_owned())));
    for (route, why) in lacking {
        plan.routes.retain(|other| *other != route);
        observer.say(&format!("{} is left out: {why}", route.name()));
        store::miss(results, Missing { route, services: None, measure: None, why });
    }
}

/// Whether a task says something about a route, or why not.
fn applies(route: Route, task: Task) -> Result<(), (Measure, &'static str)> {
    let nodes_only = "XDP takes what comes in by a NIC and leaves by it; connections of pods go \
                      through TC, which is measured as ebpf-tc";
    let no_service = "no service, no change";
    let xdp = route == Route::EbpfXdp;
    match task {
        Task::Packets { .. } if route == Route::EbpfSocket => Err((
            Measure::Packets,
            "packets of a node port have no socket here; they are measured as ebpf-tc and ebpf-xdp",
        )),
        Task::Change { .. } if route.is_direct() => Err((Measure::Change, no_service)),
        Task::Connect { .. } if xdp => Err((Measure::ConnectLatency, nodes_only)),
        Task::Datagram { .. } if xdp => Err((Measure::FirstDatagramLatency, nodes_only)),
        Task::Short { .. } if xdp => Err((Measure::ShortConnections, nodes_only)),
        Task::Requests { .. } if xdp => Err((Measure::Requests, nodes_only)),
        Task::Throughput { .. } if xdp => Err((Measure::Throughput, nodes_only)),
        Task::CpuLeft { .. } if xdp => Err((Measure::CpuLeft, nodes_only)),
        Task::Change { .. } if xdp => Err((Measure::Change, nodes_only)),
        Task::Prepare
        | Task::Packets { .. }
        | Task::Connect { .. }
        | Task::Datagram { .. }
        | Task::Short { .. }
        | Task::Requests { .. }
        | Task::Throughput { .. }
        | Task::CpuLeft { .. }
        | Task::Change { .. } => Ok(()),
    }
}

fn steps(plan: &Plan, services: u32) -> usize {
    let tasks = plan.tasks(services).len() * plan.rounds as usize;
    plan.routes.len() * (plan.cold_rounds as usize + tasks)
}

struct Run<'a> {
    options: &'a Options,
    plan: Plan,
    results: Results,
    observer: &'a mut dyn Observer,
}

impl Run<'_> {
    /// Everything with one number of services.
    fn size(&mut self, services: u32) -> anyhow::Result<()> {
        let size = Size { services, endpoints: self.plan.endpoints };
        if !self.fits(size) {
            return Ok(());
        }
        let mut workers = self.prepare(size)?;
        for round in 0..self.plan.rounds as usize {
            for task in self.plan.tasks(services) {
                // Nobody is always the first one after a pause.
                let first = round % workers.len().max(1);
                workers.rotate_left(first);
                self.turn(&mut workers, task, services)?;
                let length = workers.len().max(1);
                workers.rotate_right(first % length);
                store::write(&self.options.out, &self.results)?;
            }
        }
        drop(workers);
        self.results.finished_sizes.push(services);
        store::write(&self.options.out, &self.results)
    }

    /// Whether all modes with so many services fit into memory side by side.
    fn fits(&mut self, size: Size) -> bool {
        let modes = self.plan.routes.iter().filter(|route| mode(**route).is_some()).count() as u64;
        let endpoints = u64::from(size.services) * u64::from(size.endpoints);
        let needed = modes * (MIB_PER_MODE + endpoints * BYTES_PER_ENDPOINT / (1 << 20));
        let available = machine::memory_available_mib();
        if needed <= available {
            return true;
        }
        let why = format!(
            "{modes} modes side by side need about {needed} MiB of memory and {available} MiB are \
             available; fewer --modes or --endpoints need less"
        );
        self.observer.say(&format!("{} services are left out: {why}", size.services));
        for route in self.plan.routes.clone() {
            let missing =
                Missing { route, services: Some(size.services), measure: None, why: why.clone() };
            store::miss(&mut self.results, missing);
        }
        false
    }

    /// Programs every mode again and again, in turn; the last worker of each stays.
    fn prepare(&mut self, size: Size) -> anyhow::Result<Vec<Child>> {
        let mut workers = Vec::new();
        for round in 1..=self.plan.cold_rounds {
            for route in self.plan.routes.clone() {
                check_interrupted()?;
                self.observer.step(&format!("{}: {} services", route.name(), size.services));
                if round < self.plan.cold_rounds && route.is_direct() {
                    continue;
                }
                let started = Child::start(&self.options.program, route, size)
                    .map_err(Failure::Other)
                    .and_then(|mut child| {
                        let parts = child.ask(Task::Prepare, self.plan.patience)?;
                        Ok((child, parts))
                    });
                match started {
                    Ok((child, parts)) => {
                        self.take(route, size.services, parts);
                        if round == self.plan.cold_rounds {
                            workers.push(child);
                        }
                    }
                    Err(failure) => self.give_up(route, size.services, None, &failure),
                }
                store::write(&self.options.out, &self.results)?;
            }
        }
        Ok(workers)
    }

    /// One task, by one worker after the other.
    fn turn(&mut self, workers: &mut Vec<Child>, task: Task, services: u32) -> anyhow::Result<()> {
        let mut at = 0;
        while let Some(child) = workers.get_mut(at) {
            check_interrupted()?;
            let route = child.route;
            self.observer.step(&format!("{}: {services} services, {}", route.name(), name(task)));
            if let Err((measure, why)) = applies(route, task) {
                let why = why.to_owned();
                let missing = Missing { route, services: None, measure: Some(measure), why };
                store::miss(&mut self.results, missing);
                at += 1;
                continue;
            }
            match child.ask(task, self.plan.patience) {
                Ok(parts) => {
                    self.take(route, services, parts);
                    at += 1;
                }
                Err(failure @ Failure::Task(_)) => {
                    self.give_up(route, services, Some(measure(task)), &failure);
                    at += 1;
                }
                Err(failure @ (Failure::Late(_) | Failure::Other(_))) => {
                    self.give_up(route, services, Some(measure(task)), &failure);
                    workers.remove(at);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, route: Route, services: u32, parts: Vec<worker::Part>) {
        for part in parts {
            let key = Key {
                measure: part.measure,
                route,
                services,
                position: part.position,
                family: part.family,
                transport: part.transport,
            };
            store::add(&mut self.results, &key, part.samples, &part.evidence);
        }
    }

    /// Says what is missing. A mode that was too late is not tried with more services.
    fn give_up(
        &mut self,
        route: Route,
        services: u32,
        measure: Option<Measure>,
        failure: &Failure,
    ) {
        let why = failure.to_string();
        self.observer.say(&format!("{} with {services} services: {why}", route.name()));
        let larger: Vec<u32> = match (failure, measure) {
            (Failure::Late(_), None) => {
                self.plan.routes.retain(|other| *other != route);
                self.plan.services.iter().copied().filter(|size| *size > services).collect()
            }
            _ => Vec::new(),
        };
        let missing = Missing { route, services: Some(services), measure, why };
        store::miss(&mut self.results, missing);
        for size in larger {
            let why = format!("with {services} services {failure}");
            let missing = Missing { route, services: Some(size), measure: None, why };
            store::miss(&mut self.results, missing);
        }
    }
}

fn check_interrupted() -> anyhow::Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted; the same command with the same --out goes on from here");
    }
    Ok(())
}

/// What a task is about, for people.
fn name(task: Task) -> &'static str {
    match task {
        Task::Prepare => "programming",
        Task::Connect { .. } => "connect latency",
        Task::Datagram { .. } => "first datagram",
        Task::Short { .. } => "short connections",
        Task::Requests { .. } => "requests",
        Task::Throughput { .. } => "throughput",
        Task::CpuLeft { .. } => "CPU left",
        Task::Packets { .. } => "packets",
        Task::Change { .. } => "changes",
    }
}

/// What is missing when a task fails.
fn measure(task: Task) -> Measure {
    match task {
        Task::Prepare => Measure::ColdProgramming,
        Task::Connect { .. } => Measure::ConnectLatency,
        Task::Datagram { .. } => Measure::FirstDatagramLatency,
        Task::Short { .. } => Measure::ShortConnections,
        Task::Requests { .. } => Measure::Requests,
        Task::Throughput { .. } => Measure::Throughput,
        Task::CpuLeft { .. } => Measure::CpuLeft,
        Task::Packets { .. } => Measure::Packets,
        Task::Change { .. } => Measure::Change,
    }
}
