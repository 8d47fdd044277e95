//! TC and XDP programs on a device.

use std::io;

use aya::programs::{
    LinkOrder, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode,
    links::{FdLink, PinnedLink},
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
    xdp::XdpLink,
};
use dataplane_common::names;

use super::{Error, Mode, Place, Tc, chain, pin_name, qdisc};
use crate::ebpf::{
    load::{Programs, program},
    pin::{self, Pins},
};

/// Our filters are told by this priority ("HP") and handle.
const PRIORITY: u16 = 0x4850;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// A device and where its links are pinned.
pub(super) struct Site<'a> {
    pub(super) pins: &'a Pins,
    pub(super) ifindex: u32,
    pub(super) name: &'a str,
}

impl Site<'_> {
    fn pin(&self, program: &'static str, mode: Mode) -> std::path::PathBuf {
        self.pins.link(&pin_name(Place { ifindex: Some(self.ifindex), program }, mode))
    }

    fn refused(
        &self,
        program: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Error {
        Error::Attach { program, target: self.name.to_owned(), source: source.into() }
    }

    fn keep(&self, program: &'static str, mode: Mode, link: FdLink) -> Result<(), Error> {
        let path = self.pin(program, mode);
        pin::remove(&path)?;
        link.pin(path).map(drop).map_err(|source| Error::Pin {
            program,
            target: self.name.to_owned(),
            source: Box::new(source),
        })
    }
}

fn direction(name: &str) -> TcAttachType {
    if [names::POD_INGRESS, names::NIC_INGRESS].contains(&name) {
        TcAttachType::Ingress
    } else {
        TcAttachType::Egress
    }
}

/// Attaches a TC program by tcx or, if the kernel has none or `setting` says so, by clsact.
pub(super) fn attach_tc(
    programs: &mut Programs,
    site: &Site<'_>,
    name: &'static str,
    setting: Tc,
) -> Result<Mode, Error> {
    let program: &mut SchedClassifier = program(&mut programs.ebpf, name)?;
    if setting != Tc::Clsact {
        match attach_tcx(program, site, name) {
            Ok(()) => {
                // What a process that used clsact left would translate a second time.
                remove_filter(site.name, direction(name));
                return Ok(Mode::Tcx);
            }
            Err(Error::Attach { source, .. }) if is_unsupported(&*source) => {
                tracing::info!(device = site.name, "no tcx in this kernel, using clsact");
            }
            Err(error) => return Err(error),
        }
    }
    attach_clsact(program, site, name).map_err(|source| site.refused(name, source))?;
    // A tcx link of an earlier process goes only now that the filter is there.
    pin::remove(&site.pin(name, Mode::Tcx))?;
    Ok(Mode::Clsact)
}

fn attach_tcx(
    program: &mut SchedClassifier,
    site: &Site<'_>,
    name: &'static str,
) -> Result<(), Error> {
    let path = site.pin(name, Mode::Tcx);
    if let Ok(pinned) = PinnedLink::from_pin(&path)
        && let Ok(link) = SchedClassifierLink::try_from(FdLink::from(pinned))
        && let Ok(id) = program.attach_to_link(link)
    {
        // The pin keeps it.
        return program.take_link(id).map(drop).map_err(|source| site.refused(name, source));
    }
    let options = TcAttachOptions::TcxOrder(LinkOrder::default());
    let attached = program
        .attach_with_options(site.name, direction(name), options)
        .and_then(|id| program.take_link(id));
    let link = attached.map_err(|source| site.refused(name, source))?;
    let link = FdLink::try_from(link).map_err(|error| site.refused(name, error))?;
    site.keep(name, Mode::Tcx, link)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    site: &Site<'_>,
    name: &str,
) -> Result<(), ProgramError> {
    qdisc::ensure(site.pins, site.name, site.ifindex);
    let attach_type = direction(name);
    let ours = SchedClassifierLink::attached(site.name, attach_type, PRIORITY, HANDLE, None);
    let ours = ours.map_err(|error| ProgramError::from(tc::TcError::from(error)))?;
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = match program.attach_to_link(ours) {
        Ok(id) => id,
        Err(_absent) => program.attach_with_options(
            site.name,
            attach_type,
            TcAttachOptions::Netlink(options),
        )?,
    };
    // The filter stays when this process ends; dropping the link would remove it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}

/// Removes our clsact filters from the device `name`; nothing if there are none.
pub fn remove_filters(name: &str) {
    remove_filter(name, TcAttachType::Ingress);
    remove_filter(name, TcAttachType::Egress);
}

fn remove_filter(name: &str, attach_type: TcAttachType) {
    // Dropping the link asks the kernel to remove priority and handle; it may say "not there".
    drop(SchedClassifierLink::attached(name, attach_type, PRIORITY, HANDLE, None));
}

/// Attaches the XDP program in the first of `modes` that the device takes.
pub(super) fn attach_xdp(
    programs: &mut Programs,
    site: &Site<'_>,
    modes: &[Mode],
) -> Result<Mode, Error> {
    let mut refused = site.refused(names::NIC_XDP, "no mode is allowed");
    for mode in modes {
        match attach_xdp_as(programs, site, *mode) {
            Ok(()) => return Ok(*mode),
            Err(error) => refused = error,
        }
        let (error, mode) = (chain(&refused), mode.name());
        tracing::warn!(device = site.name, mode, error, "no XDP in this mode");
    }
    Err(refused)
}

fn attach_xdp_as(programs: &mut Programs, site: &Site<'_>, mode: Mode) -> Result<(), Error> {
    let (name, how, other) = match mode {
        Mode::Generic => (names::NIC_XDP_GENERIC, XdpMode::Skb, Mode::Driver),
        Mode::Driver | Mode::Tcx | Mode::Clsact | Mode::Cgroup => {
            (names::NIC_XDP, XdpMode::Driver, Mode::Generic)
        }
    };
    let program: &mut Xdp = program(&mut programs.ebpf, name)?;
    if replace_xdp(program, &site.pin(names::NIC_XDP, mode)) {
        return Ok(());
    }
    // What an earlier process attached in the other mode: the kernel takes one at a time.
    pin::remove(&site.pin(names::NIC_XDP, other))?;
    let attached =
        program.attach_to_if_index(site.ifindex, how).and_then(|id| program.take_link(id));
    let link = attached.map_err(|error| site.refused(name, error))?;
    let link = FdLink::try_from(link).map_err(|error| site.refused(name, error))?;
    site.keep(names::NIC_XDP, mode, link)
}

fn replace_xdp(program: &mut Xdp, path: &std::path::Path) -> bool {
    let replaced = PinnedLink::from_pin(path)
        .ok()
        .and_then(|pinned| XdpLink::try_from(FdLink::from(pinned)).ok())
        .and_then(|link| program.attach_to_link(link).ok())
        .and_then(|id| program.take_link(id).ok());
    // The pin keeps the link.
    replaced.is_some()
}

/// Whether the kernel does not know this kind of link, rather than refusing this one.
fn is_unsupported(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return matches!(io.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        }
        source = cause.source();
    }
    false
}
