//! The eBPF half of the daemon: programs, pins, attachments and configuration, as one unit that
//! starts and stops while the rest goes on.

use std::path::PathBuf;

use tokio::{sync::watch, task::JoinHandle};

use super::{Settings, node::Facts, tell::Teller};
use crate::{
    backend::Needs,
    devices::{Devices, cookie::netns_cookie, ports::ephemeral},
    ebpf::{
        attach::{self, Attacher, Attachment, Tc, Xdp},
        backend::Ebpf,
        load::{self, Wanted, load},
        maps::{KernelMaps, MapError},
        pin::{self, Pins},
    },
};

/// Why the programs are not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
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
    /// The node's settings.
    #[error(transparent)]
    Devices(#[from] crate::devices::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// Programs that are loaded and know the node; attached once [`Self::attach`] says so.
#[derive(Debug)]
pub struct Programs {
    pins: Pins,
    attacher: Attacher,
    teller: JoinHandle<()>,
    told: watch::Receiver<Needs>,
}

impl Programs {
    /// Loads the programs, or takes over those that are pinned, and tells them of the node.
    pub fn start(
        settings: &Settings,
        devices: watch::Receiver<Devices>,
        needs: watch::Receiver<Needs>,
    ) -> Result<Self, Error> {
        load::check_environment()?;
        let cgroup = cgroup(settings)?;
        let pins = Pins::new(&settings.bpffs, &settings.instance)?;
        let wanted = Wanted {
            sockets: settings.sockets,
            tc: settings.tc != Tc::Off,
            xdp: settings.xdp != Xdp::Off,
        };
        let mut programs = load(&pins, &settings.sizes, wanted)?;
        if settings.debug {
            load::follow_log(&mut programs);
        }
        let how = attach::Settings { cgroup, tc: settings.tc, xdp: settings.xdp };
        let attacher = Attacher::new(programs, pins.clone(), how);
        let mut teller = Teller::new(facts(settings)?, KernelMaps::from_pins(&pins.maps())?)?;
        teller.tell(&devices.borrow().clone())?;
        let told = teller.told();
        let teller = tokio::spawn(teller.run(devices, needs));
        Ok(Self { pins, attacher, teller, told })
    }

    /// What the loop drives.
    pub fn backend(&self) -> Result<Ebpf<KernelMaps>, MapError> {
        Ok(Ebpf::new(KernelMaps::from_pins(&self.pins.maps())?))
    }

    /// The maps, for those who look at them.
    pub fn maps(&self) -> Result<KernelMaps, MapError> {
        KernelMaps::from_pins(&self.pins.maps())
    }

    /// Attaches to these devices, and says what became of it.
    pub fn attach(&mut self, devices: &Devices) -> Result<Vec<Attachment>, attach::Error> {
        // Attaching waits for the kernel; other tasks go on meanwhile.
        tokio::task::block_in_place(|| self.attacher.sync(devices))
    }

    /// Waits until the configuration offers at least what is needed.
    pub async fn told(&mut self, needs: &Needs) {
        // Whoever tells ends only with the programs.
        let _ended = self.told.wait_for(|told| told.or(needs) == *told).await;
    }

    /// Stops to tell the programs of the node; [`remove`] detaches them.
    pub fn stop(self) {
        self.teller.abort();
    }
}

/// Removes filters, links, maps and pins of the instance; what was removed. Twice is once.
pub fn remove(pins: &Pins) -> Result<Vec<PathBuf>, pin::Error> {
    let interfaces = nix::net::if_::if_nameindex();
    for interface in interfaces.iter().flat_map(|list| list.iter()) {
        attach::remove_filters(&interface.name().to_string_lossy());
    }
    attach::remove_qdiscs(pins)?;
    pins.remove()
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
