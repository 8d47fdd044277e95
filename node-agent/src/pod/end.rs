//! The end of a pod: barrier, hooks, containers, sidecars, sandbox, files, and the object last of all.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::Container;
use kube::api::{DeleteParams, Preconditions};
use tokio::time::{Instant, sleep};

use super::{
    seen::{Seen, Stage},
    start,
    worker::{Told, Worker},
};
use crate::{probe::Kind, quantity::is_sidecar, volume};

/// Between tries of what must be done.
const PAUSE: Duration = Duration::from_secs(1);

impl Worker {
    /// How long the pod may take to end.
    fn grace(&self) -> Duration {
        let spec = self.pod.spec.as_ref().and_then(|it| it.termination_grace_period_seconds);
        let seconds = if self.is_gone && self.pod.metadata.deletion_timestamp.is_none() {
            // It was taken out of the API without a word.
            Some(1)
        } else {
            self.pod.metadata.deletion_grace_period_seconds.or(spec)
        };
        Duration::from_secs(seconds.and_then(|it| u64::try_from(it).ok()).unwrap_or(30))
    }

    /// Ends everything of the pod, and then the pod.
    pub(super) async fn end(&mut self) {
        self.probes.retain(|(_, kind), task| {
            if *kind != Kind::Readiness {
                task.abort();
            }
            *kind == Kind::Readiness
        });
        while !self.look().await {
            sleep(PAUSE).await;
        }
        let running: Vec<Seen> =
            self.world.containers.iter().filter(|it| it.stage == Stage::Running).cloned().collect();
        if !running.is_empty() {
            let addresses = self.addresses();
            let barrier = self.shared.barrier(&self.pod, &addresses);
            barrier.await;
        }
        let end = Instant::now() + self.grace();
        for turn in self.turns(&running) {
            self.end_together(turn, end).await;
        }
        self.stop_probes(|_| true);
        self.look().await;
        if !self.is_gone {
            self.tell_api().await;
        }
        self.clear().await;
        if !self.is_gone {
            self.delete().await;
        }
        self.remove().await;
        tracing::debug!(pod = self.name(), "the pod has ended");
    }

    /// Containers in the order in which they end: those that end together are in one turn.
    fn turns(&self, running: &[Seen]) -> Vec<Vec<(Seen, Container)>> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let of = |container: &Container| {
            let seen = running.iter().find(|it| it.name == container.name)?;
            Some((seen.clone(), container.clone()))
        };
        let inits = spec.init_containers.as_deref().unwrap_or_default();
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        let ephemeral = ephemeral.filter_map(|it| start::find(&self.pod, &it.name));
        let mut first: Vec<_> = spec.containers.iter().filter_map(of).collect();
        first.extend(inits.iter().filter(|it| !is_sidecar(it)).filter_map(of));
        first.extend(ephemeral.filter_map(|it| of(&it)));
        let sidecars = inits.iter().rev().filter(|it| is_sidecar(it)).filter_map(of);
        std::iter::once(first).chain(sidecars.map(|it| vec![it])).collect()
    }

    /// Ends some containers; a shorter grace period that comes meanwhile holds.
    async fn end_together(&mut self, turn: Vec<(Seen, Container)>, mut end: Instant) {
        let mut left: BTreeSet<String> = BTreeSet::new();
        let address = self.addresses().first().copied();
        for (seen, container) in turn {
            if !left.insert(seen.id.clone()) {
                continue;
            }
            let name = &container.name;
            self.report(Some(name), false, "Killing", format!("Stopping container {name}"));
            let (runtime, tell) = (self.shared.runtime.clone(), self.tell.clone());
            let grace = end.saturating_duration_since(Instant::now());
            tokio::spawn(async move {
                let id = seen.id;
                while let Err(words) = start::end(&runtime, &container, &id, address, grace).await {
                    tracing::warn!(container = container.name, words, "a container is not stopped");
                    sleep(PAUSE).await;
                }
                let _gone = tell.send(Told::Stopped(id)).await;
            });
        }
        while !left.is_empty() {
            let before = self.grace();
            match self.told.recv().await {
                Some(Told::Stopped(id)) => {
                    left.remove(&id);
                }
                Some(told) => {
                    self.hear(Some(told));
                    let now = self.grace();
                    if now < before {
                        end = end.min(Instant::now() + now);
                        for id in left.clone() {
                            let (runtime, tell) = (self.shared.runtime.clone(), self.tell.clone());
                            tokio::spawn(async move {
                                tokio::time::sleep_until(end).await;
                                if runtime.stop(&id, Duration::ZERO).await.is_ok() {
                                    let _gone = tell.send(Told::Stopped(id)).await;
                                }
                            });
                        }
                    }
                }
                None => return,
            }
        }
    }

    /// Takes the sandbox and the pod's files away.
    async fn clear(&mut self) {
        for sandbox in self.world.sandboxes.clone() {
            while let Err(status) = self.shared.runtime.stop_sandbox(&sandbox.id).await {
                tracing::warn!(pod = self.name(), %status, "a sandbox is not stopped");
                sleep(PAUSE).await;
            }
        }
        while let Err(error) = volume::tear_down(&self.directory) {
            let message = format!("cannot remove {}: {error}", self.directory.display());
            self.report(None, true, "FailedUnMount", message);
            sleep(PAUSE).await;
        }
        self.shared.groups.remove(&self.uid);
    }

    /// Takes the pod out of the API.
    async fn delete(&mut self) {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: Some(self.uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let namespace = self.pod.metadata.namespace.clone().unwrap_or_default();
        let api = kube::Api::<k8s_openapi::api::core::v1::Pod>::namespaced(
            self.shared.client.clone(),
            &namespace,
        );
        loop {
            match api.delete(self.name(), &params).await {
                Ok(_) => return,
                // Gone, or another pod has its name by now.
                Err(kube::Error::Api(error)) if error.code == 404 || error.code == 409 => return,
                Err(error) => {
                    tracing::warn!(pod = self.name(), %error, "the pod is not taken out of the API");
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes the rest out of the runtime.
    async fn remove(&mut self) {
        for sandbox in &self.world.sandboxes {
            if let Err(status) = self.shared.runtime.remove_sandbox(&sandbox.id).await {
                tracing::debug!(pod = self.name(), %status, "a sandbox stays for now");
            }
            self.shared.forgets(&sandbox.id);
        }
        for container in &self.world.containers {
            self.shared.forgets(&container.id);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.logs)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::debug!(pod = self.name(), %error, "logs stay");
        }
    }
}
