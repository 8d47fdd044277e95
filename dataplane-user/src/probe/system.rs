//! Who we are, and what is mounted.

use std::{fs, path::Path};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::{Answer, Feature, Probes, sentence};
use crate::ebpf::{attach::cgroup2_root, pin::BPFFS};

/// Whether this process may program the kernel at all.
pub(super) fn root() -> Answer {
    if nix::unistd::geteuid().is_root() {
        Answer::yes()
    } else {
        Answer::Missing("this process runs as an ordinary user".to_owned())
    }
}

pub(super) fn run(probes: &mut Probes) {
    let cgroup = match cgroup2_root() {
        Ok(path) => Answer::Found(path.display().to_string()),
        Err(error) => Answer::Missing(sentence(&error)),
    };
    probes.set(Feature::Cgroup2, cgroup);
    probes.set(Feature::Bpffs, bpffs(Path::new(BPFFS)));
}

/// Mounted, or known to the kernel and then mounted by the daemon.
fn bpffs(path: &Path) -> Answer {
    if statfs(path).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Answer::Found(path.display().to_string());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.split_whitespace().last() == Some("bpf")) {
        return Answer::Found(format!(
            "not mounted yet; the daemon mounts it at {}",
            path.display()
        ));
    }
    Answer::Missing("this kernel has no BPF file system".to_owned())
}
