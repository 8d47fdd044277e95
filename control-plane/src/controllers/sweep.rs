//! Pods that nobody will ever end: their node is gone, they never had one, or there are too many.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{
        Key, Step, View,
        kinds::{NODES, PODS},
    },
    client::Kind,
    controllers::facts::{condition, created, is_over, later, moment, set_condition, until},
    object::{self, list, text},
    runner::{Action, Controller, act::Ask},
};

/// Plans the end of pods that are left over.
#[derive(Clone, Copy, Debug)]
pub struct Sweep;

/// A node that is gone may come back within this time.
const QUARANTINE_S: i64 = 40;
/// Pods that have come to their end, before the oldest go.
const OVER_MAX: usize = 12_500;
const REASON: &str = "DeletionByPodGC";

impl Controller for Sweep {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn watches(&self) -> &'static [Kind] {
        &[PODS, NODES]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        if step.kind == NODES {
            let is_change = step.old.is_none() != step.new.is_none();
            let node = step.old.as_deref().or(step.new.as_deref()).filter(|_| is_change);
            let pods = node.into_iter().flat_map(|node| view.on_node(object::name(node)));
            return pods.map(|pod| Key::of(PODS, pod)).collect();
        }
        let Some(pod) = step.new.as_deref() else { return Vec::new() };
        if is_over(pod) && !step.old.as_deref().is_some_and(is_over) {
            return vec![Key::of(PODS, pod), every()];
        }
        let is_left = is_left(pod, view) || condition(pod, "DisruptionTarget").is_some();
        if is_left { vec![Key::of(PODS, pod)] } else { Vec::new() }
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        if *key == every() {
            return surplus(view);
        }
        let Some(pod) = view.at(key) else { return Vec::new() };
        let node = text(pod, &["spec", "nodeName"]);
        let mark = condition(pod, "DisruptionTarget")
            .filter(|it| text(it, &["reason"]) == REASON && text(it, &["status"]) == "True");
        if !is_left(pod, view) {
            // The node is back.
            return mark.map(|_| unmark(pod)).into_iter().collect();
        }
        if node.is_empty() {
            return vec![end(pod)];
        }
        let Some(mark) = mark else {
            let mut conditions = list(pod, &["status", "conditions"]).to_vec();
            let wish = json!({
                "type": "DisruptionTarget", "status": "True", "reason": REASON,
                "message": "PodGC: node no longer exists",
            });
            set_condition(&mut conditions, wish, now);
            return vec![status(pod, conditions)];
        };
        let at = later(moment(mark, &["lastTransitionTime"]).unwrap_or(now), QUARANTINE_S);
        if at > now { vec![Action::Again(until(at, now))] } else { vec![end(pod)] }
    }
}

/// The key that stands for all pods that are over.
fn every() -> Key {
    Key::new(PODS, "", "")
}

fn is_left(pod: &Value, view: &View) -> bool {
    match text(pod, &["spec", "nodeName"]) {
        "" => object::is_terminating(pod),
        node => view.get(NODES, "", node).is_none(),
    }
}

fn status(pod: &Value, conditions: Vec<Value>) -> Action {
    let mut changed = pod.clone();
    changed["status"]["conditions"] = conditions.into();
    Action::Status(PODS, changed)
}

fn unmark(pod: &Value) -> Action {
    let mut conditions = list(pod, &["status", "conditions"]).to_vec();
    conditions.retain(|it| text(it, &["type"]) != "DisruptionTarget");
    status(pod, conditions)
}

fn end(pod: &Value) -> Action {
    Action::Delete {
        key: Key::of(PODS, pod),
        uid: object::uid(pod).to_owned(),
        deletion: Ask { grace_s: Some(0), ..Ask::default() },
        owner: None,
    }
}

fn surplus(view: &View) -> Vec<Action> {
    let mut over: Vec<_> =
        view.all(PODS).filter(|pod| is_over(pod) && !object::is_terminating(pod)).collect();
    let surplus = over.len().saturating_sub(OVER_MAX);
    if surplus == 0 {
        return Vec::new();
    }
    over.sort_by_key(|pod| created(pod));
    over.into_iter().take(surplus).map(|pod| end(pod)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fake::Cluster;

    #[test]
    fn pods_of_a_node_that_is_gone_go_after_a_while() {
        let mut cluster = Cluster::new(1);
        for name in ["one", "two"] {
            let pod = json!({
                "metadata": {"namespace": "default", "name": name}, "spec": {"nodeName": "a"},
            });
            cluster.create(PODS, pod).unwrap();
        }
        cluster.converge(&[&Sweep], false);
        assert_eq!(cluster.all(PODS).count(), 2);
        cluster.pass(20);
        let key = Key::new(NODES, "", "a");
        cluster.create(NODES, json!({"metadata": {"name": "a"}})).unwrap();
        cluster.converge(&[&Sweep], false);
        cluster.delete(&key, &crate::client::Deletion::default()).unwrap();
        cluster.converge(&[&Sweep], false);
        cluster.pass(30);
        cluster.converge(&[&Sweep], false);
        assert_eq!(cluster.all(PODS).count(), 2, "the time counts anew");
        cluster.pass(11);
        cluster.converge(&[&Sweep], false);
        assert_eq!(cluster.all(PODS).count(), 0);
    }
}
