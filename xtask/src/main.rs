//! `cargo xtask`: set-up, tests, demo, benchmarks and releases.
#![forbid(unsafe_code)]

mod launch;
mod run;
mod say;
mod setup;

mod compare;
mod coverage;
mod dist;
mod fuzz;
mod tally;
mod test;
mod tidy;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::test::Level;

/// Set-up, tests, demo, benchmarks and releases of Hashplane.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing on this machine, saying each thing it does.
    Setup,
    /// Build the eBPF programs and the crate that embeds them.
    BuildEbpf,
    /// Build a cluster of two nodes in network namespaces and show what it does.
    Demo {
        /// Show the dataplane alone: servers in network namespaces in place of pods.
        #[arg(long)]
        dataplane: bool,
        /// Leave everything for looking around.
        #[arg(long)]
        keep: bool,
    },
    /// Run every test that this machine can run.
    Test {
        /// `1`: what needs neither root nor BPF. `all`: everything.
        #[arg(long, value_enum, default_value_t = Level::All)]
        level: Level,
    },
    /// Run tests on Debian's kernel in a virtual machine, which has IPVS, SCTP and modules.
    Vm(vm::Arguments),
    /// What continuous integration runs: every test.
    Ci,
    /// Measure; the arguments go to `hashplane bench`.
    Bench {
        /// Measure this tree and another commit in turns, and say what differs beyond noise.
        #[arg(long, value_name = "COMMIT")]
        compare: Option<String>,
        /// Fail if a figure became worse.
        #[arg(long, requires = "compare")]
        fail_on_regression: bool,
        /// Options of `hashplane bench`; or `packets`, `churn`, `api` or `pods` and theirs.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Feed a parser with mutated packets until time is over or something breaks.
    Fuzz {
        /// The fuzz target; all of them in turn if none is given.
        target: Option<String>,
        /// How long to run each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure how many lines of the packet library its own tests run; under 90 % is a failure.
    Coverage,
    /// Make a static binary with the eBPF programs inside.
    Dist,
    /// Check the rules of the repository that no compiler knows.
    Tidy,
}

fn set_up() -> anyhow::Result<()> {
    setup::ensure(setup::For::Tests)?;
    vm::Machine::prepare().map(drop)
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Setup => set_up(),
        Task::BuildEbpf => launch::build_ebpf(),
        Task::Demo { dataplane, keep } => launch::demo(dataplane, keep),
        // The summary must stay the last line, so the tests print their own failures.
        Task::Test { level } => return test::run(level),
        Task::Ci => return test::run(Level::All),
        Task::Vm(arguments) => vm::run(&arguments),
        Task::Bench { compare: Some(commit), fail_on_regression, .. } => {
            compare::run(&commit, fail_on_regression)
        }
        Task::Bench { arguments, .. } => match arguments.split_first() {
            Some((what, rest)) if what == "pods" => launch::bench_pods(rest),
            _ => launch::bench(&arguments),
        },
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Coverage => coverage::run(),
        Task::Dist => dist::run(),
        Task::Tidy => tidy::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failure(&error);
            ExitCode::FAILURE
        }
    }
}
