//! `hashplane bench`: measurements on the machine at hand.

use std::path::PathBuf;

use ::bench::report;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// ns per packet of each path, beside an empty program and a parse with one lookup.
    Packets(Output),
}

/// Where figures go, beside the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Output {
    /// Write the rows to this file as a JSON array of {name, unit, median, p99, n}.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, prints a table and writes the files that were asked for.
pub(crate) fn run(what: &Bench) -> anyhow::Result<()> {
    let (rows, output) = match what {
        Bench::Packets(output) => (::bench::packets::run()?, output),
    };
    println!("{}\n\n{}", report::machine(), report::table(&rows));
    if let Some(path) = &output.json {
        report::write_json(path, &rows)?;
    }
    Ok(())
}
