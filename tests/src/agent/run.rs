//! The hidden subcommands under which a lab starts its own binary again inside of itself.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::Arc,
    thread,
};

use anyhow::{Context as _, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::SigSet,
};

use super::{
    protocol::{Request, Response},
    sockets::Held,
};

/// Becomes an agent, another program or a keeper if the arguments say so; returns otherwise.
///
/// Must be the first thing in `main`: a namespace is entered by one thread only.
pub fn run_if_asked() -> anyhow::Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["lab-agent", netns, cgroup] => {
            match enter(netns, cgroup) {
                Ok(()) => serve_input()?,
                // The lab was removed before its agent was in it: nobody is left to serve.
                Err(_) if !Path::new(cgroup).is_dir() => {}
                Err(error) => return Err(error),
            }
            Ok(true)
        }
        ["lab-run", netns, cgroup, program, rest @ ..] => {
            enter(netns, cgroup)?;
            let error = Command::new(program).args(rest).exec();
            Err(error).with_context(|| format!("cannot run {program}"))
        }
        ["lab-keeper", lab] => {
            crate::lab::keep_until_end_of_input(lab)?;
            Ok(true)
        }
        ["lab-hold"] => {
            hold()?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// Moves this process into a network namespace and a cgroup, with no signal blocked: the owner of
/// the lab may block some of its own.
fn enter(netns: &str, cgroup: &str) -> anyhow::Result<()> {
    SigSet::all().thread_unblock().context("cannot unblock signals")?;
    let namespace = File::open(Path::new("/run/netns").join(netns))
        .with_context(|| format!("cannot open the network namespace {netns}"))?;
    setns(namespace, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {netns}"))?;
    // "0" is the process that writes it.
    fs::write(Path::new(cgroup).join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter the cgroup {cgroup}"))
}

fn serve_input() -> anyhow::Result<()> {
    let held = Arc::new(Held::default());
    for line in io::stdin().lock().lines() {
        let line = line.context("cannot read a request")?;
        let Ok(Request { id, op }) = serde_json::from_str(&line) else {
            bail!("this is no request: {line}");
        };
        let held = Arc::clone(&held);
        thread::spawn(move || {
            let response = Response { id, result: held.run(op) };
            if let Ok(mut text) = serde_json::to_string(&response) {
                text.push('\n');
                // The lab that no longer listens is about to end this process.
                let _ = io::stdout().lock().write_all(text.as_bytes());
            }
        });
    }
    while held.outlives() {
        thread::park();
    }
    Ok(())
}

/// Builds a lab, says its name and never ends: what a test kills to see the lab removed.
fn hold() -> anyhow::Result<()> {
    let tool = std::env::current_exe().context("cannot tell which binary this is")?;
    let lab = crate::Lab::new(&crate::LabOptions::new(tool))?;
    writeln!(io::stdout(), "{}", lab.name()).context("cannot say the lab's name")?;
    loop {
        thread::park();
    }
}
