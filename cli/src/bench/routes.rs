//! `hashplane bench` itself: routing modes side by side, and their workers.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use bench::routing::{
    self, Options, Preset, compare,
    lab::objects::Size,
    plan::ROUTES,
    progress::Progress,
    report,
    results::{Results, Route},
    table,
};

/// Which modes, how thoroughly, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct Routes {
    /// At most 3 minutes: whether everything works, and orders of magnitude [default].
    #[arg(long, group = "preset")]
    quick: bool,
    /// At most 30 minutes.
    #[arg(long, group = "preset")]
    standard: bool,
    /// All nine sizes; hours.
    #[arg(long, group = "preset")]
    full: bool,
    /// Folder of the results; a run that was interrupted goes on there.
    #[arg(long, value_name = "DIR", default_value = "hashplane-bench")]
    out: PathBuf,
    /// Which modes, separated by commas [default: all that this machine has].
    #[arg(long, value_delimiter = ',', value_parser = parse_route)]
    modes: Option<Vec<Route>>,
    /// Numbers of services instead of the preset's.
    #[arg(long, value_delimiter = ',')]
    services: Option<Vec<u32>>,
    /// Endpoints of each service instead of the preset's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    endpoints: Option<u32>,
    /// Seconds that one mode may take with one step of one size.
    #[arg(long, value_name = "SECONDS")]
    patience: Option<u64>,
    /// The kube-proxy to measure beside our own modes [default: the one on PATH].
    #[arg(long, value_name = "PROGRAM")]
    kube_proxy: Option<PathBuf>,
    /// Measure this Service from here, as it is, and nothing else: latency and short connections.
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["modes", "services", "kube_proxy"])]
    target: Option<String>,
}

/// What a worker is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Worker {
    #[arg(value_parser = parse_route)]
    route: Route,
    services: u32,
    endpoints: u32,
    run: u32,
}

fn parse_route(text: &str) -> Result<Route, String> {
    Route::parse(text).ok_or_else(|| format!("it is one of {}", ROUTES.map(Route::name).join(", ")))
}

/// Measures until all is done or Ctrl-C comes.
pub(crate) fn run(routes: Routes) -> anyhow::Result<()> {
    let preset = match (routes.standard, routes.full) {
        (_, true) => Preset::Full,
        (true, false) => Preset::Standard,
        (false, false) => Preset::Quick,
    };
    if let Some(target) = routes.target {
        let options = routing::target::Options { target, preset, out: routes.out };
        let results = routing::target::run(&options, &mut Progress::default())?;
        return show(&results, &options.out);
    }
    let options = Options {
        preset,
        services: routes.services,
        endpoints: routes.endpoints,
        routes: routes.modes,
        out: routes.out,
        patience: routes.patience.map(Duration::from_secs),
        program: std::env::current_exe().context("cannot find this program")?,
        kube_proxy: routes.kube_proxy,
    };
    interrupt_on_ctrl_c()?;
    let results = routing::run(&options, &mut Progress::default())?;
    show(&results, &options.out)
}

/// Prints the tables and writes the report.
fn show(results: &Results, out: &Path) -> anyhow::Result<()> {
    println!("{}", table::text(results, width()));
    println!("{}", report::write(results, out)?.display());
    Ok(())
}

/// Of the terminal; wide where there is none.
fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// A folder of results, or the file itself.
fn read(path: &Path) -> anyhow::Result<Results> {
    let folder = if path.is_file() { path.parent().unwrap_or(path) } else { path };
    let results = routing::store::read(folder)?;
    results.with_context(|| format!("{} holds no results.json", folder.display()))
}

/// Writes the report of a run anew.
#[derive(Debug, clap::Args)]
pub(crate) struct Report {
    /// Folder of the results.
    folder: PathBuf,
}

pub(crate) fn report(arguments: &Report) -> anyhow::Result<()> {
    show(&read(&arguments.folder)?, &arguments.folder)
}

/// Which two runs.
#[derive(Debug, clap::Args)]
pub(crate) struct Compare {
    /// Folder of the run before.
    before: PathBuf,
    /// Folder of the run after.
    after: PathBuf,
    /// Fails if something became worse by more than so many percent, beyond noise.
    #[arg(long, value_name = "PERCENT")]
    fail_on_regression: Option<f64>,
}

pub(crate) fn compare(arguments: &Compare) -> anyhow::Result<()> {
    let (before, after) = (read(&arguments.before)?, read(&arguments.after)?);
    let comparison = compare::compare(&before, &after);
    print!("{}", comparison.text());
    let worst = comparison.worst() * 100.0;
    match arguments.fail_on_regression {
        Some(limit) if worst > limit => Err(anyhow!("something became worse by {worst:.1} %")),
        Some(_) | None => Ok(()),
    }
}

/// The lab of one mode; tasks come by standard input.
pub(crate) fn work(worker: &Worker) -> anyhow::Result<()> {
    let size = Size { services: worker.services, endpoints: worker.endpoints };
    routing::worker(worker.route, size, worker.run)
}

fn interrupt_on_ctrl_c() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot wait for Ctrl-C")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                eprintln!("stopping after this step");
                routing::interrupt();
            }
        });
    });
    Ok(())
}
