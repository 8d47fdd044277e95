//! Control groups of pods: where they are and what pods may have, in both versions.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::quantity::{is_sidecar, limit, pod_limit, pod_request, request};

/// Microseconds of a period of the CPU quota.
const PERIOD_US: i64 = 100_000;
/// Less than this the kernel does not take.
const QUOTA_MIN_US: i64 = 1_000;
const SHARES_MIN: i64 = 2;
const SHARES_MAX: i64 = 262_144;

/// The class of a pod's service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It has what it asks for, and no more.
    Guaranteed,
    /// It has at least what it asks for.
    Burstable,
    /// It has what is left.
    BestEffort,
}

impl Class {
    /// That of a pod, as the API server has worked it out.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.status.as_ref().and_then(|it| it.qos_class.as_deref()) {
            Some("Guaranteed") => Self::Guaranteed,
            Some("Burstable") => Self::Burstable,
            _ => Self::BestEffort,
        }
    }
}

/// The control groups that pods live in.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    /// Path within each hierarchy, such as `/kubepods`.
    root: String,
    hierarchies: Hierarchies,
}

#[derive(Clone, Debug)]
enum Hierarchies {
    /// Version 1: a mount per controller.
    Each { cpu: Option<PathBuf>, memory: Option<PathBuf>, pids: Option<PathBuf> },
    /// Version 2: one mount.
    Unified(PathBuf),
}

impl Groups {
    /// Finds the hierarchies among this machine's mounts.
    pub(crate) fn find(root: &str) -> io::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts")?;
        Ok(Self { root: root.into(), hierarchies: hierarchies(&mounts) })
    }

    /// Where a pod's containers go, as the runtime takes it.
    pub(crate) fn of(&self, pod: &Pod) -> String {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let root = &self.root;
        match Class::of(pod) {
            Class::Guaranteed => format!("{root}/pod{uid}"),
            Class::Burstable => format!("{root}/burstable/pod{uid}"),
            Class::BestEffort => format!("{root}/besteffort/pod{uid}"),
        }
    }

    /// Makes a pod's group and sets what it may have.
    pub(crate) fn make(&self, pod: &Pod) -> io::Result<()> {
        let path = self.of(pod);
        let path = path.trim_start_matches('/');
        let shares = shares(pod_request(pod, "cpu"));
        let quota = pod_limit(pod, "cpu").map(quota);
        let memory = pod_limit(pod, "memory").map(|milli| milli / 1000);
        match &self.hierarchies {
            Hierarchies::Each { cpu, memory: memory_root, pids } => {
                if let Some(root) = cpu {
                    let group = made(root, path)?;
                    write(&group, "cpu.shares", shares)?;
                    write(&group, "cpu.cfs_period_us", PERIOD_US)?;
                    write(&group, "cpu.cfs_quota_us", quota.unwrap_or(-1))?;
                }
                if let Some(root) = memory_root {
                    let group = made(root, path)?;
                    write(&group, "memory.limit_in_bytes", memory.unwrap_or(-1))?;
                }
                if let Some(root) = pids {
                    made(root, path)?;
                }
                Ok(())
            }
            Hierarchies::Unified(root) => {
                let group = delegated(root, path)?;
                write(&group, "cpu.weight", weight(shares))?;
                let max = quota.map_or_else(|| "max".to_owned(), |it| it.to_string());
                fs::write(group.join("cpu.max"), format!("{max} {PERIOD_US}"))?;
                let max = memory.map_or_else(|| "max".to_owned(), |it| it.to_string());
                fs::write(group.join("memory.max"), max)
            }
        }
    }

    /// Removes a pod's group, in whichever class it was; its processes are gone.
    pub(crate) fn remove(&self, uid: &str) {
        let roots: Vec<&PathBuf> = match &self.hierarchies {
            Hierarchies::Each { cpu, memory, pids } => {
                [cpu, memory, pids].into_iter().flatten().collect()
            }
            Hierarchies::Unified(root) => vec![root],
        };
        for root in roots {
            for class in ["", "burstable/", "besteffort/"] {
                let path = self.root.trim_start_matches('/');
                let group = root.join(format!("{path}/{class}pod{uid}"));
                if group.is_dir()
                    && let Err(error) = remove_all(&group)
                {
                    tracing::debug!(group = %group.display(), %error, "a group stays");
                }
            }
        }
    }
}

fn hierarchies(mounts: &str) -> Hierarchies {
    let mut unified = None;
    let (mut cpu, mut memory, mut pids) = (None, None, None);
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(_), Some(path), Some(kind), Some(options)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            continue;
        };
        if kind == "cgroup2" {
            unified = Some(PathBuf::from(path));
        } else if kind == "cgroup" {
            let has = |name: &str| options.split(',').any(|it| it == name);
            for (name, slot) in [("cpu", &mut cpu), ("memory", &mut memory), ("pids", &mut pids)] {
                if has(name) {
                    *slot = Some(PathBuf::from(path));
                }
            }
        }
    }
    match unified {
        Some(root) if cpu.is_none() && memory.is_none() => Hierarchies::Unified(root),
        _ => Hierarchies::Each { cpu, memory, pids },
    }
}

fn made(root: &Path, path: &str) -> io::Result<PathBuf> {
    let group = root.join(path);
    fs::create_dir_all(&group)?;
    Ok(group)
}

/// Makes a group of version 2, with the controllers that we use on the way to it.
fn delegated(root: &Path, path: &str) -> io::Result<PathBuf> {
    let mut group = root.to_owned();
    for part in path.split('/') {
        fs::write(group.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
        group.push(part);
        fs::create_dir_all(&group)?;
    }
    fs::write(group.join("cgroup.subtree_control"), "+cpu +memory +pids")?;
    Ok(group)
}

/// Groups are directories that only `rmdir` removes, from below.
fn remove_all(group: &Path) -> io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

fn write(group: &Path, file: &str, value: i64) -> io::Result<()> {
    fs::write(group.join(file), value.to_string())
}

/// Shares of the CPU for thousandths of one.
pub(crate) fn shares(milli: i64) -> i64 {
    (milli * 1024 / 1000).clamp(SHARES_MIN, SHARES_MAX)
}

fn weight(shares: i64) -> i64 {
    1 + (shares - 2) * 9_999 / 262_142
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD_US / 1000).max(QUOTA_MIN_US)
}

/// What the runtime gives one container.
pub(crate) fn limits(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
) -> crate::cri::wire::LinuxContainerResources {
    let quota = limit(container, "cpu").filter(|it| *it > 0).map(quota);
    crate::cri::wire::LinuxContainerResources {
        cpu_period: if quota.is_some() { PERIOD_US } else { 0 },
        cpu_quota: quota.unwrap_or(0),
        cpu_shares: shares(request(container, "cpu").unwrap_or(0)),
        memory_limit_in_bytes: limit(container, "memory").unwrap_or(0) / 1000,
        oom_score_adj: oom_score(pod, container, node_memory),
    }
}

/// How willingly the kernel ends the container when memory is short, from -997 to 1000.
fn oom_score(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|it| it.priority_class_name.as_deref() == Some("system-node-critical")) {
        return -997;
    }
    let class = Class::of(pod);
    let of = |container: &Container| match class {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let asked = request(container, "memory").unwrap_or(0) / 1000;
            (1000 - 1000 * asked / node_memory.max(1)).clamp(3, 999)
        }
    };
    let own = of(container);
    if !is_sidecar(container) {
        return own;
    }
    // A sidecar does not go before the containers that it serves.
    let mains = spec.into_iter().flat_map(|it| &it.containers).map(of);
    mains.min().map_or(own, |least| own.min(least))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(class: &str, containers: &serde_json::Value) -> Pod {
        let pod = json!({
            "metadata": {"uid": "u"}, "spec": {"containers": containers}, "status": {"qosClass": class},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_pod_has_its_place_by_its_class() {
        let groups = Groups { root: "/kubepods".into(), hierarchies: hierarchies("") };
        assert_eq!(groups.of(&pod("Guaranteed", &json!([]))), "/kubepods/podu");
        assert_eq!(groups.of(&pod("Burstable", &json!([]))), "/kubepods/burstable/podu");
        assert_eq!(groups.of(&pod("BestEffort", &json!([]))), "/kubepods/besteffort/podu");
    }

    #[test]
    fn hybrid_machines_use_version_1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert!(matches!(hierarchies(mounts), Hierarchies::Each { cpu: Some(_), .. }));
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert!(matches!(hierarchies(mounts), Hierarchies::Unified(_)));
    }

    #[test]
    fn the_score_follows_class_and_request() {
        let gi = 1_i64 << 30;
        let half = json!([{"name": "a", "resources": {"requests": {"memory": "512Mi"}}}]);
        for (class, expected) in [("Guaranteed", -997), ("Burstable", 500), ("BestEffort", 1000)] {
            let pod = pod(class, &half);
            let container = &pod.spec.as_ref().expect("a spec").containers[0];
            assert_eq!(oom_score(&pod, container, gi), expected, "{class}");
        }
    }

    #[test]
    fn limits_are_those_of_the_kernel() {
        let pod = pod(
            "Burstable",
            &json!([{"name": "a", "resources": {
                "requests": {"cpu": "250m"}, "limits": {"cpu": "1", "memory": "64Mi"},
            }}]),
        );
        let limits = limits(&pod, &pod.spec.as_ref().expect("a spec").containers[0], 1 << 30);
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota, limits.cpu_period),
            (256, 100_000, 100_000)
        );
        assert_eq!(limits.memory_limit_in_bytes, 64 << 20);
        assert_eq!(shares(0), 2);
        assert_eq!(weight(1024), 39);
    }
}
