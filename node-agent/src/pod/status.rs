//! A pod's status from what is seen, as clients of the API read it.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    plan,
    seen::{Seen, Stage, World},
};
use crate::quantity::is_sidecar;

/// Why a container waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// One word.
    pub(crate) reason: String,
    /// The rest.
    pub(crate) message: String,
}

/// What a status is made of, beside the pod and what the runtime has of it.
#[derive(Debug)]
pub(crate) struct Facts<'f> {
    /// What the runtime has.
    pub(crate) world: &'f World,
    /// Why containers wait, by name.
    pub(crate) waiting: &'f BTreeMap<String, Waiting>,
    /// Whether containers are ready, by id; a container without a probe is not in it.
    pub(crate) ready: &'f BTreeMap<String, bool>,
    /// Whether containers have started, by id; likewise.
    pub(crate) started: &'f BTreeMap<String, bool>,
    /// What containers said at their ends, by id.
    pub(crate) messages: &'f BTreeMap<String, String>,
    /// Addresses of the node.
    pub(crate) host: &'f [IpAddr],
    /// Whether the pod is being ended.
    pub(crate) is_ending: bool,
    /// Now.
    pub(crate) now: Timestamp,
}

/// A status in which a pod was refused or sent away.
pub(crate) fn failed(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> PodStatus {
    let mut status = pod.status.clone().unwrap_or_default();
    status.phase = Some("Failed".into());
    status.reason = Some(reason.into());
    status.message = Some(message.into());
    status.start_time.get_or_insert(Time(now));
    status
}

/// The status of a pod.
pub(crate) fn status(pod: &Pod, facts: &Facts<'_>) -> PodStatus {
    let Some(spec) = &pod.spec else { return PodStatus::default() };
    let old = pod.status.clone().unwrap_or_default();
    let inits: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let mut has_begun = true;
    let mut init_statuses = Vec::new();
    for container in &inits {
        let status = one(pod, container, facts, "PodInitializing");
        has_begun &= is_begun(container, &status);
        init_statuses.push(status);
    }
    let reason = if inits.is_empty() { "ContainerCreating" } else { "PodInitializing" };
    let mains: Vec<ContainerStatus> =
        spec.containers.iter().map(|it| one(pod, it, facts, reason)).collect();
    let phase = phase(pod, &init_statuses, &mains, has_begun);
    let is_over = phase == "Succeeded" || phase == "Failed";
    let mut status = PodStatus {
        phase: Some(phase.clone()),
        conditions: old.conditions.clone(),
        start_time: old.start_time.clone().or(Some(Time(facts.now))),
        qos_class: old.qos_class.clone(),
        nominated_node_name: old.nominated_node_name.clone(),
        observed_generation: pod.metadata.generation,
        host_ip: facts.host.first().map(IpAddr::to_string),
        host_ips: Some(facts.host.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        reason: old.reason.clone(),
        message: old.message.clone(),
        resize: old.resize.clone(),
        ..PodStatus::default()
    };
    let addresses: Vec<IpAddr> = if spec.host_network == Some(true) {
        facts.host.to_vec()
    } else {
        let newest = facts.world.sandboxes.iter().find(|it| !it.addresses.is_empty());
        newest.map(|it| it.addresses.clone()).unwrap_or_default()
    };
    if let Some(first) = addresses.first() {
        status.pod_ip = Some(first.to_string());
        let all = addresses.iter().map(|ip| PodIP { ip: ip.to_string() });
        status.pod_ips = Some(all.collect());
    } else {
        (status.pod_ip, status.pod_ips) = (old.pod_ip, old.pod_ips);
    }
    conditions(pod, facts, &mut status, &init_statuses, &mains, has_begun && !is_over, &phase);
    status.init_container_statuses = (!inits.is_empty()).then_some(init_statuses);
    status.container_statuses = Some(mains);
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    let ephemeral: Vec<ContainerStatus> = ephemeral
        .map(|it| {
            let container = Container {
                name: it.name.clone(),
                image: it.image.clone(),
                restart_policy: Some("Never".into()),
                ..Container::default()
            };
            let mut status = one(pod, &container, facts, "ContainerCreating");
            status.ready = false;
            status
        })
        .collect();
    status.ephemeral_container_statuses = (!ephemeral.is_empty()).then_some(ephemeral);
    status
}

/// Whether the containers after this init container may run.
fn is_begun(container: &Container, status: &ContainerStatus) -> bool {
    if is_sidecar(container) {
        return status.started == Some(true);
    }
    let state = status.state.as_ref();
    state.and_then(|it| it.terminated.as_ref()).is_some_and(|it| it.exit_code == 0)
}

fn time(at: Option<Timestamp>) -> Option<Time> {
    at.map(Time)
}

fn terminated(seen: &Seen, facts: &Facts<'_>) -> ContainerStateTerminated {
    let said = facts.messages.get(&seen.id).filter(|it| !it.is_empty()).cloned();
    let message = said.or_else(|| Some(seen.message.clone()).filter(|it| !it.is_empty()));
    let reason = match (seen.reason.as_str(), seen.code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    ContainerStateTerminated {
        container_id: Some(format!("containerd://{}", seen.id)),
        exit_code: seen.code,
        signal: None,
        reason: Some(reason.into()),
        message,
        started_at: time(seen.started.or(Some(seen.created))),
        finished_at: time(seen.finished.or(Some(seen.created))),
    }
}

/// The status of one container.
fn one(pod: &Pod, container: &Container, facts: &Facts<'_>, before: &str) -> ContainerStatus {
    let waits = facts.waiting.get(&container.name);
    let current = facts.world.latest(&container.name);
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let wait = |reason: &str, message: &str| ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.into()),
            message: Some(message.to_owned()).filter(|it| !it.is_empty()),
        }),
        ..ContainerState::default()
    };
    let Some(seen) = current else {
        let (reason, message) = waits.map_or((before, ""), |it| (&it.reason, &it.message));
        status.state = Some(wait(reason, message));
        return status;
    };
    status.restart_count = i32::try_from(seen.restarts).unwrap_or(i32::MAX);
    status.container_id = Some(format!("containerd://{}", seen.id));
    status.image_id.clone_from(&seen.image_id);
    if !seen.image.is_empty() && !seen.image.starts_with("sha256:") {
        status.image.clone_from(&seen.image);
    }
    let previous = facts.world.named(&container.name).nth(1);
    let ended = |seen: &Seen| ContainerState {
        terminated: Some(terminated(seen, facts)),
        ..ContainerState::default()
    };
    status.last_state = previous.filter(|it| it.stage == Stage::Exited).map(ended);
    match seen.stage {
        Stage::Running => {
            status.state = Some(ContainerState {
                running: Some(ContainerStateRunning { started_at: time(seen.started) }),
                ..ContainerState::default()
            });
            let has_started =
                container.startup_probe.is_none() || facts.started.get(&seen.id) == Some(&true);
            status.started = Some(has_started);
            let passes = match &container.readiness_probe {
                Some(_) => facts.ready.get(&seen.id) == Some(&true),
                None => true,
            };
            status.ready = has_started && passes;
        }
        Stage::Exited => {
            let is_init = |name: &str| {
                let inits = pod.spec.as_ref().and_then(|it| it.init_containers.as_ref());
                inits.into_iter().flatten().any(|it| it.name == name && !is_sidecar(it))
            };
            status.ready = is_init(&container.name) && seen.code == 0;
            if let Some(waits) = waits {
                status.last_state = Some(ended(seen));
                status.state = Some(wait(&waits.reason, &waits.message));
            } else {
                status.state = Some(ended(seen));
            }
        }
        Stage::Created | Stage::Unknown => {
            let (reason, message) = waits.map_or((before, ""), |it| (&it.reason, &it.message));
            status.state = Some(wait(reason, message));
        }
    }
    status
}

/// The phase, from the states of containers.
fn phase(
    pod: &Pod,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    has_begun: bool,
) -> String {
    let Some(spec) = &pod.spec else { return "Pending".into() };
    if let Some(old @ ("Failed" | "Succeeded")) =
        pod.status.as_ref().and_then(|it| it.phase.as_deref())
    {
        return old.into();
    }
    let end = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|it| it.terminated.as_ref()).map(|it| it.exit_code)
    };
    let containers = spec.init_containers.iter().flatten();
    for (container, status) in containers.zip(inits) {
        let is_final = |code: i32| code != 0 && !plan::restarts(spec, container, code);
        if !is_sidecar(container) && end(status).is_some_and(is_final) {
            return "Failed".into();
        }
    }
    if !has_begun {
        // Sidecars that are started again hold up nothing once the others run.
        let runs = |it: &ContainerStatus| it.state.as_ref().is_some_and(|it| it.running.is_some());
        if !mains.iter().any(|it| runs(it) || end(it).is_some()) {
            return "Pending".into();
        }
    }
    let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in mains {
        let state = status.state.as_ref();
        if state.is_some_and(|it| it.running.is_some()) {
            running += 1;
        } else if let Some(code) = end(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else if status.last_state.as_ref().is_some_and(|it| it.terminated.is_some()) {
            stopped += 1;
        } else {
            waiting += 1;
        }
    }
    let policy = spec.restart_policy.as_deref().unwrap_or("Always");
    let phase = if waiting > 0 {
        "Pending"
    } else if running > 0 || policy == "Always" {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else if policy == "Never" {
        "Failed"
    } else {
        "Running"
    };
    phase.into()
}

fn conditions(
    pod: &Pod,
    facts: &Facts<'_>,
    status: &mut PodStatus,
    inits: &[ContainerStatus],
    mains: &[ContainerStatus],
    has_begun: bool,
    phase: &str,
) {
    let mut set = |name: &str, is_met: bool, reason: Option<&str>, message: Option<String>| {
        set(status.conditions.get_or_insert_default(), name, is_met, reason, message, facts.now);
    };
    let has_sandbox = facts.world.sandbox().is_some() && !facts.is_ending;
    set("PodReadyToStartContainers", has_sandbox, None, None);
    let over = match phase {
        "Succeeded" => Some("PodCompleted"),
        "Failed" => Some("PodFailed"),
        _ => None,
    };
    let names = |all: Vec<&str>| format!("[{}]", all.join(" "));
    let spec = pod.spec.as_ref();
    let all_inits = spec.and_then(|it| it.init_containers.as_ref()).into_iter().flatten();
    let late: Vec<&str> = all_inits
        .zip(inits)
        .filter(|(container, status)| !is_begun(container, status))
        .map(|(_, status)| status.name.as_str())
        .collect();
    if over == Some("PodCompleted") {
        set("Initialized", true, over, None);
    } else if over.is_some() && !late.is_empty() {
        set("Initialized", false, over, None);
    } else if late.is_empty() {
        set("Initialized", true, None, None);
    } else {
        let message = format!("containers with incomplete status: {}", names(late));
        set("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    }
    let sidecars = spec.and_then(|it| it.init_containers.as_ref()).into_iter().flatten();
    let sidecars = sidecars.zip(inits).filter(|(it, _)| is_sidecar(it)).map(|(_, it)| it);
    let unready: Vec<&str> =
        sidecars.chain(mains).filter(|it| !it.ready).map(|it| it.name.as_str()).collect();
    let (is_ready, reason, message) = if over.is_some() {
        (false, over, None)
    } else if unready.is_empty() && has_begun {
        (true, None, None)
    } else {
        let message = format!("containers with unready status: {}", names(unready));
        (false, Some("ContainersNotReady"), Some(message))
    };
    set("ContainersReady", is_ready, reason, message.clone());
    let gates: Vec<String> = spec
        .and_then(|it| it.readiness_gates.as_ref())
        .into_iter()
        .flatten()
        .map(|it| it.condition_type.clone())
        .collect();
    let old = pod.status.as_ref().and_then(|it| it.conditions.as_ref());
    let is_open = |gate: &String| {
        old.into_iter().flatten().any(|it| it.type_ == *gate && it.status == "True")
    };
    let closed: Vec<String> = gates.into_iter().filter(|it| !is_open(it)).collect();
    if is_ready && !closed.is_empty() {
        let words = |gate: &String| {
            format!("corresponding condition of pod readiness gate {gate:?} does not exist.")
        };
        let message: Vec<String> = closed.iter().map(words).collect();
        set("Ready", false, Some("ReadinessGatesNotReady"), Some(message.join(", ")));
    } else {
        set("Ready", is_ready, reason, message);
    }
}

/// Sets a condition; its time changes with its status only.
pub(crate) fn set(
    conditions: &mut Vec<PodCondition>,
    name: &str,
    is_met: bool,
    reason: Option<&str>,
    message: Option<String>,
    now: Timestamp,
) {
    let status = if is_met { "True" } else { "False" };
    let condition = PodCondition {
        type_: name.into(),
        status: status.into(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    match conditions.iter_mut().find(|it| it.type_ == name) {
        Some(old) => {
            let since = if old.status == status {
                old.last_transition_time.clone()
            } else {
                condition.last_transition_time.clone()
            };
            *old = PodCondition { last_transition_time: since, ..condition };
        }
        None => conditions.push(condition),
    }
}
