//! What the API costs: a server of its own on loopback, over TLS, with its writes on a real disk.
//!
//! Clients and simulated nodes run in this process, on the same processors: figures are of both together.

mod load;
mod server;

use std::{path::PathBuf, time::Duration};

use control_plane::{api::status::Failure, simulate};
use tokio::task::JoinHandle;

use self::server::Child;
use crate::report::Raw;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// The program that serves, with its subcommand `server`.
    pub program: PathBuf,
    /// Where its folder is made; it is removed at the end.
    pub folder: PathBuf,
    /// Clients that create objects.
    pub clients: usize,
    /// How long they do.
    pub creates_for: Duration,
    /// Pods of the list and of the deployment.
    pub pods: usize,
    /// Simulated nodes.
    pub nodes: u32,
    /// Watches of one kind.
    pub watchers: usize,
    /// Changes a second that all of them see.
    pub changes_per_s: u32,
    /// How long.
    pub watch_for: Duration,
}

/// Measures everything, one thing after the other, each with a fresh server.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Raw>> {
    let mut rows = Vec::new();
    ready(options, &mut rows).await?;
    creates_and_reads(options, &mut rows).await?;
    idle(options, &mut rows).await?;
    roll_out(options, &mut rows).await?;
    watches(options, &mut rows).await?;
    Ok(rows)
}

fn row(rows: &mut Vec<Raw>, name: impl Into<String>, unit: &'static str, samples: Vec<f64>) {
    rows.push(Raw { name: name.into(), unit, samples });
}

/// From the start of the process to the first answer, with an empty folder.
async fn ready(options: &Options, rows: &mut Vec<Raw>) -> anyhow::Result<()> {
    let mut samples = Vec::new();
    for _ in 0..7 {
        samples.push(Child::start(options).await?.ready.as_secs_f64() * 1e3);
    }
    row(rows, "start_to_serving", "ms", samples);
    Ok(())
}

async fn creates_and_reads(options: &Options, rows: &mut Vec<Raw>) -> anyhow::Result<()> {
    let child = Child::start(options).await?;
    let (rate, latency) = load::creates(&child, options.clients, options.creates_for).await?;
    row(rows, format!("creates_{}_clients", options.clients), "1/s", vec![rate]);
    row(rows, format!("create_{}_clients", options.clients), "ms", latency);
    row(rows, "get", "ms", load::gets(&child, 2_000).await?);
    load::pods(&child, options.clients, options.pods).await?;
    row(rows, format!("list_{}_pods", options.pods), "ms", load::lists(&child, 11).await?);
    row(rows, format!("rss_{}_pods", options.pods), "MiB", vec![child.rss_mib()?]);
    Ok(())
}

/// What a cluster of 100 pods costs while nothing happens.
async fn idle(options: &Options, rows: &mut Vec<Raw>) -> anyhow::Result<()> {
    let child = Child::start(options).await?;
    let nodes = nodes(&child, 2).await?;
    load::deploy(&child, 100).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = child.cpu_s()?;
    let wall = Duration::from_secs(20);
    tokio::time::sleep(wall).await;
    let used = (child.cpu_s()? - before) / wall.as_secs_f64() * 100.0;
    row(rows, "idle_100_pods_cpu", "% of a core", vec![used]);
    row(rows, "idle_100_pods_rss", "MiB", vec![child.rss_mib()?]);
    nodes.abort();
    Ok(())
}

/// From a deployment to all its pods running, on nodes that need no time for it.
async fn roll_out(options: &Options, rows: &mut Vec<Raw>) -> anyhow::Result<()> {
    let child = Child::start(options).await?;
    let nodes = nodes(&child, options.nodes).await?;
    let took = load::deploy(&child, options.pods).await?;
    #[expect(clippy::cast_precision_loss, reason = "there are fewer than 2^52 pods")]
    let rate = options.pods as f64 / took.as_secs_f64();
    row(rows, format!("deployment_to_running_{}_pods", options.pods), "pods/s", vec![rate]);
    nodes.abort();
    Ok(())
}

async fn watches(options: &Options, rows: &mut Vec<Raw>) -> anyhow::Result<()> {
    let child = Child::start(options).await?;
    let seen = load::watches(&child, options).await?;
    let name = format!("event_to_{}_watches", options.watchers);
    row(rows, format!("{name}_at_{}_per_s", options.changes_per_s), "ms", seen.latency_ms);
    row(rows, format!("{name}_lost"), "events", vec![seen.lost]);
    Ok(())
}

/// Starts simulated nodes in this process, without delays.
async fn nodes(child: &Child, nodes: u32) -> anyhow::Result<JoinHandle<Result<(), Failure>>> {
    let client = std::sync::Arc::new(child.remote().await?);
    let settings = simulate::Settings {
        nodes,
        capacity: [("cpu", "512".into()), ("memory", "1Ti".into()), ("pods", "250".into())],
        ..simulate::Settings::default()
    };
    let task = tokio::spawn(simulate::run(client, settings));
    child.wait_for_nodes(nodes).await?;
    Ok(task)
}
