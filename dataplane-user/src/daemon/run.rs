//! Starts everything in order, then follows devices until it is told to stop.

use std::{path::PathBuf, time::Duration};

use tokio::{sync::watch, time};

use super::{
    Settings, Shared,
    feed::Fed,
    lock,
    node::{Facts, backend_node},
    reading,
    settings::socket_path,
    tell::Teller,
};
use crate::{
    backend,
    devices::{
        self, Devices, NodePortAddresses, cookie::netns_cookie, ports::ephemeral, watch::Watch,
    },
    ebpf::{
        attach::{self, Attacher, Tc, Xdp},
        load::{self, Wanted, load},
        maps::{KernelMaps, MapError},
        pin::{self, Pins},
    },
    http::{self, Context, ListenError, health_check},
    source,
};

/// Between two attempts to attach what failed, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one does.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The pins.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// The programs.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The attachments.
    #[error(transparent)]
    Attach(#[from] attach::Error),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] attach::CgroupError),
    /// The devices.
    #[error(transparent)]
    Devices(#[from] devices::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The source of objects.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A node with its programs attached; devices are followed by [`Node::run`].
#[derive(Debug)]
pub struct Node {
    /// What the daemon says of itself.
    pub shared: Shared,
    /// Where the maps are.
    pub pins: Pins,
    watch: Watch,
    attacher: Attacher,
    _lock: lock::Lock,
}

impl Node {
    /// Takes the instance, loads the programs, tells them of the node, serves HTTP, attaches.
    pub async fn start(settings: &Settings) -> Result<Self, Error> {
        load::check_environment()?;
        let cgroup = cgroup(settings)?;
        let pins = Pins::new(&settings.bpffs, &settings.instance)?;
        let lock = lock::acquire(&settings.state_dir, &settings.instance)?;
        let watch = Watch::start(settings.selection.clone()).await?;
        let wanted = Wanted {
            sockets: settings.sockets,
            tc: settings.tc != Tc::Off,
            xdp: settings.xdp != Xdp::Off,
        };
        let mut programs = load(&pins, &settings.sizes, wanted)?;
        if settings.debug {
            load::follow_log(&mut programs);
        }
        let shared = Shared::default();
        let context = Context { shared: shared.clone(), pins: pins.clone() };
        let addresses = [
            (settings.metrics_address, "--metrics-address"),
            (settings.health_address, "--health-address"),
        ];
        let socket = socket_path(&settings.state_dir, &settings.instance);
        http::serve(context, addresses, &socket).await?;
        let how = attach::Settings { cgroup, tc: settings.tc, xdp: settings.xdp };
        let attacher = Attacher::new(programs, pins.clone(), how);
        let mut node = Self { shared, pins, watch, attacher, _lock: lock };
        let devices = node.watch.devices().borrow().clone();
        node.serve(settings, &devices).await?;
        // Last: the kernel may make this wait for seconds, and the maps fill up meanwhile.
        node.attach(&devices)?;
        Ok(node)
    }

    /// Tells the programs of the node, and starts everything that goes on by itself.
    async fn serve(&self, settings: &Settings, devices: &Devices) -> Result<(), Error> {
        let every = settings.selection.node_ports == NodePortAddresses::All;
        let maps = KernelMaps::from_pins(&self.pins.maps())?;
        let mut teller = Teller::new(facts(settings)?, maps, every)?;
        teller.tell(devices)?;
        let started = reading::start(settings, teller.addresses(), self.shared.clone()).await?;
        let table = Fed::new(settings, self.shared.clone());
        if let (Some(herald), Some(standing)) = (started.herald, table.standing()) {
            tokio::spawn(herald.run(standing));
        }
        tokio::spawn(health_check::run(health_check::Inputs {
            checks: table.health_checks(),
            addresses: teller.health_addresses(),
            shared: self.shared.clone(),
        }));
        let node = self.node(settings.selection.node_ports.has_loopback());
        let (events, shared) = (started.events, self.shared.clone());
        let needs = super::sync::spawn(table, &self.pins, node, events, shared)?;
        tokio::spawn(teller.run(self.watch.devices(), needs));
        Ok(())
    }

    /// What backends know of the node, as its devices change.
    fn node(&self, loopback: bool) -> watch::Receiver<backend::Node> {
        let mut devices = self.watch.devices();
        let (send, node) = watch::channel(backend_node(&devices.borrow_and_update(), loopback));
        tokio::spawn(async move {
            while devices.changed().await.is_ok() {
                let now = backend_node(&devices.borrow_and_update(), loopback);
                send.send_if_modified(|told| {
                    let changed = *told != now;
                    *told = now;
                    changed
                });
            }
        });
        node
    }

    /// Attaches to devices as they come, for ever.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut devices = self.watch.devices();
        let mut pause = RETRY.0;
        let mut complete = self.is_complete();
        loop {
            tokio::select! {
                changed = devices.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    pause = RETRY.0;
                }
                () = time::sleep(pause), if !complete => {
                    pause = RETRY.1.min(pause * 2);
                }
            }
            let now = devices.borrow_and_update().clone();
            complete = match self.attach(&now) {
                Ok(()) => self.is_complete(),
                Err(error) => {
                    let error = attach::chain(&error);
                    tracing::error!(error, "the node's devices are not served, trying again");
                    false
                }
            };
        }
    }

    fn is_complete(&self) -> bool {
        self.shared.report().attachments.iter().all(|attachment| attachment.error.is_none())
    }

    fn attach(&mut self, devices: &Devices) -> Result<(), Error> {
        // Attaching waits for the kernel; other tasks go on meanwhile.
        let attachments = tokio::task::block_in_place(|| self.attacher.sync(devices))?;
        self.shared.update(|report| report.attachments = attachments);
        Ok(())
    }
}

fn cgroup(settings: &Settings) -> Result<Option<PathBuf>, Error> {
    if !settings.sockets {
        return Ok(None);
    }
    let path = match &settings.cgroup {
        Some(path) => path.clone(),
        None => attach::cgroup2_root()?,
    };
    attach::check_cgroup(&path)?;
    Ok(Some(path))
}

fn facts(settings: &Settings) -> Result<Facts, Error> {
    Ok(Facts {
        netns_cookie: netns_cookie()?,
        ephemeral: ephemeral()?,
        node_ports: settings.node_ports.clone(),
        tc: settings.tc != Tc::Off,
        loopback: settings.selection.node_ports.has_loopback(),
    })
}
