//! Too little memory, disk or room for processes: the node says so, frees what can be had again, and sends
//! pods away, the greediest first.

mod images;
mod rank;
pub mod signal;

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::{
    sync::mpsc,
    time::{Instant, interval, sleep},
};

pub use self::signal::{Signal, Thresholds};
use self::{
    rank::{Candidate, Use},
    signal::Shortage,
};
use crate::{node::Health, pod::seen::label, serve::Pods, shared::Shared};

/// Between two looks, as of kubelets.
const LOOK: Duration = Duration::from_secs(10);
/// A pod that is sent away has this long to free what it had, before the next look.
const GONE_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at how full the disk of images is.
const IMAGES_LOOK: u32 = 30;

/// A pod that is to go: its uid, and why.
pub(crate) type Eviction = (String, String);

/// Looks for as long as the agent runs.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    health: Arc<Health>,
    pods: Pods,
    node: Node,
    evict: mpsc::Sender<Eviction>,
}

impl Watcher {
    /// `evict` is told whom to send away.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        health: &Arc<Health>,
        pods: &Pods,
        node: &Node,
        evict: mpsc::Sender<Eviction>,
    ) -> Self {
        let (shared, health, pods) = (shared.clone(), health.clone(), pods.clone());
        Self { shared, health, pods, node: node.clone(), evict }
    }

    pub(crate) async fn run(self) {
        let mut last_met: BTreeMap<Signal, Instant> = BTreeMap::new();
        let mut unused = images::Unused::default();
        let mut looks = interval(LOOK);
        for count in 0_u32.. {
            looks.tick().await;
            let settings = &self.shared.settings;
            let mut shortages = signal::look(settings, &settings.eviction);
            if count % IMAGES_LOOK == 0 || shortages.iter().any(|it| it.signal.is_disk()) {
                let is_short = shortages.iter().any(|it| it.signal.is_disk());
                if images::clean(&self.shared, &self.node, &mut unused, is_short).await {
                    shortages = signal::look(settings, &settings.eviction);
                }
            }
            for shortage in &shortages {
                last_met.insert(shortage.signal, Instant::now());
            }
            last_met.retain(|_, met| met.elapsed() < settings.pressure_transition);
            self.say(&last_met);
            if let Some(shortage) = shortages.first() {
                self.relieve(shortage).await;
            }
        }
    }

    /// Conditions stay for a while, so that pods do not come back at once.
    fn say(&self, last_met: &BTreeMap<Signal, Instant>) {
        let is_met = |is: fn(&Signal) -> bool| last_met.keys().any(is);
        let now = [
            is_met(|it| *it == Signal::Memory),
            is_met(|it| it.is_disk()),
            is_met(|it| *it == Signal::Processes),
        ];
        *self.health.pressures.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Sends one pod away.
    async fn relieve(&self, shortage: &Shortage) {
        let resource = shortage.signal.resource();
        let words = format!("Attempting to reclaim {resource}");
        self.shared.events.node(&self.node, true, "EvictionThresholdMet", words);
        let candidates = self.candidates().await;
        let Some(chosen) = rank::choose(shortage.signal, &candidates) else {
            tracing::warn!(%shortage, "no pod of this node can be sent away");
            return;
        };
        let message = rank::message(shortage, chosen);
        let (uid, pod) = (chosen.uid().to_owned(), chosen.pod.clone());
        tracing::warn!(pod = pod.metadata.name, message, "a pod is sent away");
        self.shared.events.pod(&pod, None, true, "Evicted", message.clone());
        if self.evict.send((uid.clone(), message)).await.is_err() {
            return;
        }
        let begun = Instant::now();
        while begun.elapsed() < GONE_WITHIN {
            let sandboxes = self.shared.runtime.sandboxes(Some((label::UID, &uid))).await;
            if sandboxes.is_ok_and(|it| it.is_empty()) {
                return;
            }
            sleep(LOOK / 20).await;
        }
    }

    /// Pods that run here, and what they use.
    async fn candidates(&self) -> Vec<Candidate> {
        let mut used: BTreeMap<String, BTreeMap<String, Use>> = BTreeMap::new();
        for stats in self.shared.runtime.stats().await.unwrap_or_default() {
            let attributes = stats.attributes.unwrap_or_default();
            let text = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
            let memory = stats.memory.and_then(|it| it.working_set_bytes).unwrap_or_default().value;
            let disk = stats.writable_layer.and_then(|it| it.used_bytes).unwrap_or_default().value;
            let own = Use { memory, disk };
            used.entry(text(label::UID)).or_default().insert(text(label::CONTAINER), own);
        }
        let candidate = |pod: Pod| {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            let directory = self.shared.settings.data.join("pods").join(&uid);
            let files = signal::bytes_below(&directory);
            Candidate { used: used.remove(&uid).unwrap_or_default(), files, pod }
        };
        self.pods.all().into_iter().map(candidate).collect()
    }
}

/// Why the node does not take a new pod now, by what is short: memory, disk, processes.
pub(crate) fn refuses(pressures: [bool; 3], pod: &Pod) -> Option<(&'static str, String)> {
    const NAMES: [&str; 3] = ["MemoryPressure", "DiskPressure", "PIDPressure"];
    if !pressures.contains(&true) || rank::is_critical(pod) {
        return None;
    }
    let [memory, disk, processes] = pressures;
    let is_best_effort =
        pod.status.as_ref().and_then(|it| it.qos_class.as_deref()) == Some("BestEffort");
    if memory && !disk && !processes && (!is_best_effort || tolerates_memory(pod)) {
        return None;
    }
    let met = NAMES.into_iter().zip(pressures).filter(|(_, is)| *is).map(|(name, _)| name);
    let met: Vec<&str> = met.collect();
    Some(("Evicted", format!("The node had condition: [{}]. ", met.join(" "))))
}

fn tolerates_memory(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|it| it.tolerations.as_ref());
    tolerations.into_iter().flatten().any(|it| {
        let key = it.key.as_deref().unwrap_or_default();
        let effect = it.effect.as_deref().unwrap_or_default();
        (key.is_empty() || key == "node.kubernetes.io/memory-pressure")
            && (effect.is_empty() || effect == "NoSchedule")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(class: &str, tolerations: &serde_json::Value) -> Pod {
        let pod = json!({
            "metadata": {"name": "x"}, "spec": {"containers": [], "tolerations": tolerations},
            "status": {"qosClass": class},
        });
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn a_node_without_memory_takes_who_asked_for_it() {
        let none = json!([]);
        assert_eq!(refuses([false; 3], &pod("BestEffort", &none)), None);
        let words = "The node had condition: [MemoryPressure]. ".to_owned();
        let refused = Some(("Evicted", words));
        assert_eq!(refuses([true, false, false], &pod("BestEffort", &none)), refused);
        assert_eq!(refuses([true, false, false], &pod("Burstable", &none)), None);
        let tolerant = json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        assert_eq!(refuses([true, false, false], &pod("BestEffort", &tolerant)), None);
        assert!(refuses([false, true, false], &pod("Guaranteed", &tolerant)).is_some());
        let mut critical = pod("BestEffort", &none);
        critical.spec.as_mut().expect("a spec").priority = Some(2_000_001_000);
        assert_eq!(refuses([true, true, true], &critical), None);
    }
}
