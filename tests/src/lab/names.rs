//! What everything of a lab is called, so that it can be recognised as a lab's after a crash.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::kernel_state::cgroup2_root;

/// One of the two nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeName {
    /// `nodeA`.
    A,
    /// `nodeB`.
    B,
}

impl NodeName {
    /// The name as Kubernetes would say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::A => "nodeA",
            Self::B => "nodeB",
        }
    }

    /// 1 for A, 2 for B: part of their addresses.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `hp-<pid>-<n>`: no other lab of this machine has that name while this process lives.
pub(super) fn next_lab() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("hp-{}-{number}", std::process::id())
}

/// The process that made the lab to which `name` (a namespace, cgroup or folder) belongs.
pub(super) fn owner(name: &str) -> Option<(u32, String)> {
    let mut parts = name.strip_prefix("hp-")?.splitn(3, '-');
    let pid = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    Some((pid, format!("hp-{pid}-{number}")))
}

/// The network namespace of a node, a pod, `outside` or `fabric`.
pub(super) fn netns(lab: &str, place: &str) -> String {
    format!("{lab}-{place}")
}

/// The lab's folder for sockets, logs, manifests and bpffs.
pub(super) fn folder(lab: &str) -> PathBuf {
    std::env::temp_dir().join(lab)
}

/// A cgroup below the lab's own.
pub(super) fn cgroup(lab: &str, below: &Path) -> PathBuf {
    cgroup2_root().unwrap_or_default().join(lab).join(below)
}

/// The cgroup of a pod whose sockets the node's daemon translates, below the lab's own.
pub(super) fn pod_cgroup(node: NodeName, pod: &str) -> String {
    format!("{node}/{pod}")
}
