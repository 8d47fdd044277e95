//! `hashplane doctor`: what this node can do, what runs, and what is not as it should be.

use std::{collections::BTreeSet, io, process::ExitCode, time::Duration};

use clap::Args;
use dataplane_user::{
    daemon::settings::socket_path,
    ebpf::{attach, pin::Pins},
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
const PATIENCE: Duration = Duration::from_mins(2);

/// Prints; fails with 1 where something is not as it should be.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Instance { name, state_dir, bpffs } = &arguments.instance;
    let mut failures = Vec::new();
    let running =
        match client::get_within::<Running>(PATIENCE, &socket_path(state_dir, name), "/doctor") {
            Ok(running) => Some(running),
            // Nobody listens.
            Err(client::Error::Socket(error)) if is_nobody(&error) => None,
            Err(error) => {
                failures.push(attach::chain(&error));
                None
            }
        };
    let probes = probe::run();
    let serving = running.as_ref().and_then(|running| running.mode);
    let mut found = leftovers::find_kube_proxy();
    // Without a daemon what one mode has left is what serves; more than one is too much.
    let own = leftovers::find_own(&Pins::new(bpffs, name)?, serving);
    let modes: BTreeSet<&str> = own.leftovers.iter().map(|leftover| leftover.of.as_str()).collect();
    if serving.is_some() || modes.len() > 1 {
        found.leftovers.extend(own.leftovers);
    }
    found.failed.extend(own.failed);
    failures.extend(found.failed.iter().map(|error| attach::chain(error)));
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
