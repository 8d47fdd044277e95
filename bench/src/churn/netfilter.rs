//! The netfilter modes, one process per mode and size, which ends when it takes too long.

use std::{
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use dataplane_user::{
    backend::Mode,
    probe::{self, choose::lacks},
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};

use super::{Measured, Options, case::Samples, heap, raw};

/// Between two looks at whether a process has ended.
const STEP: Duration = Duration::from_millis(20);

/// Measures one mode with every size, from the smallest on; larger ones than one that took too long
/// are not tried.
pub(super) fn run(
    options: &Options,
    mode: Mode,
    program: &Path,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let lacks = lacks(&probe::run(), mode);
    if !lacks.is_empty() {
        let why = lacks.join(", ");
        measured.limits.push(format!("SKIP {mode}: this node lacks {why}"));
        return Ok(());
    }
    let mut sizes = options.services.clone();
    sizes.sort_unstable();
    let mut rows = Vec::new();
    for &services in &sizes {
        let Some(samples) = one(options, mode, services, program)? else {
            let limit = options.patience.as_secs();
            let more = sizes.iter().filter(|size| **size >= services).map(u32::to_string);
            let more = more.collect::<Vec<_>>().join(", ");
            measured.limits.push(format!("{mode} with {more} services takes more than {limit} s"));
            measured.raw.extend(rows);
            return Ok(());
        };
        let [table, compile, apply] = samples.parts_ms;
        measured.limits.push(format!(
            "{services} services from objects to {mode}: table {table:.1} ms, compile \
             {compile:.1} ms, kernel {apply:.1} ms",
        ));
        let named = |what: &str, unit, samples| {
            let mut raw = raw(what, services, unit, samples);
            raw.name = format!("{}_{mode}", raw.name);
            raw
        };
        measured.raw.push(named("cold", "ms", samples.cold_ms));
        rows.push(named("change", "us", samples.change_us));
        rows.push(named("kernel", "MiB", vec![samples.kernel_bytes / f64::from(1 << 20)]));
    }
    measured.raw.extend(rows);
    heap(options, mode, &format!("_{mode}"), measured)
}

/// The samples of one size; `None` if it takes too long.
fn one(
    options: &Options,
    mode: Mode,
    services: u32,
    program: &Path,
) -> anyhow::Result<Option<Samples>> {
    let name = program.display();
    let mut child = Command::new(program)
        .args([mode.name().to_owned(), services.to_string(), options.endpoints.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Programs that it starts end with it.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    let Some(good) = wait(&mut child, options.patience)? else { return Ok(None) };
    let mut text = String::new();
    child.stdout.take().context("no output")?.read_to_string(&mut text)?;
    if !good {
        bail!("{name} {mode} {services}: it failed, see above");
    }
    let samples = serde_json::from_str(&text);
    samples.with_context(|| format!("{name} printed no samples: {text}")).map(Some)
}

/// Whether it ended well; `None` if it had to be ended. It prints less than a pipe holds.
fn wait(child: &mut Child, patience: Duration) -> anyhow::Result<Option<bool>> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if begun.elapsed() > patience {
            killpg(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGKILL)?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(STEP);
    }
}
