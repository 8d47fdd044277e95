//! The cgroup of clients whose sockets are translated; all that a crashed run leaves behind.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::Context as _;
use dataplane_user::ebpf::attach;

const PREFIX: &str = "hashplane-bench-";
/// The kernel takes a moment to empty a cgroup.
const TRIES: u32 = 50;

/// Where the cgroup of this run is, which `run` names.
pub fn path(run: u32) -> anyhow::Result<PathBuf> {
    Ok(attach::cgroup2_root()?.join(format!("{PREFIX}{run}")))
}

/// Makes the cgroup and moves this process into it.
pub fn enter(run: u32) -> anyhow::Result<PathBuf> {
    let path = path(run)?;
    fs::create_dir_all(&path)
        .with_context(|| format!("cannot make the cgroup {}", path.display()))?;
    fs::write(path.join("cgroup.procs"), "0")
        .with_context(|| format!("cannot enter the cgroup {}", path.display()))?;
    Ok(path)
}

/// Removes the cgroup of this run, if there is one.
pub fn remove(run: u32) {
    if let Ok(path) = path(run) {
        remove_empty(&path);
    }
}

/// Removes what runs that are gone have left behind; their names.
pub fn remove_stale() -> Vec<String> {
    let Ok(root) = attach::cgroup2_root() else { return Vec::new() };
    let Ok(list) = fs::read_dir(root) else { return Vec::new() };
    let is_stale = |name: &str| {
        let run = name.strip_prefix(PREFIX).and_then(|run| run.parse::<u32>().ok());
        run.is_some_and(|run| !Path::new("/proc").join(run.to_string()).exists())
    };
    let mut removed = Vec::new();
    for entry in list.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_stale(&name) && remove_empty(&entry.path()) {
            removed.push(name);
        }
    }
    removed
}

fn remove_empty(path: &Path) -> bool {
    for _ in 0..TRIES {
        match fs::remove_dir(path) {
            Ok(()) => return true,
            Err(_) if !path.exists() => return false,
            Err(_busy) => thread::sleep(Duration::from_millis(10)),
        }
    }
    false
}
