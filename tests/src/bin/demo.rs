//! The demo that `cargo xtask demo` runs: real requests through real daemons, in namespaces.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use clap::Parser;
use hashplane_tests::{
    agent,
    demo::{Demo, Outcome},
    lab::{self, Keeper},
    story,
};
use nix::sys::signal::{SigSet, Signal};

/// Exit code of a program that was interrupted (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// Shows Hashplane at work in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo")]
struct Cli {
    /// The binary to show.
    #[arg(long, env = "HASHPLANE_BIN")]
    hashplane: Option<PathBuf>,
    /// The program that pods run, without shared libraries.
    #[arg(long, env = "HASHPLANE_TEST_POD")]
    pod: Option<PathBuf>,
    /// Show the dataplane alone: servers in network namespaces in place of pods.
    #[arg(long)]
    dataplane: bool,
    /// Leave everything for looking around.
    #[arg(long)]
    keep: bool,
    /// Remove a lab that was left, by its name, and do nothing else.
    #[arg(long, value_name = "LAB")]
    remove: Option<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    // The lab starts this binary again inside of itself.
    if agent::run_if_asked()? {
        return Ok(ExitCode::SUCCESS);
    }
    let cli = Cli::parse();
    if let Some(lab) = &cli.remove {
        lab::remove(lab)?;
        return Ok(ExitCode::SUCCESS);
    }
    // Blocked before any other thread exists: only the thread that waits for them gets them.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    let tool = std::env::current_exe().context("cannot tell which binary this is")?;
    let binary = cli.hashplane.unwrap_or_else(|| tool.with_file_name("hashplane"));
    let interrupted = Arc::new(AtomicBool::new(false));
    if !cli.dataplane {
        let program = cli.pod.unwrap_or_else(|| tool.with_file_name("test-pod"));
        stop_at_interrupts(signals, Arc::clone(&interrupted));
        let told = story::run(&binary, &program, cli.keep, &interrupted);
        return match told {
            _ if interrupted.load(Ordering::SeqCst) => {
                // A closed terminal needs no farewell.
                let _ = writeln!(io::stdout(), "\ninterrupted; the cluster is removed");
                exit()
            }
            told => Ok(code(told?)),
        };
    }
    let demo = Demo::build(&tool, &binary)?;
    watch_for_interrupts(signals, demo.keeper(), Arc::clone(&interrupted));
    let outcome = demo.run(cli.keep);
    if interrupted.load(Ordering::SeqCst) {
        // What failed, failed because the lab is being removed; the watcher ends this process.
        loop {
            thread::park();
        }
    }
    Ok(code(outcome?))
}

const fn code(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Errors => ExitCode::FAILURE,
    }
}

/// The story looks whether it is to end.
fn stop_at_interrupts(signals: SigSet, interrupted: Arc<AtomicBool>) {
    thread::spawn(move || {
        if signals.wait().is_ok() {
            interrupted.store(true, Ordering::SeqCst);
        }
    });
}

fn watch_for_interrupts(signals: SigSet, keeper: Arc<Keeper>, interrupted: Arc<AtomicBool>) {
    thread::spawn(move || {
        if signals.wait().is_ok() {
            interrupted.store(true, Ordering::SeqCst);
            keeper.remove_now();
            // A closed terminal needs no farewell.
            let _ = writeln!(io::stdout(), "\ninterrupted; the lab is removed");
            exit();
        }
    });
}

#[expect(clippy::exit, reason = "the main thread may be inside a request that nobody answers")]
fn exit() -> ! {
    std::process::exit(INTERRUPTED)
}
