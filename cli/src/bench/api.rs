//! `hashplane bench api`: what the API costs.

use std::{path::PathBuf, time::Duration};

use bench::{api, report};

use super::Output;
use crate::service;

/// How much of everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Api {
    #[command(flatten)]
    pub(crate) output: Output,
    /// Where the server's folder is made: its disk is measured too.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Clients that create objects.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    /// Seconds that they do.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Pods of the list, and of the deployment.
    #[arg(long, default_value_t = 10_000)]
    pods: usize,
    /// Simulated nodes of the deployment.
    #[arg(long, default_value_t = 50)]
    nodes: u32,
    /// Watches.
    #[arg(long, default_value_t = 5_000)]
    watchers: usize,
    /// Changes a second that every watch sees.
    #[arg(long, default_value_t = 100)]
    changes: u32,
}

pub(crate) fn run(options: &Api) -> anyhow::Result<Vec<report::Row>> {
    let asked = api::Options {
        program: std::env::current_exe()?,
        folder: options.folder.clone(),
        clients: options.clients.max(1),
        creates_for: Duration::from_secs(options.seconds),
        pods: options.pods,
        nodes: options.nodes,
        watchers: options.watchers,
        changes_per_s: options.changes,
        watch_for: Duration::from_secs(options.seconds),
    };
    let raw = service::block_on(api::run(&asked))?;
    Ok(raw.iter().map(report::Raw::row).collect())
}
