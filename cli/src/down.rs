//! `hashplane down`: ends all pods of this machine, and takes away what ran them.

use std::path::PathBuf;

use dataplane_user::{daemon::cleanup, ebpf::pin::Pins};

use crate::service;

/// Ends all pods of this machine, its containerd, and the dataplane. Objects, images and keys stay.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where `up` or `node` keep everything that lasts.
    #[arg(long, default_value = "/var/lib/hashplane")]
    data_dir: PathBuf,
    /// Where their sockets are.
    #[arg(long, default_value = "/run/hashplane")]
    run_dir: PathBuf,
    /// The BPF file system.
    #[arg(long, default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
    /// Name of the dataplane's instance.
    #[arg(long, default_value = "default")]
    instance: String,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let pins = Pins::new(&arguments.bpffs, &arguments.instance)?;
    // Fails while `up` runs, which would start everything again.
    let removed = cleanup::cleanup(&pins, &arguments.run_dir)?;
    let ended = service::block_on(async {
        Ok(node_agent::down::down(&arguments.data_dir.join("agent"), &arguments.run_dir).await)
    })?;
    for what in ended {
        println!("{what}");
    }
    for what in removed {
        println!("removed {what}");
    }
    Ok(())
}
