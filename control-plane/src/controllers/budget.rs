//! PodDisruptionBudgets: how many pods may be taken away on purpose.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{
        Key, Step, View,
        kinds::{BUDGETS, DEPLOYMENTS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS},
    },
    client::Kind,
    controllers::facts::{
        controller, is_active, later, ready_since, replicas, scaled, set_condition, until,
    },
    object::{self, at, list, number, text},
    runner::{Action, Controller},
    selector::Selector,
};

/// Plans the status of PodDisruptionBudgets.
#[derive(Clone, Copy, Debug)]
pub struct Budgets;

/// An eviction that was granted counts for this long, unless the pod goes.
const EVICTION_S: i64 = 120;

impl Controller for Budgets {
    fn name(&self) -> &'static str {
        "controllermanager"
    }

    fn watches(&self) -> &'static [Kind] {
        &[BUDGETS, PODS, DEPLOYMENTS, REPLICA_SETS, REPLICATION_CONTROLLERS]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let both: Vec<&Value> =
            [step.old.as_deref(), step.new.as_deref()].into_iter().flatten().collect();
        if step.kind == BUDGETS {
            return both.into_iter().map(|budget| Key::of(BUDGETS, budget)).collect();
        }
        if step.kind != PODS {
            let sizes: Vec<i64> = both.iter().map(|owner| replicas(owner)).collect();
            if sizes.len() == 2 && sizes[0] == sizes[1] {
                return Vec::new();
            }
        }
        let namespace = both.first().map_or("", |object| object::namespace(object));
        let budgets = view
            .inside(BUDGETS, namespace)
            .filter(|budget| step.kind != PODS || both.iter().any(|pod| selects(budget, pod)));
        budgets.map(|budget| Key::of(BUDGETS, budget)).collect()
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let Some(budget) = view.at(key) else { return Vec::new() };
        let pods: Vec<&Arc<Value>> = view
            .inside(PODS, &key.namespace)
            .filter(|pod| selects(budget, pod) && is_active(pod))
            .collect();
        let (disrupted, again) = disrupted(budget, &pods, now);
        let healthy = pods
            .iter()
            .filter(|pod| ready_since(pod).is_some() && disrupted.get(object::name(pod)).is_none());
        let healthy = count(healthy.count());
        let (expected, desired) = wish(budget, &pods, view);
        let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
        let mut conditions = list(budget, &["status", "conditions"]).to_vec();
        let (status, reason) =
            if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        let generation = number(budget, &["metadata", "generation"]).unwrap_or(0);
        let condition = json!({
            "type": "DisruptionAllowed", "status": status, "reason": reason, "message": "",
            "observedGeneration": generation,
        });
        set_condition(&mut conditions, condition, now);
        let mut changed = Value::clone(budget);
        changed["status"] = json!({
            "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
            "disruptionsAllowed": allowed, "observedGeneration": generation,
            "conditions": conditions,
        });
        if disrupted.as_object().is_some_and(|it| !it.is_empty()) {
            changed["status"]["disruptedPods"] = disrupted;
        }
        let mut actions = Vec::new();
        if changed != **budget {
            actions.push(Action::Status(BUDGETS, changed));
        }
        actions.extend(again);
        actions
    }
}

fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Whether a budget is about a pod; one without a selector is about none.
fn selects(budget: &Value, pod: &Value) -> bool {
    let selector = at(budget, &["spec", "selector"]).map(Selector::of);
    selector.is_some_and(|selector| selector.selects(pod))
}

/// Pods whose eviction was granted and that are still there, and when to look again.
fn disrupted(budget: &Value, pods: &[&Arc<Value>], now: Timestamp) -> (Value, Option<Action>) {
    let mut kept = json!({});
    let mut again: Option<Timestamp> = None;
    let known = at(budget, &["status", "disruptedPods"]).and_then(Value::as_object);
    for (name, since) in known.into_iter().flatten() {
        let end = since.as_str().and_then(|since| since.parse().ok());
        let end = later(end.unwrap_or(now), EVICTION_S);
        if end > now && pods.iter().any(|pod| object::name(pod) == name) {
            kept[name.as_str()] = since.clone();
            again = Some(again.map_or(end, |again| again.min(end)));
        }
    }
    (kept, again.map(|at| Action::Again(until(at, now))))
}

/// How many pods there should be, and how many of them healthy.
fn wish(budget: &Value, pods: &[&Arc<Value>], view: &View) -> (i64, i64) {
    let least = at(budget, &["spec", "minAvailable"]);
    if let Some(least) = least.and_then(Value::as_i64) {
        return (count(pods.len()), least);
    }
    let mut owners: Vec<&Arc<Value>> = Vec::new();
    let mut alone = 0;
    for pod in pods {
        let owner =
            |object: &Value| view.uid(controller(object).map_or("", |owner| text(owner, &["uid"])));
        match owner(pod) {
            None => alone += 1,
            Some(set) => {
                let owner = owner(set).unwrap_or(set);
                if !owners.iter().any(|known| object::uid(known) == object::uid(owner)) {
                    owners.push(owner);
                }
            }
        }
    }
    let expected = owners.iter().map(|owner| replicas(owner)).sum::<i64>() + alone;
    let desired = match least {
        Some(least) => scaled(Some(least), expected, true),
        None => expected - scaled(at(budget, &["spec", "maxUnavailable"]), expected, true),
    };
    (expected, desired.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::{fake::Cluster, replicas::Replicas};

    #[test]
    fn budgets_round_up_and_count_healthy_pods() {
        for (spec, expected) in [
            (json!({"minAvailable": 3}), (5, 3, 2)),
            (json!({"minAvailable": "50%"}), (5, 3, 2)),
            (json!({"maxUnavailable": "25%"}), (5, 3, 2)),
            (json!({"maxUnavailable": 0}), (5, 5, 0)),
            (json!({"minAvailable": "100%"}), (5, 5, 0)),
            (json!({"maxUnavailable": 9}), (5, 0, 5)),
        ] {
            let mut cluster = Cluster::new(1);
            let set = json!({
                "metadata": {"namespace": "default", "name": "web"},
                "spec": {
                    "replicas": 5, "selector": {"matchLabels": {"app": "web"}},
                    "template": {"metadata": {"labels": {"app": "web"}}, "spec": {}},
                },
            });
            cluster.create(REPLICA_SETS, set).unwrap();
            let mut spec = spec;
            spec["selector"] = json!({"matchLabels": {"app": "web"}});
            let budget =
                json!({"metadata": {"namespace": "default", "name": "b"}, "spec": spec.clone()});
            cluster.create(BUDGETS, budget).unwrap();
            cluster.converge(&[&Replicas, &Budgets], true);
            let status = cluster.get(BUDGETS, "default", "b").unwrap()["status"].clone();
            let number = |field: &str| status[field].as_i64().unwrap();
            let found = ("expectedPods", "desiredHealthy", "disruptionsAllowed");
            let found = (number(found.0), number(found.1), number(found.2));
            assert_eq!(found, expected, "{spec}");
            assert_eq!(number("currentHealthy"), 5);
        }
    }
}
