//! Pods: how many of their containers are ready, and what they are at.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Columns, NAME, NONE, age, age_of, column, containers, or_none, wide};
use crate::object::{self, at, list, number, text};

/// Columns of pods.
pub const POD: Columns = Columns {
    definitions: &[
        NAME,
        column("Ready", "string", "Containers that are ready, of all."),
        column("Status", "string", "What the pod is at."),
        column("Restarts", "string", "Restarts of its containers, and when the last one was."),
        AGE,
        wide("IP", "string", "Its address."),
        wide("Node", "string", "The node that it is on."),
        wide("Nominated Node", "string", "The node that is being cleared for it."),
        wide("Readiness Gates", "string", "Conditions beyond containers that hold, of all."),
    ],
    row: pod,
};

/// Columns of templates of pods.
pub const TEMPLATE: Columns = Columns {
    definitions: &[
        NAME,
        column("Containers", "string", "Names of its containers."),
        column("Images", "string", "Images of its containers."),
        column("Pod Labels", "string", "Labels of its pods."),
    ],
    row: |object, _now| {
        let spec = at(object, &["template", "spec"]);
        vec![
            json!(object::name(object)),
            json!(containers(spec, "name")),
            json!(containers(spec, "image")),
            json!(super::labels(at(object, &["template", "metadata", "labels"]))),
        ]
    },
};

/// What containers add up to.
#[derive(Default)]
struct Sum {
    total: usize,
    ready: usize,
    restarts: i64,
    last: Option<Timestamp>,
    reason: String,
}

impl Sum {
    fn restarted(&mut self, status: &Value) {
        self.restarts += number(status, &["restartCount"]).unwrap_or(0);
        let end = text(status, &["lastState", "terminated", "finishedAt"]).parse().ok();
        self.last = self.last.max(end);
    }
}

fn is_sidecar(pod: &Value, name: &str) -> bool {
    let all = list(pod, &["spec", "initContainers"]);
    all.iter().any(|it| text(it, &["name"]) == name && text(it, &["restartPolicy"]) == "Always")
}

fn has_condition(pod: &Value, kind: &str) -> bool {
    let all = list(pod, &["status", "conditions"]);
    all.iter().any(|it| text(it, &["type"]) == kind && text(it, &["status"]) == "True")
}

/// `Signal:9`, `ExitCode:1`.
fn exit(terminated: &Value) -> String {
    match number(terminated, &["signal"]).unwrap_or(0) {
        0 => format!("ExitCode:{}", number(terminated, &["exitCode"]).unwrap_or(0)),
        signal => format!("Signal:{signal}"),
    }
}

/// The first init container that is not done, if there is one, in words.
fn initializing(pod: &Value, sum: &mut Sum, sidecars: &mut Sum) -> Option<String> {
    let all = list(pod, &["spec", "initContainers"]).len();
    for (index, status) in list(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        sum.restarted(status);
        let is_sidecar = is_sidecar(pod, text(status, &["name"]));
        if is_sidecar {
            sidecars.restarted(status);
        }
        let terminated = at(status, &["state", "terminated"]);
        let waiting = text(status, &["state", "waiting", "reason"]);
        if terminated.is_some_and(|it| number(it, &["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if is_sidecar && at(status, &["started"]) == Some(&json!(true)) {
            sum.ready += usize::from(at(status, &["ready"]) == Some(&json!(true)));
            continue;
        }
        return Some(match terminated {
            Some(end) => match text(end, &["reason"]) {
                "" => format!("Init:{}", exit(end)),
                reason => format!("Init:{reason}"),
            },
            None if !waiting.is_empty() && waiting != "PodInitializing" => {
                format!("Init:{waiting}")
            }
            None => format!("Init:{index}/{all}"),
        });
    }
    None
}

/// Adds the containers; what they say of the pod.
fn running(pod: &Value, sum: &mut Sum) {
    let mut has_running = false;
    for status in list(pod, &["status", "containerStatuses"]).iter().rev() {
        sum.restarted(status);
        let waiting = text(status, &["state", "waiting", "reason"]);
        let terminated = at(status, &["state", "terminated"]);
        let ended = terminated.map_or("", |it| text(it, &["reason"]));
        let is_ready = at(status, &["ready"]) == Some(&json!(true));
        if !waiting.is_empty() {
            waiting.clone_into(&mut sum.reason);
        } else if !ended.is_empty() {
            ended.clone_into(&mut sum.reason);
        } else if let Some(end) = terminated {
            sum.reason = exit(end);
        } else if is_ready && at(status, &["state", "running"]).is_some() {
            has_running = true;
            sum.ready += 1;
        }
    }
    if sum.reason == "Completed" && has_running {
        let word = if has_condition(pod, "Ready") { "Running" } else { "NotReady" };
        word.clone_into(&mut sum.reason);
    }
}

fn sum(pod: &Value) -> Sum {
    let phase = text(pod, &["status", "phase"]);
    let mut sum = Sum::default();
    let inits = list(pod, &["spec", "initContainers"]).iter();
    let sidecars = inits.filter(|it| text(it, &["restartPolicy"]) == "Always").count();
    sum.total = list(pod, &["spec", "containers"]).len() + sidecars;
    let why = text(pod, &["status", "reason"]);
    (if why.is_empty() { phase } else { why }).clone_into(&mut sum.reason);
    let gated = |it: &&Value| {
        text(it, &["type"]) == "PodScheduled" && text(it, &["reason"]) == "SchedulingGated"
    };
    if list(pod, &["status", "conditions"]).iter().any(|it| gated(&it)) {
        "SchedulingGated".clone_into(&mut sum.reason);
    }
    let mut sidecars = Sum::default();
    let initializing = initializing(pod, &mut sum, &mut sidecars);
    let is_initializing = initializing.is_some();
    if let Some(words) = initializing {
        sum.reason = words;
    }
    if !is_initializing || has_condition(pod, "Initialized") {
        (sum.restarts, sum.last) = (sidecars.restarts, sidecars.last);
        running(pod, &mut sum);
    }
    if object::is_terminating(pod) {
        if why == "NodeLost" {
            "Unknown".clone_into(&mut sum.reason);
        } else if phase != "Succeeded" && phase != "Failed" {
            "Terminating".clone_into(&mut sum.reason);
        }
    }
    sum
}

fn pod(pod: &Value, now: Timestamp) -> Vec<Value> {
    let sum = sum(pod);
    let restarts = match sum.last {
        Some(last) if sum.restarts > 0 => {
            let ago = age::duration(now.as_second() - last.as_second());
            format!("{} ({ago} ago)", sum.restarts)
        }
        _ => sum.restarts.to_string(),
    };
    let gates = list(pod, &["spec", "readinessGates"]);
    let gates = if gates.is_empty() {
        NONE.to_owned()
    } else {
        let holds = |it: &&Value| has_condition(pod, text(it, &["conditionType"]));
        format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
    };
    let first = list(pod, &["status", "podIPs"]).first().map_or("", |it| text(it, &["ip"]));
    vec![
        json!(object::name(pod)),
        json!(format!("{}/{}", sum.ready, sum.total)),
        json!(sum.reason),
        json!(restarts),
        age_of(pod, now),
        json!(or_none(first)),
        json!(or_none(text(pod, &["spec", "nodeName"]))),
        json!(or_none(text(pod, &["status", "nominatedNodeName"]))),
        json!(gates),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pod: &Value) -> (String, String, String) {
        let row = (POD.row)(pod, "2026-01-01T01:00:00Z".parse().expect("a time"));
        assert_eq!(row.len(), POD.definitions.len());
        let text = |at: usize| row[at].as_str().unwrap_or_default().to_owned();
        (text(1), text(2), text(3))
    }

    fn pod(status: &Value) -> Value {
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
                "containers": [{"name": "a"}, {"name": "b"}],
            },
            "status": status,
        })
    }

    #[test]
    fn the_status_is_that_of_the_first_thing_that_is_not_well() {
        let run = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let ok = json!({"terminated": {"exitCode": 0, "reason": "Completed"}});
        let init = |state: &Value| {
            json!([{"name": "i", "state": state},
                {"name": "s", "state": run, "started": true, "ready": true, "restartCount": 1}])
        };
        let cases = [
            (json!({"phase": "Pending"}), "0/3", "Pending", "0"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "PodInitializing"}}}]}),
                "0/3",
                "Init:0/2",
                "0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "restartCount": 2, "state": {"terminated": {"exitCode": 3}}}]}),
                "0/3",
                "Init:ExitCode:3",
                "2",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
                "0/3",
                "Init:ImagePullBackOff",
                "0",
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": init(&ok), "containerStatuses": [
                    {"name": "a", "ready": true, "state": run, "restartCount": 0},
                    {"name": "b", "ready": false, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                     "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:55:00Z"}}},
                ]}),
                "2/3",
                "CrashLoopBackOff",
                "5 (5m ago)",
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": init(&ok), "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [
                    {"name": "a", "ready": true, "state": run}, {"name": "b", "state": ok},
                ]}),
                "2/3",
                "Running",
                "1",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/3", "Evicted", "0"),
        ];
        for (status, ready, reason, restarts) in cases {
            let expected = (ready.to_owned(), reason.to_owned(), restarts.to_owned());
            assert_eq!(shown(&pod(&status)), expected, "{status}");
        }
        let mut leaving = pod(&json!({"phase": "Running"}));
        leaving["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(shown(&leaving).1, "Terminating");
    }
}
