//! What a simulated pod does next: a pure function of the pod and of time.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    object::{self, list, number, text},
    runner::time,
};

/// Pods with this annotation end by themselves, with success, after so many seconds of running.
pub const RUN_SECONDS: &str = "hashplane.dev/simulated-run-seconds";
/// Images with this tag cannot be pulled.
pub const BROKEN_TAG: &str = "broken";

/// How long pods take, and how many fail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// From bound to running.
    pub start: Duration,
    /// From running to ready.
    pub ready: Duration,
    /// From asked to end to gone, at most the grace period.
    pub stop: Duration,
    /// How many of a hundred pods crash again and again instead of becoming ready.
    pub crash_percent: u8,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing by itself.
    Nothing,
    /// Nothing for this long.
    Wait(Duration),
    /// This is its new status.
    Status(Value),
    /// It is gone from its node.
    Delete,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Bound and not started.
    Pending,
    /// Started and not ready.
    Running,
    /// Ready.
    Ready,
    /// Over.
    Ended,
    /// Asked to end.
    Stopping,
}

/// Where a pod is in its life.
pub fn stage(pod: &Value) -> Stage {
    if object::is_terminating(pod) {
        return Stage::Stopping;
    }
    let is_ready = list(pod, &["status", "conditions"])
        .iter()
        .any(|it| text(it, &["type"]) == "Ready" && text(it, &["status"]) == "True");
    match text(pod, &["status", "phase"]) {
        "Running" if is_ready => Stage::Ready,
        "Running" => Stage::Running,
        "Succeeded" | "Failed" => Stage::Ended,
        _ => Stage::Pending,
    }
}

/// The next step of a pod that has been in its stage for `age`.
pub fn next(pod: &Value, address: &str, age: Duration, pace: &Pace, now: Timestamp) -> Next {
    let after = |limit: Duration| limit.checked_sub(age).filter(|rest| !rest.is_zero());
    match stage(pod) {
        Stage::Stopping => {
            let grace = number(pod, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            after(pace.stop.min(grace)).map_or(Next::Delete, Next::Wait)
        }
        Stage::Pending if address.is_empty() => refused(pod),
        Stage::Pending if is_broken(pod) => unpullable(pod, now),
        Stage::Pending => {
            let is_ready = pace.ready.is_zero() && !crashes(pod, pace);
            let status = || Next::Status(running(pod, address, is_ready, now));
            after(pace.start).map_or_else(status, Next::Wait)
        }
        Stage::Running if crashes(pod, pace) => crash(pod, age, now),
        Stage::Running => {
            let status = || Next::Status(running(pod, address, true, now));
            after(pace.ready).map_or_else(status, Next::Wait)
        }
        Stage::Ready => {
            let seconds = text(pod, &["metadata", "annotations", RUN_SECONDS]).parse().ok();
            let Some(seconds) = seconds else { return Next::Nothing };
            let status = || Next::Status(ended(pod, now));
            after(Duration::from_secs(seconds)).map_or_else(status, Next::Wait)
        }
        Stage::Ended => Next::Nothing,
    }
}

fn is_broken(pod: &Value) -> bool {
    let suffix = format!(":{BROKEN_TAG}");
    list(pod, &["spec", "containers"]).iter().any(|it| text(it, &["image"]).ends_with(&suffix))
}

/// The same pod always has the same fate.
fn crashes(pod: &Value, pace: &Pace) -> bool {
    let fate = object::uid(pod)
        .bytes()
        .fold(7_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    (fate >> 8) % 100 < u32::from(pace.crash_percent)
}

/// A status with conditions; who is where stays as it was since then.
fn status(pod: &Value, phase: &str, ready: bool, reason: &str, now: Timestamp) -> Value {
    let mut status = pod.get("status").cloned().unwrap_or_else(|| json!({}));
    let mut conditions = list(pod, &["status", "conditions"]).to_vec();
    let is = |yes: bool| if yes { "True" } else { "False" };
    let wishes = [
        ("PodReadyToStartContainers", phase != "Pending"),
        ("Initialized", true),
        ("Ready", ready),
        ("ContainersReady", ready),
    ];
    for (kind, wish) in wishes {
        let mut condition = json!({
            "type": kind, "status": is(wish), "lastProbeTime": null, "lastTransitionTime": time(now),
        });
        if !wish && !reason.is_empty() {
            condition["reason"] = reason.into();
        }
        match conditions.iter_mut().find(|it| text(it, &["type"]) == kind) {
            Some(old) if text(old, &["status"]) == is(wish) => {}
            Some(old) => *old = condition,
            None => conditions.push(condition),
        }
    }
    status["phase"] = phase.into();
    status["conditions"] = conditions.into();
    if let Some(generation) = number(pod, &["metadata", "generation"]) {
        status["observedGeneration"] = generation.into();
    }
    if text(&status, &["startTime"]).is_empty() {
        status["startTime"] = time(now);
    }
    status
}

/// One status per container, in the order of the spec.
fn containers(pod: &Value, ready: bool, state: &dyn Fn(i64) -> Value) -> Value {
    let known = list(pod, &["status", "containerStatuses"]);
    let all: Vec<Value> = list(pod, &["spec", "containers"])
        .iter()
        .map(|container| {
            let name = text(container, &["name"]);
            let old = known.iter().find(|it| text(it, &["name"]) == name);
            let restarts = old.and_then(|it| number(it, &["restartCount"])).unwrap_or(0);
            json!({
                "name": name, "image": text(container, &["image"]), "imageID": "", "ready": ready,
                "started": ready, "restartCount": restarts, "state": state(restarts),
                "containerID": format!("simulated://{}/{name}/{restarts}", object::uid(pod)),
            })
        })
        .collect();
    all.into()
}

fn running(pod: &Value, address: &str, ready: bool, now: Timestamp) -> Value {
    let mut status = status(pod, "Running", ready, "ContainersNotReady", now);
    status["podIP"] = address.into();
    status["podIPs"] = json!([{"ip": address}]);
    status["containerStatuses"] =
        containers(pod, ready, &|_| json!({"running": {"startedAt": time(now)}}));
    status
}

fn ended(pod: &Value, now: Timestamp) -> Value {
    let mut status = status(pod, "Succeeded", false, "PodCompleted", now);
    let over = json!({"terminated": {
        "exitCode": 0, "reason": "Completed", "startedAt": status["startTime"], "finishedAt": time(now),
    }});
    status["containerStatuses"] = containers(pod, false, &|_| over.clone());
    status
}

/// Once: an image that is not there does not come by waiting.
fn unpullable(pod: &Value, now: Timestamp) -> Next {
    if !list(pod, &["status", "containerStatuses"]).is_empty() {
        return Next::Nothing;
    }
    let mut status = status(pod, "Pending", false, "ContainersNotReady", now);
    let waiting = json!({"waiting": {
        "reason": "ImagePullBackOff", "message": "simulated: no image has this tag",
    }});
    status["containerStatuses"] = containers(pod, false, &|_| waiting.clone());
    Next::Status(status)
}

/// The node has no address left.
fn refused(pod: &Value) -> Next {
    let mut status = pod.get("status").cloned().unwrap_or_else(|| json!({}));
    status["phase"] = "Failed".into();
    status["reason"] = "OutOfpods".into();
    status["message"] = "simulated: the node has no address left".into();
    Next::Status(status)
}

/// A crash after each back-off of 10, 20, 40 … 300 seconds.
fn crash(pod: &Value, age: Duration, now: Timestamp) -> Next {
    let first = list(pod, &["status", "containerStatuses"]).first();
    let restarts = first.and_then(|it| number(it, &["restartCount"])).unwrap_or(0);
    let passed = |crashes: i64| -> u64 { (0..crashes).map(backoff_s).sum() };
    let due = Duration::from_secs(passed(restarts));
    if let Some(rest) = due.checked_sub(age).filter(|rest| !rest.is_zero()) {
        return Next::Wait(rest);
    }
    let mut status = status(pod, "Running", false, "ContainersNotReady", now);
    let waiting = json!({"waiting": {
        "reason": "CrashLoopBackOff",
        "message": format!("back-off {}s restarting failed container", backoff_s(restarts)),
    }});
    status["containerStatuses"] = containers(pod, false, &|_| waiting.clone());
    for container in status["containerStatuses"].as_array_mut().into_iter().flatten() {
        container["restartCount"] = (restarts + 1).into();
        container["lastState"] = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    }
    Next::Status(status)
}

fn backoff_s(crash: i64) -> u64 {
    let doublings = u32::try_from(crash.clamp(0, 5)).unwrap_or(5);
    (10 * 2_u64.pow(doublings)).min(300)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::ZERO;

    fn pod(image: &str) -> Value {
        json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
            "spec": {"nodeName": "a", "containers": [{"name": "web", "image": image}]},
            "status": {"phase": "Pending"},
        })
    }

    /// Lets a pod live until nothing happens by itself; its stages.
    fn live(pod: &mut Value, pace: &Pace, steps: usize) -> Vec<Stage> {
        let mut stages = vec![stage(pod)];
        let mut age = AT;
        for _ in 0..steps {
            match next(pod, "10.128.0.2", age, pace, Timestamp::UNIX_EPOCH) {
                Next::Nothing | Next::Delete => break,
                Next::Wait(rest) => age += rest,
                Next::Status(status) => {
                    let before = stage(pod);
                    pod["status"] = status;
                    if stage(pod) != before {
                        age = AT;
                        stages.push(stage(pod));
                    }
                }
            }
        }
        stages
    }

    #[test]
    fn a_pod_starts_becomes_ready_and_stays() {
        let mut pod = pod("web:1");
        let second = Duration::from_secs(1);
        let pace = Pace { start: second, ready: second, ..Pace::default() };
        assert_eq!(next(&pod, "10.128.0.2", AT, &pace, Timestamp::now()), Next::Wait(second));
        let stages = live(&mut pod, &pace, 100);
        assert_eq!(stages, [Stage::Pending, Stage::Running, Stage::Ready]);
        assert_eq!(pod["status"]["podIP"], "10.128.0.2");
        assert_eq!(pod["status"]["containerStatuses"][0]["ready"], true);
    }

    #[test]
    fn an_image_with_the_broken_tag_never_runs() {
        let mut pod = pod("web:broken");
        assert_eq!(live(&mut pod, &Pace::default(), 100), [Stage::Pending]);
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        assert_eq!(waiting, "ImagePullBackOff");
    }

    #[test]
    fn who_crashes_crashes_ever_more_slowly() {
        let mut pod = pod("web:1");
        let pace = Pace { crash_percent: 100, ..Pace::default() };
        assert_eq!(live(&mut pod, &pace, 12), [Stage::Pending, Stage::Running]);
        let restarts = number(&pod["status"]["containerStatuses"][0], &["restartCount"]);
        assert!(restarts.is_some_and(|it| it > 3), "{restarts:?}");
        let waits: Vec<u64> = (0..7).map(backoff_s).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn who_is_asked_to_end_is_gone_after_the_shorter_of_pace_and_grace() {
        let mut pod = pod("web:1");
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = 1.into();
        let pace = Pace { stop: Duration::from_secs(5), ..Pace::default() };
        let second = Duration::from_secs(1);
        assert_eq!(next(&pod, "", AT, &pace, Timestamp::now()), Next::Wait(second));
        assert_eq!(next(&pod, "", second, &pace, Timestamp::now()), Next::Delete);
    }

    #[test]
    fn who_is_to_run_for_a_while_succeeds() {
        let mut pod = pod("job:1");
        pod["metadata"]["annotations"] = json!({RUN_SECONDS: "3"});
        let stages = live(&mut pod, &Pace::default(), 100);
        assert_eq!(stages, [Stage::Pending, Stage::Ready, Stage::Ended]);
        assert_eq!(pod["status"]["phase"], "Succeeded");
    }
}
