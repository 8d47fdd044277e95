//! Socket programs on a cgroup.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::programs::{CgroupAttachMode, CgroupSockAddr, links::FdLink};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use super::{Error, Mode, Place};
use crate::ebpf::{
    load::{Programs, program},
    pin::{self, Pins},
};

/// Why there is no cgroup for the socket hooks.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 is mounted.
    #[error(
        "no cgroup2 is mounted, which the socket hooks need: mount one, name it with --cgroup, or \
         run with --sockets off"
    )]
    NotMounted,
    /// `/proc/mounts`.
    #[error("cannot read /proc/mounts")]
    Mounts(#[source] io::Error),
    /// The path.
    #[error("cannot open the cgroup {}", path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The path is something else.
    #[error("{} is no directory of a cgroup2 file system", path.display())]
    NotCgroup2 {
        /// Which one.
        path: PathBuf,
    },
}

/// Where cgroup2 is mounted.
pub fn cgroup2_root() -> Result<PathBuf, CgroupError> {
    let mounts = fs::read_to_string("/proc/mounts").map_err(CgroupError::Mounts)?;
    find_cgroup2(&mounts).ok_or(CgroupError::NotMounted)
}

pub(super) fn find_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// Whether `path` is a cgroup2 directory that can be opened.
pub fn check(path: &Path) -> Result<(), CgroupError> {
    open(path).map(drop)
}

/// Opens `path` if it is a cgroup2 directory.
pub(super) fn open(path: &Path) -> Result<File, CgroupError> {
    let failed = |source| CgroupError::Open { path: path.to_owned(), source };
    let dir = File::open(path).map_err(failed)?;
    let kind = statfs(path).map_err(|errno| failed(errno.into()))?.filesystem_type();
    if kind == CGROUP2_SUPER_MAGIC {
        Ok(dir)
    } else {
        Err(CgroupError::NotCgroup2 { path: path.to_owned() })
    }
}

/// Attaches a socket program beside the one of an earlier process, which goes afterwards.
///
/// For a moment both run: the second finds an address that is no frontend any more and passes.
pub(super) fn attach(
    programs: &mut Programs,
    pins: &Pins,
    place: &Place,
    target: &str,
) -> Result<Mode, Error> {
    let name = place.program;
    let refused = |source| Error::Attach { program: name, target: target.to_owned(), source };
    let cgroup = open(Path::new(target))?;
    let program: &mut CgroupSockAddr = program(&mut programs.ebpf, name)?;
    // A link always stands beside others and takes no flags; `Single` is the mode without any.
    let attached =
        program.attach(cgroup, CgroupAttachMode::Single).and_then(|id| program.take_link(id));
    let link = FdLink::try_from(attached.map_err(|error| refused(error.into()))?)
        .map_err(|error| refused(error.into()))?;
    // A crash between the two leaves a pin with the longer name, which the next process removes.
    let new = pins.link(&format!("{name}-new"));
    pin::remove(&new)?;
    link.pin(&new).map(drop).map_err(|source| Error::Pin {
        program: name,
        target: target.to_owned(),
        source: Box::new(source),
    })?;
    pin::rename(&new, &pins.link(name))?;
    Ok(Mode::Cgroup)
}
