//! The cgroups, the bpffs mount and the folder of a lab: how they are made and removed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{names, wait::slowed};

/// How long the processes of a cgroup may take to end after they were killed.
const KILL_WAIT: Duration = Duration::from_secs(3);
/// How often the removal of cgroups is tried.
const REMOVE_TRIES: usize = 5;

/// Where cgroup2 is mounted.
pub fn cgroup2_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// Makes what a lab needs beside its namespaces.
pub(super) fn prepare(lab: &str) -> anyhow::Result<()> {
    let folder = names::folder(lab);
    let bpffs = folder.join("bpf");
    fs::create_dir_all(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
    mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount bpffs at {}", bpffs.display()))?;
    let root = cgroup2_root().context("no cgroup2 is mounted")?;
    let cgroup = root.join(lab);
    fs::create_dir(&cgroup).with_context(|| format!("cannot make the cgroup {}", cgroup.display()))
}

/// Kills what runs in the lab's cgroups and removes what [`prepare`] has made. Idempotent.
pub(super) fn remove(lab: &str) -> anyhow::Result<()> {
    let cgroup = names::cgroup(lab, Path::new(""));
    if cgroup.is_dir() {
        // A process that was on its way into a cgroup keeps it busy until it is killed too.
        let attempt = || {
            kill_all(&cgroup)?;
            remove_tree(&cgroup).with_context(|| format!("cannot remove {}", cgroup.display()))
        };
        let removed = (0..REMOVE_TRIES).map(|_| attempt()).find(Result::is_ok);
        // Another process may be removing the same lab.
        if removed.is_none() && cgroup.is_dir() {
            attempt()?;
        }
    }
    let folder = names::folder(lab);
    let bpffs = folder.join("bpf");
    if bpffs.is_dir() {
        // EINVAL: not mounted, or no longer.
        let _ = umount2(&bpffs, MntFlags::MNT_DETACH);
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Kills every process below a cgroup, and waits until they are gone.
pub(super) fn kill_all(cgroup: &Path) -> anyhow::Result<()> {
    let kill = cgroup.join("cgroup.kill");
    fs::write(&kill, "1").with_context(|| format!("cannot write {}", kill.display()))?;
    let step = Duration::from_millis(2);
    for _ in 0..slowed(KILL_WAIT).as_millis() / step.as_millis() {
        if !is_populated(cgroup) {
            return Ok(());
        }
        thread::sleep(step);
    }
    bail!("processes in {} do not end", cgroup.display())
}

fn is_populated(cgroup: &Path) -> bool {
    let events = fs::read_to_string(cgroup.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

fn remove_tree(cgroup: &Path) -> io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    fs::remove_dir(cgroup)
}
