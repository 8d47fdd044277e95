//! ReplicaSets and ReplicationControllers: as many pods of a template as are wished.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::facts::{
    self, Available, adopt, annotation, availability, control, created, is_active, is_controlled,
    ready_since, release, replicas,
};
use crate::{
    cache::{
        Key, Step, View,
        kinds::{PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, find},
    },
    client::Kind,
    object::{self, at, list, number, text},
    runner::{
        Action, Controller,
        act::{Ask, reference},
    },
    selector::Selector,
};

/// Plans ReplicaSets and ReplicationControllers.
#[derive(Clone, Copy, Debug)]
pub struct Replicas;

const NAME: &str = "replicaset-controller";

/// Pods that one plan creates or deletes at most.
const BURST_MAX: usize = 500;

/// Annotation that says how costly the deletion of a pod is.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

impl Controller for Replicas {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[REPLICA_SETS, REPLICATION_CONTROLLERS, PODS]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let both = [step.old.as_deref(), step.new.as_deref()];
        if step.kind != PODS {
            return both.into_iter().flatten().map(|set| Key::of(step.kind, set)).collect();
        }
        let mut keys = Vec::new();
        for pod in both.into_iter().flatten() {
            match facts::controller(pod) {
                Some(owner) => {
                    let kind = find(text(owner, &["apiVersion"]), text(owner, &["kind"]));
                    let kind = kind.filter(|kind| self.watches().contains(kind));
                    let name = text(owner, &["name"]);
                    keys.extend(kind.map(|kind| Key::new(kind, object::namespace(pod), name)));
                }
                None if is_active(pod) => {
                    for kind in [REPLICA_SETS, REPLICATION_CONTROLLERS] {
                        let sets = view.inside(kind, object::namespace(pod));
                        let sets = sets.filter(|set| selector(set).selects(pod));
                        keys.extend(sets.map(|set| Key::of(kind, set)));
                    }
                }
                None => {}
            }
        }
        keys
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let Some(set) = view.at(key) else { return Vec::new() };
        let (mut actions, pods) = claim(set, view);
        let failure = view.failure(NAME, key);
        actions.extend(status(key.kind, set, &pods, failure, now));
        if !object::is_terminating(set) {
            actions.extend(count(set, &pods, view, now));
        }
        let min_ready_s = number(set, &["spec", "minReadySeconds"]).unwrap_or(0);
        let soon = pods.iter().filter_map(|pod| match availability(pod, min_ready_s, now) {
            Available::At(at) => Some(at),
            Available::Yes | Available::No => None,
        });
        actions.extend(soon.min().map(|at| Action::Again(facts::until(at, now))));
        actions
    }
}

/// What a set selects; a set that selects nothing in particular selects nothing.
fn selector(set: &Value) -> Selector {
    at(set, &["spec", "selector"]).map(Selector::of).unwrap_or_default()
}

/// The active pods of a set, and what to do so that they are its own.
fn claim(set: &Arc<Value>, view: &View) -> (Vec<Action>, Vec<Arc<Value>>) {
    let (uid, selector) = (object::uid(set), selector(set));
    let (mut actions, mut pods) = (Vec::new(), Vec::new());
    for pod in view.owned(PODS, uid).filter(|pod| is_controlled(pod, uid)) {
        if selector.selects(pod) {
            if is_active(pod) {
                pods.push(pod.clone());
            }
        } else if !object::is_terminating(pod) {
            actions.push(Action::Update(PODS, release(pod, uid)));
        }
    }
    if !object::is_terminating(set) && !selector.is_empty() {
        let orphans = view.orphans(PODS, object::namespace(set));
        for pod in orphans.filter(|pod| is_active(pod) && selector.selects(pod)) {
            actions.push(Action::Update(PODS, adopt(pod, set)));
            pods.push(pod.clone());
        }
    }
    (actions, pods)
}

/// What to do for the count of pods.
fn count(set: &Value, pods: &[Arc<Value>], view: &View, now: Timestamp) -> Vec<Action> {
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    if pods.len() < wanted {
        let missing = (wanted - pods.len()).min(BURST_MAX);
        let object = pod(set);
        let owner = Some(reference(set));
        let create = Action::Create { kind: PODS, object, owner };
        return vec![create; missing];
    }
    let surplus = (pods.len() - wanted).min(BURST_MAX);
    if surplus == 0 {
        return Vec::new();
    }
    let near = neighbours(set, view);
    let mut ranked: Vec<&Arc<Value>> = pods.iter().collect();
    ranked.sort_by_cached_key(|pod| (rank(pod, &near, now), object::name(pod).to_owned()));
    let delete = |pod: &Arc<Value>| Action::Delete {
        key: Key::of(PODS, pod),
        uid: object::uid(pod).to_owned(),
        deletion: Ask::default(),
        owner: Some(reference(set)),
    };
    ranked.into_iter().take(surplus).map(delete).collect()
}

/// A pod of a set's template.
fn pod(set: &Value) -> Value {
    let template = at(set, &["spec", "template"]).cloned().unwrap_or_default();
    let mut metadata = json!({
        "generateName": format!("{}-", object::name(set)),
        "namespace": object::namespace(set),
        "ownerReferences": [control(set)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = at(&template, &["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// How many active pods of the sets of one owner each node has.
fn neighbours(set: &Value, view: &View) -> BTreeMap<String, usize> {
    let mut sets = vec![object::uid(set).to_owned()];
    if let Some(owner) = facts::controller(set) {
        let siblings = view.owned(REPLICA_SETS, text(owner, &["uid"]));
        sets = siblings.map(|set| object::uid(set).to_owned()).collect();
    }
    let mut near = BTreeMap::new();
    for uid in &sets {
        for pod in view.owned(PODS, uid).filter(|pod| is_active(pod)) {
            *near.entry(text(pod, &["spec", "nodeName"]).to_owned()).or_insert(0) += 1;
        }
    }
    near
}

type Rank = (bool, u8, bool, i64, Reverse<usize>, u32, Reverse<i64>, Reverse<Timestamp>);

/// Pods of the lowest rank go first (`ActivePodsWithRanks` of upstream's `controller_utils.go`).
fn rank(pod: &Value, near: &BTreeMap<String, usize>, now: Timestamp) -> Rank {
    let node = text(pod, &["spec", "nodeName"]);
    let phase = match text(pod, &["status", "phase"]) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let ready = ready_since(pod);
    let restarts = list(pod, &["status", "containerStatuses"])
        .iter()
        .filter_map(|container| number(container, &["restartCount"]))
        .max()
        .unwrap_or(0);
    // Times of the same order count as equal, so that not always the newest goes.
    let bucket = |at: Timestamp| {
        let seconds = now.duration_since(at).as_secs().max(0).unsigned_abs();
        64 - seconds.leading_zeros()
    };
    (
        !node.is_empty(),
        phase,
        ready.is_some(),
        annotation(pod, DELETION_COST).parse().unwrap_or(0),
        Reverse(if ready.is_some() { near.get(node).copied().unwrap_or(0) } else { 0 }),
        ready.map_or(0, bucket),
        Reverse(restarts),
        Reverse(created(pod)),
    )
}

/// The status, if it has changed.
fn status(
    kind: Kind,
    set: &Arc<Value>,
    pods: &[Arc<Value>],
    failure: Option<&str>,
    now: Timestamp,
) -> Option<Action> {
    let min_ready_s = number(set, &["spec", "minReadySeconds"]).unwrap_or(0);
    let labels = at(set, &["spec", "template", "metadata", "labels"]);
    let template = labels.map(Selector::of).unwrap_or_default();
    let ready = pods.iter().filter(|pod| ready_since(pod).is_some()).count();
    let available = pods.iter().filter(|pod| availability(pod, min_ready_s, now) == Available::Yes);
    let labelled = pods.iter().filter(|pod| template.selects(pod)).count();
    let mut conditions = list(set, &["status", "conditions"]).to_vec();
    conditions.retain(|each| failure.is_some() || text(each, &["type"]) != "ReplicaFailure");
    if let Some(message) = failure {
        let wish = json!({
            "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message,
        });
        facts::set_condition(&mut conditions, wish, now);
    }
    let mut status = json!({"replicas": pods.len()});
    for (field, count) in [
        ("fullyLabeledReplicas", labelled),
        ("readyReplicas", ready),
        ("availableReplicas", available.count()),
    ] {
        if count > 0 {
            status[field] = count.into();
        }
    }
    if let Some(generation) = number(set, &["metadata", "generation"]) {
        status["observedGeneration"] = generation.into();
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    if set.get("status").map(facts::dense) == Some(facts::dense(&status)) {
        return None;
    }
    let mut changed = Value::clone(set);
    changed["status"] = status;
    Some(Action::Status(kind, changed))
}

#[cfg(test)]
mod tests;
