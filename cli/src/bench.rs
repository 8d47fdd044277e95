//! `hashplane bench`: measurements on the machine at hand.

mod api;
mod routes;

use std::{path::PathBuf, time::Duration};

use ::bench::{churn, report};
use dataplane_user::backend::Mode;

/// Routing modes side by side, unless a subcommand says otherwise.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    routes: routes::Routes,
}

/// What to measure.
#[derive(Debug, clap::Subcommand)]
enum What {
    /// Routing modes side by side, from 1 to 100,000 services: what comes without a subcommand too.
    Routes(routes::Routes),
    /// The lab of one mode, for the command above.
    #[command(hide = true)]
    RoutesWorker(routes::Worker),
    /// Writes report, tables and plots of a run anew.
    Report(routes::Report),
    /// What differs between two runs by more than noise.
    Compare(routes::Compare),
    /// ns per packet of each path, beside an empty program and a parse with one lookup.
    Packets(Output),
    /// Objects into real maps, one endpoint's change, and heap per service.
    Churn(Churn),
    /// A server of its own on loopback: creations, reads, watches, roll-outs, and what it costs idle.
    Api(api::Api),
}

/// How many services of which size.
#[derive(Debug, clap::Args)]
pub(crate) struct Churn {
    #[command(flatten)]
    output: Output,
    /// Write every sample to this file as a JSON array of {name, unit, samples}.
    #[arg(long, value_name = "FILE")]
    raw: Option<PathBuf>,
    /// Numbers of services.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000")]
    services: Vec<u32>,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 5)]
    endpoints: u32,
    /// Which modes.
    #[arg(long, value_delimiter = ',', value_parser = parse_mode)]
    #[arg(default_value = "ebpf,nftables,ipvs,iptables")]
    modes: Vec<Mode>,
    /// Seconds that one netfilter mode may take with one number of services.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u64,
}

fn parse_mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text)
        .ok_or_else(|| format!("it is one of {}", Mode::ALL.map(Mode::name).join(", ")))
}

/// Where figures go, beside the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Write the rows to this file as a JSON array of {name, unit, median, p99, n}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, prints a table and writes the files that were asked for.
pub(crate) fn run(bench: Bench) -> anyhow::Result<()> {
    let (rows, output) = match bench.what {
        None => return routes::run(bench.routes),
        Some(What::Routes(routes)) => return routes::run(routes),
        Some(What::RoutesWorker(worker)) => return routes::work(&worker),
        Some(What::Report(report)) => return routes::report(&report),
        Some(What::Compare(compare)) => return routes::compare(&compare),
        Some(What::Packets(output)) => (::bench::packets::run()?, output),
        Some(What::Api(options)) => (api::run(&options)?, options.output),
        Some(What::Churn(options)) => (run_churn(&options)?, options.output),
    };
    println!("{}\n\n{}", report::machine(), report::table(&rows));
    if let Some(path) = &output.json {
        report::write_json(path, &rows)?;
    }
    Ok(())
}

fn run_churn(options: &Churn) -> anyhow::Result<Vec<report::Row>> {
    let measured = churn::run(&churn::Options {
        services: options.services.clone(),
        endpoints: options.endpoints,
        modes: options.modes.clone(),
        heap: beside("bench-heap", "heap_per_service")?,
        case: beside("bench-case", "what concerns nftables, ipvs and iptables")?,
        patience: Duration::from_secs(options.patience),
    })?;
    for limit in &measured.limits {
        println!("{limit}");
    }
    if let Some(path) = &options.raw {
        report::write_raw(path, &measured.raw)?;
    }
    Ok(measured.raw.iter().map(report::Raw::row).collect())
}

/// A program that was built beside this one, or `None`, aloud.
fn beside(name: &str, what: &str) -> anyhow::Result<Option<PathBuf>> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(Some(path));
    }
    println!("{what} is left out: {} is not there", path.display());
    println!("`cargo xtask bench churn` builds it.");
    Ok(None)
}
