//! `hashplane bench` itself: routing modes side by side, and their workers.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use bench::routing::{
    self, Observer, Options, Preset, lab::objects::Size, plan::ROUTES, results::Route,
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
        routing::target::run(&options, &mut Lines::default())?;
        println!("{}", routing::store::path(&options.out).display());
        return Ok(());
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
    routing::run(&options, &mut Lines::default())?;
    println!("{}", routing::store::path(&options.out).display());
    Ok(())
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

/// One line per step.
#[derive(Debug, Default)]
struct Lines {
    steps: usize,
    done: usize,
}

impl Observer for Lines {
    fn begin(&mut self, steps: usize) {
        self.steps = steps;
    }

    fn step(&mut self, what: &str) {
        self.done += 1;
        eprintln!("{}/{} {what}", self.done, self.steps);
    }

    fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }
}
