//! `cargo xtask vm`: tests on a kernel with modules, in a virtual machine that sees this machine's files.

mod initramfs;
mod kernel;
mod machine;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use self::{kernel::Kernel, machine::Job};
use crate::{run, say, setup, tally::Tally};

/// What to do in the machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Runs tests whose names contain one of these; without any, all of them.
    filters: Vec<String>,
    /// The datapath of the tests' daemons: `ebpf`, `nftables`, `iptables` or `ipvs`.
    #[arg(long)]
    mode: Option<String>,
    /// Runs the unit tests of this package instead of the integration tests.
    #[arg(long)]
    package: Option<String>,
    /// Runs this line of shell instead of tests, in the workspace's folder.
    #[arg(long, conflicts_with_all = ["filters", "package"])]
    command: Option<String>,
    /// Opens a shell instead of running tests; the machine ends with it.
    #[arg(long, conflicts_with_all = ["filters", "package", "command"])]
    shell: bool,
    /// Kills the machine after so many minutes.
    #[arg(long, default_value_t = 15)]
    minutes: u64,
}

/// A machine that can be booted.
#[derive(Debug)]
pub(crate) struct Machine(Kernel);

impl Machine {
    /// Gets what the machine needs; the error says why it cannot run here.
    pub(crate) fn prepare() -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("the virtual machine is an x86-64 one; this is {}", std::env::consts::ARCH);
        }
        setup::ensure(setup::For::VirtualMachine)?;
        kernel::ensure_in(&folder()).map(Self)
    }

    /// Package and version of its kernel.
    pub(crate) fn version(&self) -> &str {
        &self.0.version
    }

    /// Boots, shows what the job prints and counts it. The flag says whether all went well.
    pub(crate) fn run(&self, job: &Job, bound: Duration) -> Result<(bool, Tally)> {
        machine::run(&self.0, job, bound)
    }
}

/// Boots the machine and does what the arguments say.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    let machine = Machine::prepare()?;
    let mode = arguments.mode.as_deref();
    let job = match (&arguments.command, &arguments.package) {
        (Some(line), _) => Job { words: words(&["/bin/sh", "-c", line]), ..shell(mode) },
        (None, Some(package)) => unit_tests(package, &arguments.filters)?,
        (None, None) if arguments.shell => shell(mode),
        (None, None) => integration_tests(&arguments.filters, false, mode)?,
    };
    say::step(&format!("booting {}", machine.version()));
    if arguments.shell {
        say::line("the machine ends with `exit`; what it writes is gone then");
        return machine::interact(&machine.0, &job);
    }
    let (good, tally) = machine.run(&job, Duration::from_mins(arguments.minutes))?;
    ensure!(good, "{} failed in the virtual machine", tally.failed);
    Ok(())
}

/// Where the kernel and what a run needs lie.
fn folder() -> PathBuf {
    run::target_dir().join("vm")
}

fn shell(mode: Option<&str>) -> Job {
    Job {
        folder: run::workspace().to_owned(),
        words: words(&["/bin/bash"]),
        variables: variables(mode),
    }
}

/// Builds the integration tests: those whose names contain one of `which`, or are one of them.
pub(crate) fn integration_tests(which: &[String], exact: bool, mode: Option<&str>) -> Result<Job> {
    let build = ["build", "--package", "hashplane", "--package", "hashplane-tests", "--bins"];
    run::loud(run::command("cargo", &build))?;
    let program = test_program("hashplane-tests", &["--test", "it"])?;
    let exact = exact.then(|| "--exact".to_owned());
    Ok(Job {
        folder: run::workspace().join("tests"),
        words: [program].into_iter().chain(exact).chain(which.iter().cloned()).collect(),
        variables: variables(mode),
    })
}

fn unit_tests(package: &str, filters: &[String]) -> Result<Job> {
    let program = test_program(package, &["--lib"])?;
    Ok(Job {
        folder: run::workspace().join(package),
        words: [vec![program], filters.to_vec()].concat(),
        variables: variables(None),
    })
}

/// Builds a test program and tells where it is.
fn test_program(package: &str, which: &[&str]) -> Result<String> {
    let mut build = run::command("cargo", &["test", "--no-run", "--quiet", "--package", package]);
    build.args(which).arg("--message-format=json-render-diagnostics");
    build.stderr(std::process::Stdio::inherit());
    let output = build.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "the tests of {package} do not build");
    let program = run::built_program(&String::from_utf8_lossy(&output.stdout));
    let program = program.context("cargo names no test program")?;
    Ok(program.to_string_lossy().into_owned())
}

fn variables(mode: Option<&str>) -> Vec<(String, String)> {
    let binary = run::target_dir().join("debug/hashplane");
    let mut variables = vec![("HASHPLANE_BIN", binary.to_string_lossy().into_owned())];
    // To verify its programs a daemon takes an emulated processor half a minute.
    let usual = if matches!(mode, None | Some("ebpf")) { "1" } else { "2" };
    let threads = std::env::var("RUST_TEST_THREADS").unwrap_or_else(|_unset| usual.to_owned());
    variables.push(("RUST_TEST_THREADS", threads));
    variables.extend(mode.map(|mode| ("HASHPLANE_MODE", mode.to_owned())));
    let passed_on = ["RUST_BACKTRACE", "RUST_LOG", "PROPTEST_CASES", "UPDATE_SNAPSHOTS"];
    variables
        .extend(passed_on.into_iter().filter_map(|name| Some((name, std::env::var(name).ok()?))));
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
