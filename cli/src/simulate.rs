//! `hashplane simulate`: nodes without containers.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use control_plane::{
    api::status::Failure,
    remote::Remote,
    simulate::{self, NODES_MAX, Settings, pod::Pace},
};

use crate::service;

/// Registers nodes and runs pods on them as state machines.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How the server is reached, and as whom.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// How many nodes.
    #[arg(long, default_value_t = 10)]
    nodes: u32,
    /// What their names begin with.
    #[arg(long, default_value = "simulated")]
    prefix: String,
    /// Processors of each node.
    #[arg(long, default_value = "32")]
    cpu: String,
    /// Memory of each node.
    #[arg(long, default_value = "256Gi")]
    memory: String,
    /// Pods that each node takes, at most 253.
    #[arg(long, default_value_t = 250, value_parser = clap::value_parser!(u8).range(1..=253))]
    pods: u8,
    /// Milliseconds from bound to running.
    #[arg(long, default_value_t = 100)]
    start_ms: u64,
    /// Milliseconds from running to ready.
    #[arg(long, default_value_t = 0)]
    ready_ms: u64,
    /// Milliseconds from asked to end to gone.
    #[arg(long, default_value_t = 100)]
    stop_ms: u64,
    /// How many of a hundred pods crash again and again.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    crash_percent: u8,
    /// What is logged, as for `RUST_LOG`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    service::log_to_stderr(&arguments.log)?;
    if arguments.nodes == 0 || arguments.nodes > NODES_MAX {
        bail!("--nodes {}: there are from 1 to {NODES_MAX} nodes", arguments.nodes);
    }
    let settings = Settings {
        nodes: arguments.nodes,
        prefix: arguments.prefix,
        capacity: [
            ("cpu", arguments.cpu),
            ("memory", arguments.memory),
            ("pods", arguments.pods.to_string()),
        ],
        pace: Pace {
            start: Duration::from_millis(arguments.start_ms),
            ready: Duration::from_millis(arguments.ready_ms),
            stop: Duration::from_millis(arguments.stop_ms),
            crash_percent: arguments.crash_percent,
        },
    };
    service::block_on(async {
        let client = Remote::open(&arguments.kubeconfig).await?;
        let words = |failure: Failure| {
            let status = failure.status();
            anyhow::anyhow!("{}", status["message"].as_str().unwrap_or_default())
        };
        tokio::select! {
            ended = simulate::run(Arc::new(client), settings) => {
                ended.map_err(words).context("cannot register the simulated nodes")
            }
            () = service::told_to_stop()? => Ok(()),
        }
    })
}
