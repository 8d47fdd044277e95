//! What to do next for a pod that is to run: a function of its specification and of what is seen.

use std::{collections::BTreeMap, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::seen::{Seen, Stage, World};
use crate::quantity::is_sidecar;

/// Why a container is ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Its specification is another one now.
    Changed,
    /// Its hook after the start failed.
    Hook,
    /// The pod is done; only a sidecar is left.
    Over,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Ends what is left of a sandbox.
    StopSandbox(String),
    /// Makes a sandbox.
    MakeSandbox(u32),
    /// Removes a container that never ran.
    Remove(String),
    /// Makes and starts a container, which has been started so often before.
    Start(String, u32),
    /// Ends a container.
    Stop(String, Why),
    /// A container that has ended waits so much longer.
    Later(String, Duration),
}

/// How long a container that ends again and again waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience {
    /// After its second end.
    pub(crate) first: Duration,
    /// At most.
    pub(crate) most: Duration,
}

/// How long a container waits now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackOff {
    /// After its end.
    pub(crate) delay: Duration,
    /// When it was last made longer.
    pub(crate) since: Timestamp,
}

/// What the runtime does not keep.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Containers, by id, that are to end, and why.
    pub(crate) failing: BTreeMap<String, Why>,
    /// Containers, by id, whose startup probe has succeeded.
    pub(crate) started: BTreeMap<String, bool>,
    /// By name.
    pub(crate) back_off: BTreeMap<String, BackOff>,
}

impl Memory {
    /// When a container that has ended may be started again.
    pub(crate) fn due(&self, ended: &Seen, patience: Patience) -> Timestamp {
        let finished = ended.finished.unwrap_or(ended.created);
        match self.back_off.get(&ended.name) {
            Some(back_off) if !is_forgotten(back_off, finished, patience) => {
                later(finished, back_off.delay)
            }
            _ => finished,
        }
    }

    /// Notes that a container that has ended is started again.
    pub(crate) fn starts_again(&mut self, ended: &Seen, now: Timestamp, patience: Patience) {
        let finished = ended.finished.unwrap_or(ended.created);
        let delay = match self.back_off.get(&ended.name) {
            Some(back_off) if !is_forgotten(back_off, finished, patience) => {
                (back_off.delay * 2).min(patience.most)
            }
            _ => patience.first.min(patience.most),
        };
        self.back_off.insert(ended.name.clone(), BackOff { delay, since: now });
    }
}

/// One that ran for twice the longest delay begins anew.
fn is_forgotten(back_off: &BackOff, finished: Timestamp, patience: Patience) -> bool {
    finished > later(back_off.since, patience.most * 2)
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(at)
}

/// Whether a container that has ended runs again.
pub(crate) fn restarts(spec: &PodSpec, container: &Container, code: i32) -> bool {
    let policy = container.restart_policy.as_deref();
    match policy.or(spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

/// Whether all that the pod was to do is done, whichever way.
pub(crate) fn is_over(pod: &Pod, world: &World) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let ended = |container: &Container| {
        let latest = world.latest(&container.name)?;
        (latest.stage == Stage::Exited).then_some(latest.code)
    };
    let is_final = |container: &Container| {
        ended(container).is_some_and(|code| !restarts(spec, container, code))
    };
    let inits = spec.init_containers.iter().flatten().filter(|it| !is_sidecar(it));
    let has_failed = |container: &Container| {
        ended(container).is_some_and(|code| code != 0 && !restarts(spec, container, code))
    };
    let mut inits = inits;
    inits.any(has_failed) || spec.containers.iter().all(is_final)
}

/// The next steps of a pod that is neither terminating nor over.
pub(crate) fn plan(
    pod: &Pod,
    world: &World,
    memory: &Memory,
    patience: Patience,
    hashes: &BTreeMap<String, String>,
    now: Timestamp,
) -> Vec<Act> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    if is_over(pod, world) {
        return end_sidecars(spec, world);
    }
    let Some(sandbox) = world.sandbox() else {
        let old = world.sandboxes.iter().filter(|it| it.is_ready);
        let running = world.containers.iter().any(|it| it.stage == Stage::Running);
        let mut acts: Vec<Act> = old.map(|it| Act::StopSandbox(it.id.clone())).collect();
        if running {
            // Containers whose sandbox died: they go with what is left of it.
            acts.extend(world.sandboxes.iter().map(|it| Act::StopSandbox(it.id.clone())));
        }
        let attempt = world.sandboxes.first().map_or(0, |it| it.attempt + 1);
        acts.push(Act::MakeSandbox(attempt));
        return acts;
    };
    let pacing = Pacing { spec, world, memory, patience, hashes, now };
    let mut acts: Vec<Act> = world
        .sandboxes
        .iter()
        .filter(|it| it.is_ready && it.id != sandbox.id)
        .map(|it| Act::StopSandbox(it.id.clone()))
        .collect();
    if pacing.begin(&mut acts) {
        for container in &spec.containers {
            pacing.keep(container, &mut acts);
        }
    }
    acts
}

/// Sidecars of a pod that is done end in reverse order, one after another.
fn end_sidecars(spec: &PodSpec, world: &World) -> Vec<Act> {
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten().rev());
    let running = all.filter_map(|it| world.latest(&it.name)).find(|it| it.stage == Stage::Running);
    running.map(|it| Act::Stop(it.id.clone(), Why::Over)).into_iter().collect()
}

struct Pacing<'p> {
    spec: &'p PodSpec,
    world: &'p World,
    memory: &'p Memory,
    patience: Patience,
    hashes: &'p BTreeMap<String, String>,
    now: Timestamp,
}

impl Pacing<'_> {
    /// Init containers in their order; whether the others may run.
    fn begin(&self, acts: &mut Vec<Act>) -> bool {
        // What has started others once was done, even if it has been cleared away since.
        let is_past = self.spec.containers.iter().any(|it| self.world.current(&it.name).is_some());
        for container in self.spec.init_containers.iter().flatten() {
            let current = self.world.current(&container.name);
            if is_sidecar(container) {
                self.keep(container, acts);
                let is_up = current.is_some_and(|it| {
                    it.stage == Stage::Running
                        && (container.startup_probe.is_none()
                            || self.memory.started.get(&it.id) == Some(&true))
                });
                if !is_up && !is_past {
                    return false;
                }
                continue;
            }
            if is_past || current.is_some_and(|it| it.stage == Stage::Exited && it.code == 0) {
                continue;
            }
            self.keep(container, acts);
            return false;
        }
        true
    }

    /// One container is to run.
    fn keep(&self, container: &Container, acts: &mut Vec<Act>) {
        let Some(current) = self.world.current(&container.name) else {
            let restarts = self.world.latest(&container.name).map_or(0, |it| it.restarts + 1);
            acts.push(Act::Start(container.name.clone(), restarts));
            return;
        };
        match current.stage {
            Stage::Created | Stage::Unknown => {
                acts.push(Act::Remove(current.id.clone()));
                acts.push(Act::Start(container.name.clone(), current.restarts));
            }
            Stage::Running => {
                let is_changed =
                    self.hashes.get(&container.name).is_some_and(|hash| *hash != current.hash);
                if let Some(why) = self.memory.failing.get(&current.id) {
                    acts.push(Act::Stop(current.id.clone(), why.clone()));
                } else if is_changed {
                    acts.push(Act::Stop(current.id.clone(), Why::Changed));
                }
            }
            Stage::Exited if restarts(self.spec, container, current.code) => {
                let due = self.memory.due(current, self.patience);
                if due <= self.now {
                    acts.push(Act::Start(container.name.clone(), current.restarts + 1));
                } else {
                    let wait = Duration::try_from(due.duration_since(self.now));
                    acts.push(Act::Later(container.name.clone(), wait.unwrap_or_default()));
                }
            }
            Stage::Exited => {}
        }
    }
}
