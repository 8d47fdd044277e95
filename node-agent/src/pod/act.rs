//! The steps of a plan are done.

use std::fs;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    plan::Act,
    seen::{Seen, Stage},
    status::Waiting,
    worker::{RETRY_FIRST, Worker},
};
use crate::{cgroup, volume::mounts};

impl Worker {
    /// Does one step; whether there is something new to look at.
    pub(super) async fn act(&mut self, act: Act) -> bool {
        let runtime = self.shared.runtime.clone();
        match act {
            Act::StopSandbox(id) => {
                let done = runtime.stop_sandbox(&id).await;
                done.is_ok()
            }
            Act::MakeSandbox(attempt) => match self.make_sandbox(attempt).await {
                Ok(()) => {
                    self.retry = RETRY_FIRST;
                    true
                }
                Err(words) => {
                    let message = format!("Failed to create pod sandbox: {words}");
                    self.report(None, true, "FailedCreatePodSandBox", message);
                    self.again_later();
                    false
                }
            },
            Act::Remove(id) => runtime.remove(&id).await.is_ok(),
            Act::Start(name, restarts) => self.start_anew(&name, restarts).await,
            Act::Stop(id, why) => {
                let seen = self.world.containers.iter().find(|it| it.id == id).cloned();
                if let Some(seen) = seen {
                    self.stop_probes(|container| container == id);
                    self.stop_one(&seen, &why);
                }
                false
            }
            Act::Later(name, wait) => {
                self.look_at(Instant::now() + wait);
                let delay = self.memory.back_off.get(&name).map_or(0, |it| it.delay.as_secs());
                let pod = format!("{}({})", self.full_name(), self.uid);
                let message =
                    format!("back-off {delay}s restarting failed container={name} pod={pod}");
                if self.waiting.get(&name).is_none_or(|it| it.reason != "CrashLoopBackOff") {
                    let words = format!("Back-off restarting failed container {name} in pod {pod}");
                    self.report(Some(&name), true, "BackOff", words);
                }
                let waiting = Waiting { reason: "CrashLoopBackOff".into(), message };
                self.waiting.insert(name, waiting);
                false
            }
        }
    }

    fn full_name(&self) -> String {
        format!("{}_{}", self.name(), self.pod.metadata.namespace.as_deref().unwrap_or_default())
    }

    async fn start_anew(&mut self, name: &str, restarts: u32) -> bool {
        let before = self.world.current(name).filter(|it| it.stage == Stage::Exited).cloned();
        match self.start(name, restarts).await {
            Ok(()) => {
                self.waiting.remove(name);
                if let Some(before) = before {
                    let patience = self.shared.patience(&self.pod);
                    self.memory.starts_again(&before, Timestamp::now(), patience);
                }
                self.clear_away(name).await;
                true
            }
            Err(waiting) => {
                if let Some(waiting) = waiting {
                    let is_pull = waiting.reason == "ImagePullBackOff";
                    // A start that failed leaves an exited container, whose turn comes by its back-off.
                    if waiting.reason == "RunContainerError" {
                        if let Some(before) = before {
                            let patience = self.shared.patience(&self.pod);
                            self.memory.starts_again(&before, Timestamp::now(), patience);
                        }
                        self.waiting.insert(name.into(), waiting);
                        return true;
                    }
                    if !is_pull {
                        self.again_later();
                        if waiting.reason == "CreateContainerConfigError" {
                            self.report(
                                Some(name),
                                true,
                                "Failed",
                                format!("Error: {}", waiting.message),
                            );
                        }
                    }
                    self.waiting.insert(name.into(), waiting);
                }
                false
            }
        }
    }

    /// Containers that have ended twice ago are of no use to anybody.
    async fn clear_away(&self, name: &str) {
        let old: Vec<Seen> = self.world.named(name).skip(1).cloned().collect();
        for seen in old.iter().filter(|it| it.stage == Stage::Exited) {
            if let Err(status) = self.shared.runtime.remove(&seen.id).await {
                tracing::debug!(id = seen.id, %status, "an old container stays");
                continue;
            }
            self.shared.forgets(&seen.id);
            for path in [
                self.logs.join(&seen.name).join(format!("{}.log", seen.restarts)),
                mounts::message_file(&self.directory, &seen.name, seen.restarts),
            ] {
                // It may never have been there.
                let _gone = fs::remove_file(path);
            }
        }
    }

    pub(super) async fn start_ephemeral(&mut self) -> bool {
        let all = self.pod.spec.iter().flat_map(|it| it.ephemeral_containers.iter().flatten());
        let new: Vec<String> = all
            .filter(|it| {
                self.world.latest(&it.name).is_none() && !self.waiting.contains_key(&it.name)
            })
            .map(|it| it.name.clone())
            .collect();
        let mut has_changed = false;
        if self.world.sandbox().is_some() {
            for name in new {
                has_changed |= self.start_anew(&name, 0).await;
            }
        }
        has_changed
    }

    /// Gives running containers what their specification says now, in place.
    pub(super) async fn resize(&mut self) {
        let memory = self.shared.capacity_memory();
        let wished: Vec<_> = crate::configs::containers(&self.pod)
            .filter_map(|container| {
                let seen = self.world.current(&container.name)?;
                let limits = cgroup::limits(&self.pod, container, memory);
                (seen.stage == Stage::Running)
                    .then(|| (seen.id.clone(), container.name.clone(), limits))
            })
            .collect();
        for (id, name, limits) in wished {
            match self.limits.insert(id.clone(), limits.clone()) {
                Some(old) if old != limits => {}
                // As it was started.
                _ => continue,
            }
            if let Err(error) = self.shared.groups.make(&self.pod) {
                tracing::warn!(pod = self.name(), %error, "the pod's control group is not resized");
            }
            match self.shared.runtime.resize(&id, limits).await {
                Ok(()) => {
                    let message = format!("Container {name} has been resized");
                    self.report(Some(&name), false, "ResizeCompleted", message);
                }
                Err(status) => {
                    let words = status.message().to_owned();
                    self.report(Some(&name), true, "ResizeError", words);
                    self.limits.remove(&id);
                }
            }
        }
    }
}
