//! Probes of a pod's containers: which run, and what is made of their findings.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Container;

use super::{
    plan::Why,
    seen::{Seen, Stage},
    worker::Worker,
};
use crate::{
    probe::{self, Finding, Kind, Target},
    quantity::is_sidecar,
};

impl Worker {
    /// Probes what runs, and nothing else.
    pub(super) fn probe(&mut self) {
        let running: BTreeSet<String> = self
            .world
            .containers
            .iter()
            .filter(|it| it.stage == Stage::Running)
            .map(|it| it.id.clone())
            .collect();
        self.stop_probes(|id| !running.contains(id));
        let address = self.addresses().first().copied();
        let current: Vec<(Seen, Container)> = crate::configs::containers(&self.pod)
            .filter_map(|it| Some((self.world.current(&it.name)?.clone(), it.clone())))
            .filter(|(seen, container)| {
                let spec = self.pod.spec.as_ref();
                let inits = spec.and_then(|it| it.init_containers.as_ref());
                let is_init = inits.into_iter().flatten().any(|it| it.name == container.name);
                seen.stage == Stage::Running && (!is_init || is_sidecar(container))
            })
            .collect();
        for (seen, container) in current {
            let has_started = container.startup_probe.is_none()
                || self.memory.started.get(&seen.id) == Some(&true);
            let kinds: &[Kind] =
                if has_started { &[Kind::Liveness, Kind::Readiness] } else { &[Kind::Startup] };
            for kind in kinds {
                let key = (seen.id.clone(), *kind);
                if kind.of(&container).is_none() || self.probes.contains_key(&key) {
                    continue;
                }
                let target = Target {
                    id: seen.id.clone(),
                    container: container.clone(),
                    address,
                    started: seen.started.unwrap_or(seen.created),
                };
                let task =
                    probe::run(*kind, target, self.shared.runtime.clone(), self.find.clone());
                self.probes.insert(key, tokio::spawn(task));
            }
        }
    }

    pub(super) fn stop_probes(&mut self, which: impl Fn(&str) -> bool) {
        self.probes.retain(|(id, _), task| {
            if which(id) {
                task.abort();
            }
            !which(id)
        });
    }

    pub(super) fn finding(&mut self, finding: Finding) {
        let Finding { container, name, kind, settled, failure } = finding;
        if let Some(words) = failure {
            let message = format!("{} probe failed: {words}", kind.word());
            self.report(Some(&name), true, "Unhealthy", message);
        }
        match (kind, settled) {
            (Kind::Readiness, Some(is_ready)) => drop(self.ready.insert(container, is_ready)),
            (Kind::Startup, Some(true)) => drop(self.memory.started.insert(container, true)),
            (Kind::Startup, Some(false)) => {
                self.memory.failing.insert(container, Why::Startup);
            }
            (Kind::Liveness, Some(false)) => {
                self.memory.failing.insert(container, Why::Liveness);
            }
            (Kind::Liveness, Some(true)) | (_, None) => {}
        }
    }
}
