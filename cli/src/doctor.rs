//! `hashplane doctor`: what this node can do, what runs, and what is not as it should be.

use std::{io, process::ExitCode, time::Duration};

use clap::Args;
use dataplane_user::{
    daemon::settings::socket_path,
    http::client,
    leftovers,
    probe::{self, choose},
    view::doctor::{Doctor, Running},
};

use crate::tools::{Instance, Output, print};

/// Which instance, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Output,
}

/// The daemon reads back everything that the kernel holds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Prints; fails with 1 where something is not as it should be.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Instance { name, state_dir, .. } = &arguments.instance;
    let mut failures = Vec::new();
    let running =
        match client::get_within::<Running>(PATIENCE, &socket_path(state_dir, name), "/doctor") {
            Ok(running) => Some(running),
            // Nobody listens.
            Err(client::Error::Socket(error)) if is_nobody(&error) => None,
            Err(error) => {
                failures.push(dataplane_user::ebpf::attach::chain(&error));
                None
            }
        };
    let probes = probe::run();
    let found = leftovers::find_kube_proxy();
    failures.extend(found.failed.iter().map(|error| dataplane_user::ebpf::attach::chain(error)));
    let doctor = Doctor {
        instance: name.clone(),
        running,
        features: probe::table::rows(&probes),
        choice: choose(&probes),
        leftovers: found.leftovers,
        failures,
    };
    print(&doctor, arguments.output, || doctor.to_text())?;
    Ok(if doctor.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
