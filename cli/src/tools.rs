//! The tools that show the live maps, and `cleanup`.

use std::{path::PathBuf, time::Duration};

use anyhow::anyhow;
use clap::{Args, ValueEnum};
use dataplane_user::{
    backend::Mode,
    daemon::{
        cleanup::cleanup as remove_all,
        settings::{STATE_DIR, socket_path},
    },
    ebpf::{
        attach::chain,
        maps::KernelMaps,
        pin::{BPFFS, INSTANCE, Pins},
    },
    http::client,
    leftovers,
    view::{Names, ServiceName, Status, flows, read, status, table},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The daemon reads the kernel, or copies its table.
const PATIENCE: Duration = Duration::from_mins(1);

/// Which instance.
#[derive(Debug, Args)]
pub(crate) struct Instance {
    /// Name of the instance
    #[arg(long = "instance", env = "HASHPLANE_INSTANCE", default_value = INSTANCE)]
    pub(crate) name: String,
    /// The BPF file system
    #[arg(long, env = "HASHPLANE_BPFFS", default_value = BPFFS)]
    pub(crate) bpffs: PathBuf,
    /// Directory of the daemon's lock and socket
    #[arg(long, env = "HASHPLANE_STATE_DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,
}

/// Which instance, and how it is shown.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    instance: Instance,
    /// How to print
    #[arg(short, long, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// A table.
    Table,
    /// A table with more columns.
    Wide,
    /// JSON with stable field names.
    Json,
}

impl Instance {
    /// The pins, if the instance exists.
    fn pins(&self) -> anyhow::Result<Pins> {
        let pins = Pins::new(&self.bpffs, &self.name)?;
        // Without root the directory looks empty; say what is really wrong.
        match std::fs::metadata(pins.root()) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(anyhow!("reading {} takes root", pins.root().display()));
            }
            Ok(_) | Err(_) => {}
        }
        if pins.exist() {
            Ok(pins)
        } else {
            let root = pins.root();
            Err(anyhow!("there is no instance {} at {}", self.name, root.display()))
        }
    }

    fn socket(&self) -> PathBuf {
        socket_path(&self.state_dir, &self.name)
    }

    /// What the daemon says of itself, if one runs.
    fn report(&self) -> Option<Value> {
        client::get(&self.socket(), "/status").ok()
    }

    /// The maps; `None` where a daemon serves in a mode without any.
    fn maps(&self) -> anyhow::Result<Option<KernelMaps>> {
        if self.report().as_ref().is_some_and(is_without_maps) {
            return Ok(None);
        }
        Ok(Some(KernelMaps::from_pins(&self.pins()?.maps())?))
    }

    /// Rows that only the daemon can tell.
    fn rows<T: DeserializeOwned>(&self, of: &str) -> anyhow::Result<T> {
        Ok(client::get_within(PATIENCE, &self.socket(), &format!("/rows/{of}"))?)
    }

    fn names(&self) -> Names {
        let socket = self.socket();
        // Without a daemon there are numbers instead of names.
        let services: Vec<ServiceName> = match client::get(&socket, "/services") {
            Ok(services) => services,
            Err(client::Error::Socket(_)) => Vec::new(),
            Err(error) => {
                eprintln!("hashplane: no names of services: {error:?}");
                Vec::new()
            }
        };
        services.into_iter().map(|service| (service.number, service)).collect()
    }
}

/// Whether the mode that serves has no maps to look at.
fn is_without_maps(report: &Value) -> bool {
    report["mode"].as_str().and_then(Mode::parse).is_some_and(|mode| mode != Mode::Ebpf)
}

pub(crate) fn status(arguments: &Arguments) -> anyhow::Result<()> {
    let instance = &arguments.instance;
    let report = instance.report();
    let mut status = Status {
        instance: instance.name.clone(),
        daemon: report.is_some(),
        programs: Vec::new(),
        maps: Vec::new(),
        counters: Vec::new(),
        report,
    };
    if !status.report.as_ref().is_some_and(is_without_maps) {
        let pins = instance.pins()?;
        status.programs = status::programs(&pins)?;
        status.maps = status::maps(&mut KernelMaps::from_pins(&pins.maps())?)?;
        status.counters = status::live_counters(&pins)?;
    }
    print(&status, arguments.output, || status.to_text())
}

pub(crate) fn services(arguments: &Arguments) -> anyhow::Result<()> {
    let instance = &arguments.instance;
    let rows = match instance.maps()? {
        Some(mut maps) => read::frontends(&mut maps, &instance.names())?,
        None => instance.rows("frontends")?,
    };
    print(&rows, arguments.output, || table::frontends(&rows, arguments.output == Output::Wide))
}

pub(crate) fn endpoints(arguments: &Arguments) -> anyhow::Result<()> {
    let instance = &arguments.instance;
    let rows = match instance.maps()? {
        Some(mut maps) => read::endpoints(&mut maps, &instance.names())?,
        None => instance.rows("endpoints")?,
    };
    print(&rows, arguments.output, || table::endpoints(&rows, arguments.output == Output::Wide))
}

pub(crate) fn flows(arguments: &Arguments) -> anyhow::Result<()> {
    let instance = &arguments.instance;
    let rows = match instance.maps()? {
        Some(mut maps) => flows::flows(&mut maps, &instance.names(), flows::now_ticks()?)?,
        None => instance.rows("flows")?,
    };
    print(&rows, arguments.output, || table::flows(&rows, arguments.output == Output::Wide))
}

/// What `cleanup` removes.
#[derive(Debug, Args)]
pub(crate) struct Cleanup {
    #[command(flatten)]
    instance: Instance,
    /// Also what kube-proxy has left in the kernel, in any of its modes
    #[arg(long)]
    kube_proxy: bool,
}

pub(crate) fn cleanup(arguments: &Cleanup) -> anyhow::Result<()> {
    let instance = &arguments.instance;
    let pins = Pins::new(&instance.bpffs, &instance.name)?;
    let removed = remove_all(&pins, &instance.state_dir)?;
    for what in &removed {
        println!("removed {what}");
    }
    if removed.is_empty() {
        println!("nothing of instance {} is left on this node", instance.name);
    }
    if arguments.kube_proxy {
        remove_kube_proxy()?;
    }
    Ok(())
}

fn remove_kube_proxy() -> anyhow::Result<()> {
    let outcome = leftovers::remove_kube_proxy();
    for leftover in &outcome.leftovers {
        println!("removed {leftover}");
    }
    for error in &outcome.failed {
        eprintln!("hashplane: {}", chain(error));
    }
    if !outcome.failed.is_empty() {
        return Err(anyhow!("kube-proxy may have left more, see above"));
    }
    if outcome.leftovers.is_empty() {
        println!("nothing of kube-proxy is left on this node");
    }
    Ok(())
}

pub(crate) fn print<T: Serialize>(
    rows: &T,
    output: Output,
    table: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(rows)?),
        Output::Table | Output::Wide => print!("{}", table()),
    }
    Ok(())
}
