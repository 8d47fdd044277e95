//! Starts everything in order, then follows devices until it is told to stop.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};

use super::{
    Settings, Shared,
    feed::{self, Fed},
    held::Held,
    lock,
    node::{Facts, config, read_needs, write_addresses, write_config},
    settings::socket_path,
};
use crate::{
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
    sync::needs::Needs,
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
    /// The node's addresses, for the table of services.
    pub addresses: watch::Receiver<BTreeSet<IpAddr>>,
    sender: watch::Sender<BTreeSet<IpAddr>>,
    /// Where health checks of Services are answered.
    health_addresses: watch::Sender<health_check::Addresses>,
    facts: Facts,
    held: Held,
    needs: watch::Receiver<Needs>,
    watch: Watch,
    attacher: Attacher,
    maps: KernelMaps,
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
        let facts = facts(settings)?;
        let mut maps = KernelMaps::from_pins(&pins.maps())?;
        let held = Held::left_behind(read_needs(&mut maps, &facts.node_ports)?, Instant::now());
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
        let (sender, addresses) = watch::channel(BTreeSet::new());
        let every = settings.selection.node_ports == NodePortAddresses::All;
        let health_addresses = health_check::Addresses { every, list: BTreeSet::new() };
        let mut node = Self {
            shared,
            pins,
            addresses,
            sender,
            health_addresses: watch::Sender::new(health_addresses),
            facts,
            held,
            // Nobody needs anything before the loop runs.
            needs: watch::channel(Needs::default()).1,
            watch,
            attacher,
            maps,
            _lock: lock,
        };
        let devices = node.watch.devices().borrow().clone();
        node.tell(&devices)?;
        let events = feed::start(settings, node.addresses.clone(), node.shared.clone()).await?;
        let table = Fed::new(settings, node.shared.clone());
        tokio::spawn(health_check::run(health_check::Inputs {
            checks: table.health_checks(),
            addresses: node.health_addresses.subscribe(),
            shared: node.shared.clone(),
        }));
        node.needs = super::sync::spawn(table, &node.pins, events, node.shared.clone())?;
        // Last: the kernel may make this wait for seconds, and the maps fill up meanwhile.
        node.attach(&devices)?;
        Ok(node)
    }

    /// Follows the devices, and what the loop needs, for ever.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut devices = self.watch.devices();
        let mut needs = self.needs.clone();
        let mut pause = RETRY.0;
        let mut complete = self.is_complete();
        loop {
            let expires = self.held.expires();
            let expiry = async {
                match expires {
                    Some(at) => time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = devices.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    pause = RETRY.0;
                }
                changed = needs.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if !self.held.set(needs.borrow_and_update().clone(), Instant::now()) {
                        continue;
                    }
                }
                () = expiry => {
                    self.held.expire(Instant::now());
                }
                () = time::sleep(pause), if !complete => {
                    pause = RETRY.1.min(pause * 2);
                }
            }
            let now = devices.borrow_and_update().clone();
            complete = match self.apply(&now) {
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

    /// Tells the programs first, then attaches them.
    fn apply(&mut self, devices: &Devices) -> Result<(), Error> {
        self.tell(devices)?;
        self.attach(devices)
    }

    fn tell(&mut self, devices: &Devices) -> Result<(), Error> {
        write_addresses(&mut self.maps, &devices.node_port_addresses)?;
        write_config(&mut self.maps, config(&self.facts, devices, self.held.needs()))?;
        self.sender.send_if_modified(|known| {
            let changed = *known != devices.node_addresses;
            known.clone_from(&devices.node_addresses);
            changed
        });
        self.health_addresses.send_if_modified(|known| {
            let changed = known.list != devices.node_port_addresses;
            known.list.clone_from(&devices.node_port_addresses);
            changed
        });
        Ok(())
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
