//! What pods cost on this machine; `cargo xtask bench pods` builds what it needs and runs it.
#![forbid(unsafe_code)]

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use bench::report::{self, Raw};
use clap::Parser;
use hashplane_tests::measure::{self, Options};

/// Measures a node that runs pods: from its start to the first request, pods per second, what it costs idle.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench pods")]
struct Cli {
    /// The binary to measure.
    #[arg(long, env = "HASHPLANE_BIN")]
    hashplane: PathBuf,
    /// The program that pods run, without shared libraries.
    #[arg(long, env = "HASHPLANE_TEST_POD")]
    pod: PathBuf,
    /// How many times a cluster is started.
    #[arg(long, default_value_t = 5)]
    starts: usize,
    /// Pods that are started one after the other.
    #[arg(long, default_value_t = 100)]
    pods: usize,
    /// How many a second.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: u32,
    /// Where every sample goes, as JSON.
    #[arg(long)]
    raw: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let raw = measure::run(&Options {
        binary: cli.hashplane,
        program: cli.pod,
        starts: cli.starts,
        pods: cli.pods,
        per_second: cli.per_second,
    })?;
    if let Some(path) = &cli.raw {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).context("cannot make the folder of the samples")?;
        }
        report::write_raw(path, &raw)?;
    }
    let rows: Vec<_> = raw.iter().map(Raw::row).collect();
    let text = format!("{}\n{}", report::machine(), report::table(&rows));
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")
}
