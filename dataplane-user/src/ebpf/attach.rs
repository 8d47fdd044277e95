//! Keeps the programs attached where they belong, while devices come and go.
//!
//! Links are pinned, so they outlive this process, and the next one puts its own programs behind
//! them in one step. Nothing is detached but what no device or setting asks for any more.

mod cgroup;
mod device;
mod qdisc;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use aya::pin::PinError;
use dataplane_common::names;

pub use cgroup::{CgroupError, cgroup2_root, check as check_cgroup};
pub use device::remove_filters;
pub use qdisc::remove_qdiscs;

use super::{
    load::{self, Programs},
    pin::{self, Pins},
};
use crate::devices::{Device, Devices, Role};

/// Where and how programs are attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The cgroup of the socket hooks; none switches them off.
    pub cgroup: Option<PathBuf>,
    /// The TC programs.
    pub tc: Tc,
    /// The XDP program.
    pub xdp: Xdp,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tc {
    /// By tcx where the kernel has it (Linux 6.6), as clsact filters otherwise.
    #[default]
    On,
    /// As clsact filters.
    Clsact,
    /// Not at all.
    Off,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    /// In the driver, but not on a veth pair.
    #[default]
    Auto,
    /// In the driver, on a veth pair too.
    Driver,
    /// In the driver but not on a veth pair; where that fails, in the network stack.
    Generic,
    /// Not at all.
    Off,
}

/// How one program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A tcx link.
    Tcx,
    /// A clsact filter.
    Clsact,
    /// XDP in the driver.
    Driver,
    /// XDP in the network stack.
    Generic,
    /// A cgroup link.
    Cgroup,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Tcx, Self::Clsact, Self::Driver, Self::Generic, Self::Cgroup];

    /// The name in pins, tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
            Self::Driver => "driver",
            Self::Generic => "generic",
            Self::Cgroup => "cgroup",
        }
    }
}

/// A program and where it should be: a device, or the cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index of the device; none for the cgroup.
    pub ifindex: Option<u32>,
    /// Name of the program.
    pub program: &'static str,
}

/// What became of one place.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    /// Name of the program.
    pub program: &'static str,
    /// Name of the device, or path of the cgroup.
    pub target: String,
    /// How it is attached, if it is.
    pub mode: Option<Mode>,
    /// Why it is not.
    pub error: Option<String>,
}

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// The kernel refused.
    #[error("cannot attach {program} to {target}")]
    Attach {
        /// The program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// What the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The link was made but not pinned.
    #[error("cannot pin the link of {program} to {target}")]
    Pin {
        /// The program.
        program: &'static str,
        /// Device or cgroup.
        target: String,
        /// What the kernel said.
        #[source]
        source: Box<PinError>,
    },
    /// The pins' directory.
    #[error(transparent)]
    Pins(#[from] pin::Error),
    /// The cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

/// The programs and where they are attached.
#[derive(Debug)]
pub struct Attacher {
    programs: Programs,
    pins: Pins,
    settings: Settings,
    held: BTreeMap<Place, Mode>,
}

impl Attacher {
    /// Takes the loaded programs; nothing is attached yet.
    pub fn new(programs: Programs, pins: Pins, settings: Settings) -> Self {
        Self { programs, pins, settings, held: BTreeMap::new() }
    }

    /// Makes the attachments what `devices` ask for; tells what became of each place.
    ///
    /// Failures are part of the answer: call again to try again.
    pub fn sync(&mut self, devices: &Devices) -> Result<Vec<Attachment>, Error> {
        let mut wanted = wanted(devices, &self.settings);
        wanted.retain(|place, _| !self.programs.missing.contains(place.program));
        self.held.retain(|place, _| wanted.contains_key(place));
        let mut outcome = Vec::new();
        for (place, target) in &wanted {
            let attached = if let Some(mode) = self.held.get(place) {
                Ok(*mode)
            } else {
                let device = place.ifindex.and_then(|ifindex| devices.devices.get(&ifindex));
                self.attach(*place, target, device)
            };
            let mut attachment = Attachment {
                program: place.program,
                target: target.clone(),
                mode: None,
                error: None,
            };
            match attached {
                Ok(mode) => {
                    self.held.insert(*place, mode);
                    attachment.mode = Some(mode);
                }
                Err(error) => {
                    let text = chain(&error);
                    tracing::warn!(program = place.program, %target, error = text, "not attached");
                    attachment.error = Some(text);
                }
            }
            outcome.push(attachment);
        }
        self.remove_stale(&wanted)?;
        Ok(outcome)
    }

    fn attach(
        &mut self,
        place: Place,
        target: &str,
        device: Option<&Device>,
    ) -> Result<Mode, Error> {
        let mode = match place.ifindex {
            None => cgroup::attach(&mut self.programs, &self.pins, &place, target)?,
            Some(ifindex) if place.program == names::NIC_XDP => {
                let site = device::Site { pins: &self.pins, ifindex, name: target };
                let veth = device.is_some_and(|device| device.veth);
                device::attach_xdp(&mut self.programs, &site, xdp_modes(self.settings.xdp, veth))?
            }
            Some(ifindex) => {
                let site = device::Site { pins: &self.pins, ifindex, name: target };
                device::attach_tc(&mut self.programs, &site, place.program, self.settings.tc)?
            }
        };
        tracing::info!(program = place.program, target, mode = mode.name(), "attached");
        Ok(mode)
    }

    /// Removes pins that no wanted place holds: of devices that went, of hooks switched off.
    ///
    /// A wanted place that could not be attached keeps what an earlier process left there.
    fn remove_stale(&self, wanted: &BTreeMap<Place, String>) -> Result<(), Error> {
        let keep: BTreeSet<String> =
            self.held.iter().map(|(place, mode)| pin_name(*place, *mode)).collect();
        for name in self.pins.link_names()? {
            let failed = parse_pin_name(&name).is_some_and(|(place, _)| {
                wanted.contains_key(&place) && !self.held.contains_key(&place)
            });
            if !keep.contains(&name) && !failed {
                tracing::info!(link = name, "detached: nothing asks for it any more");
                pin::remove(&self.pins.link(&name))?;
            }
        }
        Ok(())
    }
}

/// How the XDP program may run on a NIC, first the best. Without it TC does the same work.
///
/// `Auto` ends with the driver: generic XDP copies every packet that arrives with less headroom than
/// it wants (256 bytes), also those that are for no service.
const fn xdp_modes(setting: Xdp, veth: bool) -> &'static [Mode] {
    match (setting, veth) {
        (Xdp::Off, _) | (Xdp::Auto, true) => &[],
        (Xdp::Auto, false) | (Xdp::Driver, _) => &[Mode::Driver],
        (Xdp::Generic, true) => &[Mode::Generic],
        (Xdp::Generic, false) => &[Mode::Driver, Mode::Generic],
    }
}

/// Every place that should have a program, with the device's name or the cgroup's path.
fn wanted(devices: &Devices, settings: &Settings) -> BTreeMap<Place, String> {
    let mut wanted = BTreeMap::new();
    if let Some(cgroup) = &settings.cgroup {
        for program in names::SOCKETS {
            wanted.insert(Place { ifindex: None, program }, cgroup.display().to_string());
        }
    }
    for (ifindex, Device { name, role, veth }) in &devices.devices {
        let (tc, xdp) = match role {
            Role::PodLink => ([names::POD_INGRESS, names::POD_EGRESS], None),
            Role::Nic => ([names::NIC_INGRESS, names::NIC_EGRESS], Some(names::NIC_XDP)),
        };
        let tc = tc.into_iter().filter(|_| settings.tc != Tc::Off);
        let xdp = xdp.into_iter().filter(|_| !xdp_modes(settings.xdp, *veth).is_empty());
        for program in tc.chain(xdp) {
            wanted.insert(Place { ifindex: Some(*ifindex), program }, name.clone());
        }
    }
    wanted
}

/// The pin of a link: `<program>` for the cgroup, `<program>-<ifindex>-<mode>` for a device.
///
/// No dots: the BPF file system does not take them.
pub fn pin_name(place: Place, mode: Mode) -> String {
    match place.ifindex {
        None => place.program.to_owned(),
        Some(ifindex) => format!("{}-{ifindex}-{}", place.program, mode.name()),
    }
}

/// What [`pin_name`] made `name` from.
pub fn parse_pin_name(name: &str) -> Option<(Place, Mode)> {
    if let Some(program) = names::SOCKETS.into_iter().find(|program| *program == name) {
        return Some((Place { ifindex: None, program }, Mode::Cgroup));
    }
    let mut parts = name.split('-');
    let (program, ifindex, mode) = (parts.next()?, parts.next()?, parts.next()?);
    let devices = [
        names::POD_INGRESS,
        names::POD_EGRESS,
        names::NIC_INGRESS,
        names::NIC_EGRESS,
        names::NIC_XDP,
    ];
    let program = devices.into_iter().find(|known| *known == program)?;
    let mode = Mode::ALL.into_iter().find(|known| known.name() == mode)?;
    let ifindex = Some(ifindex.parse().ok()?);
    parts.next().is_none().then_some((Place { ifindex, program }, mode))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
