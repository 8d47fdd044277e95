//! What services cost: from objects to real maps, one endpoint's change, heap per service.

pub mod case;
mod netfilter;
mod objects;
pub mod world;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use dataplane_user::backend::Mode;

use self::world::{Cold, World};
use crate::report::Raw;

/// From objects to maps, each time into fresh ones.
const COLD_SAMPLES: usize = 11;
/// Changes of one endpoint, spread over all services.
const CHANGE_SAMPLES: u32 = 2_000;
/// Changes in a row before the samples count.
const CHANGE_WARM_UP: u32 = 50;
/// Every so many changes the maps are read back.
const VERIFY_EVERY: u32 = 20;
/// Services that changes step over; prime, so that all of them have their turn.
const STRIDE: u32 = 7_919;
/// Runs of the program that counts bytes, which fills maps or rules each time.
const HEAP_SAMPLES: usize = 3;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Numbers of services.
    pub services: Vec<u32>,
    /// Endpoints of each service.
    pub endpoints: u32,
    /// Which modes.
    pub modes: Vec<Mode>,
    /// The program that counts the bytes of our heap; `None` leaves that row out.
    pub heap: Option<PathBuf>,
    /// The program that measures one netfilter mode with one size; `None` leaves those modes out.
    pub case: Option<PathBuf>,
    /// How long one netfilter mode may take with one size.
    pub patience: Duration,
}

/// Samples, and where the time went.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The samples of every row.
    pub raw: Vec<Raw>,
    /// What limits, one sentence per line.
    pub limits: Vec<String>,
}

/// Measures. Needs root, and BPF for eBPF.
pub fn run(options: &Options) -> anyhow::Result<Measured> {
    ensure!(options.endpoints > 0, "a change needs a service with an endpoint");
    ensure!(!options.services.contains(&0), "there is nothing to measure in 0 services");
    let mut measured = Measured::default();
    for &mode in &options.modes {
        match (mode, &options.case) {
            (Mode::Ebpf, _) => ebpf(options, &mut measured)?,
            (Mode::Nftables | Mode::Iptables | Mode::Ipvs, Some(program)) => {
                netfilter::run(options, mode, program, &mut measured)?;
            }
            (Mode::Nftables | Mode::Iptables | Mode::Ipvs, None) => {
                measured.limits.push(format!("{mode} is left out: bench-case is not there"));
            }
        }
    }
    Ok(measured)
}

/// From objects to real maps.
fn ebpf(options: &Options, measured: &mut Measured) -> anyhow::Result<()> {
    let endpoints = options.endpoints;
    let mut changes = Vec::new();
    for &services in &options.services {
        let (world, cold) = cold(services, endpoints)?;
        let samples = cold.iter().map(|cold| ms(cold.total())).collect();
        measured.raw.push(raw("cold", services, "ms", samples));
        measured.limits.push(shares(services, &cold));
        changes.push(raw("change", services, "us", change(world, services, endpoints)?));
    }
    measured.raw.extend(changes);
    heap(options, Mode::Ebpf, "", measured)
}

/// The heap of the largest size.
fn heap(
    options: &Options,
    mode: Mode,
    suffix: &str,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    if let (Some(heap), Some(&services)) = (&options.heap, options.services.iter().max()) {
        let mut samples = Vec::new();
        for _ in 0..HEAP_SAMPLES {
            samples.push(heap_per_service(heap, mode, services, options.endpoints)?);
        }
        let mut raw = raw("heap_per_service", services, "B", samples);
        raw.name.push_str(suffix);
        measured.raw.push(raw);
    }
    Ok(())
}

/// Fills fresh maps again and again; the last world is kept.
fn cold(services: u32, endpoints: u32) -> anyhow::Result<(World, Vec<Cold>)> {
    let mut samples = Vec::with_capacity(COLD_SAMPLES);
    loop {
        let mut world = World::new()?;
        let events: Vec<_> = World::events(services, endpoints).collect();
        samples.push(world.fill(events)?);
        world.verify_fill(services, endpoints)?;
        if samples.len() == COLD_SAMPLES {
            return Ok((world, samples));
        }
    }
}

/// Replaces one endpoint after the other, each in another service.
fn change(mut world: World, services: u32, endpoints: u32) -> anyhow::Result<Vec<f64>> {
    let mut samples = Vec::new();
    for number in 0..CHANGE_WARM_UP + CHANGE_SAMPLES {
        let service = u32::try_from(u64::from(number) * u64::from(STRIDE) % u64::from(services))?;
        let event = objects::slice(service, endpoints, Some(number));
        let elapsed = world.change(event)?;
        if number >= CHANGE_WARM_UP {
            samples.push(elapsed.as_secs_f64() * 1e6);
        }
        if number % VERIFY_EVERY == 0 {
            world.verify_endpoint(service, objects::later_pod_ip(number))?;
        }
    }
    Ok(samples)
}

/// Runs the program that counts; it prints one number.
fn heap_per_service(
    program: &Path,
    mode: Mode,
    services: u32,
    endpoints: u32,
) -> anyhow::Result<f64> {
    let name = program.display();
    let output = Command::new(program)
        .args([mode.name().to_owned(), services.to_string(), endpoints.to_string()])
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {said}");
    let bytes = String::from_utf8(output.stdout)?;
    bytes.trim().parse().with_context(|| format!("{name} printed no number: {bytes}"))
}

/// Where the median of the cold times went.
fn shares(services: u32, cold: &[Cold]) -> String {
    let mut sorted = cold.to_vec();
    sorted.sort_by_key(Cold::total);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let mut processor: Vec<Duration> = cold.iter().map(|cold| cold.processor).collect();
    processor.sort_unstable();
    let processor = processor.get(processor.len() / 2).copied().unwrap_or_default();
    let part = |part: Duration| {
        let percent = 100.0 * part.as_secs_f64() / median.total().as_secs_f64();
        format!("{:.1} ms ({percent:.0} %)", ms(part))
    };
    format!(
        "{services} services from objects to maps: table {}, compile {}, map calls {}; \
         processor time {:.1} ms",
        part(median.table),
        part(median.compile),
        part(median.write),
        ms(processor),
    )
}

fn raw(what: &str, services: u32, unit: &'static str, samples: Vec<f64>) -> Raw {
    let size = if services.is_multiple_of(1000) {
        format!("{}k", services / 1000)
    } else {
        services.to_string()
    };
    Raw { name: format!("{what}_{size}"), unit, samples }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
