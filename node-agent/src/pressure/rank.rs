//! Which pod goes, as kubelets choose it.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _};

use k8s_openapi::api::core::v1::{Container, Pod};

use super::signal::{Shortage, Signal};
use crate::{
    configs,
    quantity::{self, pod_request},
};

/// From here on pods are the system's own, and stay.
const CRITICAL: i32 = 2_000_000_000;

/// What a container uses, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) memory: u64,
    /// What it wrote beside volumes.
    pub(super) disk: u64,
}

/// A pod that could go.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) pod: Pod,
    /// By container.
    pub(super) used: BTreeMap<String, Use>,
    /// Bytes of its volumes and logs on disk.
    pub(super) files: u64,
}

impl Candidate {
    pub(super) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    fn uses(&self, signal: Signal) -> u64 {
        match signal {
            Signal::Memory => self.used.values().map(|it| it.memory).sum(),
            Signal::Disk | Signal::Inodes => {
                self.used.values().map(|it| it.disk).sum::<u64>() + self.files
            }
            Signal::Processes => 0,
        }
    }

    fn asked(&self, signal: Signal) -> u64 {
        let name = match signal {
            Signal::Memory => "memory",
            Signal::Disk | Signal::Inodes => "ephemeral-storage",
            Signal::Processes => return 0,
        };
        u64::try_from(pod_request(&self.pod, name) / 1000).unwrap_or(0)
    }
}

/// Whether a pod is the system's own.
pub(super) fn is_critical(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|it| it.priority).unwrap_or(0) >= CRITICAL
}

/// The first to go: who uses more than it asked for, then who matters least, then who uses most beyond what it
/// asked for.
pub(super) fn choose(signal: Signal, candidates: &[Candidate]) -> Option<&Candidate> {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|it| it.phase.clone()).unwrap_or_default();
    candidates
        .iter()
        .filter(|it| !is_critical(&it.pod) && it.pod.metadata.deletion_timestamp.is_none())
        .filter(|it| !matches!(phase(&it.pod).as_str(), "Failed" | "Succeeded"))
        .min_by_key(|it| {
            let (uses, asked) = (it.uses(signal), it.asked(signal));
            let priority = it.pod.spec.as_ref().and_then(|it| it.priority).unwrap_or(0);
            let beyond = i128::from(uses) - i128::from(asked);
            (uses <= asked, priority, Reverse(beyond), it.pod.metadata.name.clone())
        })
}

/// Why a pod goes, in upstream's words.
pub(super) fn message(shortage: &Shortage, chosen: &Candidate) -> String {
    let resource = shortage.signal.resource();
    let amount = |number: u64| match shortage.signal {
        Signal::Memory | Signal::Disk => quantity::bytes(number),
        Signal::Inodes | Signal::Processes => number.to_string(),
    };
    let (threshold, available) = (amount(shortage.threshold), amount(shortage.available));
    let mut text = format!(
        "The node was low on resource: {resource}. Threshold quantity: {threshold}, available: {available}. "
    );
    for container in configs::containers(&chosen.pod) {
        let used = chosen.used.get(&container.name).copied().unwrap_or_default();
        let (used, asked) = match shortage.signal {
            Signal::Memory => (used.memory, request(container, "memory")),
            Signal::Disk => (used.disk, request(container, "ephemeral-storage")),
            Signal::Inodes | Signal::Processes => continue,
        };
        if used > asked {
            let (name, used, asked) = (&container.name, amount(used), amount(asked));
            let _infallible = write!(
                text,
                "Container {name} was using {used}, request is {asked}, has larger consumption of \
                 {resource}. "
            );
        }
    }
    text
}

fn request(container: &Container, resource: &str) -> u64 {
    u64::try_from(quantity::request(container, resource).unwrap_or(0) / 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn candidate(name: &str, request: &str, memory: u64, priority: i32) -> Candidate {
        let pod = json!({
            "metadata": {"name": name, "uid": name},
            "spec": {"priority": priority, "containers": [
                {"name": "c", "resources": {"requests": {"memory": request}}},
            ]},
            "status": {"phase": "Running"},
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        let used = BTreeMap::from([("c".to_owned(), Use { memory, disk: 0 })]);
        Candidate { pod, used, files: 0 }
    }

    fn order(mut candidates: Vec<Candidate>) -> Vec<String> {
        let mut names = Vec::new();
        while let Some(chosen) = choose(Signal::Memory, &candidates) {
            let uid = chosen.uid().to_owned();
            candidates.retain(|it| it.uid() != uid);
            names.push(uid);
        }
        names
    }

    #[test]
    fn who_uses_more_than_it_asked_for_goes_first() {
        let all = vec![
            candidate("modest", "1Gi", 500 << 20, 0),
            candidate("greedy", "10Mi", 100 << 20, 0),
            candidate("greedier", "10Mi", 200 << 20, 0),
            candidate("important", "10Mi", 900 << 20, 1_000),
            candidate("system", "0", 900 << 20, 2_000_000_000),
        ];
        assert_eq!(order(all), ["greedier", "greedy", "important", "modest"]);
    }

    #[test]
    fn the_message_names_who_used_more_than_it_asked_for() {
        let shortage =
            Shortage { signal: Signal::Memory, threshold: 100 << 20, available: 50 << 20 };
        let words = message(&shortage, &candidate("x", "10Mi", 30 << 20, 0));
        assert_eq!(
            words,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. \
             Container c was using 30Mi, request is 10Mi, has larger consumption of memory. "
        );
    }
}
