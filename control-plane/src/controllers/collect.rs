//! The garbage collector: what owners leave behind when they go.

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    cache::{Key, Step, View, kinds},
    client::{Kind, Propagation},
    object::{self, at, list, text},
    runner::{Action, Controller, act::Ask},
};

/// Plans what owners and dependents ask of each other.
#[derive(Clone, Copy, Debug)]
pub struct Collector;

const NAME: &str = "garbage-collector-controller";
const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Kinds whose objects own others, or are owned.
pub const KINDS: &[Kind] = &[
    kinds::PODS,
    kinds::NODES,
    kinds::SERVICES,
    kinds::ENDPOINTS,
    kinds::NAMESPACES,
    kinds::CONFIG_MAPS,
    kinds::SECRETS,
    kinds::SERVICE_ACCOUNTS,
    kinds::REPLICATION_CONTROLLERS,
    kinds::DEPLOYMENTS,
    kinds::REPLICA_SETS,
    kinds::SLICES,
    kinds::LEASES,
    kinds::BUDGETS,
];

impl Controller for Collector {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        KINDS
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let mut keys = Vec::new();
        let objects = [step.old.as_deref(), step.new.as_deref()].into_iter().flatten();
        for object in objects {
            let owners = list(object, &["metadata", "ownerReferences"]);
            if !owners.is_empty() {
                keys.push(Key::of(step.kind, object));
            }
            // An owner that ends in the foreground waits for its dependents.
            for owner in owners {
                let owner = view.uid(text(owner, &["uid"]));
                let kind = owner.and_then(|it| kind_of(it));
                let waiting = owner.filter(|owner| object::is_terminating(owner));
                keys.extend(waiting.zip(kind).map(|(owner, kind)| Key::of(kind, owner)));
            }
        }
        let ends = step.new.as_deref().is_some_and(object::is_terminating);
        if ends {
            keys.extend(step.new.as_deref().map(|object| Key::of(step.kind, object)));
        }
        if let (Some(old), true) = (&step.old, ends || step.new.is_none()) {
            keys.extend(view.dependents(object::uid(old)).cloned());
        }
        keys
    }

    fn plan(&self, key: &Key, view: &View, _now: Timestamp) -> Vec<Action> {
        let Some(object) = view.at(key) else { return Vec::new() };
        if object::is_terminating(object) {
            return end(key, object, view);
        }
        dependent(key, object, view)
    }

    fn workers(&self) -> usize {
        20
    }
}

fn kind_of(object: &Value) -> Option<Kind> {
    kinds::find(text(object, &["apiVersion"]), text(object, &["kind"]))
}

fn has_finalizer(object: &Value, name: &str) -> bool {
    list(object, &["metadata", "finalizers"]).iter().any(|it| it.as_str() == Some(name))
}

fn without_finalizer(object: &Value, name: &str) -> Value {
    let mut changed = object.clone();
    let metadata = object::map(&mut changed, &["metadata"]);
    if let Some(Value::Array(finalizers)) = metadata.get_mut("finalizers") {
        finalizers.retain(|it| it.as_str() != Some(name));
    }
    changed
}

/// What an owner's end asks for.
fn end(key: &Key, owner: &Value, view: &View) -> Vec<Action> {
    let uid = object::uid(owner);
    let dependents = || view.dependents(uid).filter_map(|key| Some((key, view.at(key)?)));
    if has_finalizer(owner, ORPHAN) {
        let mut actions: Vec<Action> = dependents()
            .map(|(key, object)| {
                Action::Update(key.kind, crate::controllers::facts::release(object, uid))
            })
            .collect();
        if actions.is_empty() {
            actions.push(Action::Update(key.kind, without_finalizer(owner, ORPHAN)));
        }
        return actions;
    }
    if !has_finalizer(owner, FOREGROUND) {
        return Vec::new();
    }
    let is_blocking = |object: &Value| {
        list(object, &["metadata", "ownerReferences"]).iter().any(|it| {
            text(it, &["uid"]) == uid
                && it.get("blockOwnerDeletion").and_then(Value::as_bool) == Some(true)
        })
    };
    let blocking: Vec<(&Key, &Value)> = dependents()
        .filter(|(_, object)| is_blocking(object))
        .map(|(key, object)| (key, &**object))
        .collect();
    if blocking.is_empty() {
        return vec![Action::Update(key.kind, without_finalizer(owner, FOREGROUND))];
    }
    let alive = blocking.into_iter().filter(|(_, object)| !object::is_terminating(object));
    alive.flat_map(|(key, object)| dependent(key, object, view)).collect()
}

/// What becomes of an object, given its owners.
fn dependent(key: &Key, object: &Value, view: &View) -> Vec<Action> {
    let owners = list(object, &["metadata", "ownerReferences"]);
    if owners.is_empty() {
        return Vec::new();
    }
    let (mut solid, mut waiting, mut dangling) = (0, 0, Vec::new());
    for owner in owners {
        let uid = text(owner, &["uid"]);
        let kind = kinds::find(text(owner, &["apiVersion"]), text(owner, &["kind"]));
        match view.uid(uid) {
            // We cannot know of owners of kinds that we do not follow.
            None if kind.is_none_or(|kind| !KINDS.contains(&kind)) => solid += 1,
            None => {
                let is_of_cluster =
                    kind.is_some_and(|kind| [kinds::NODES, kinds::NAMESPACES].contains(&kind));
                let namespace = if is_of_cluster { "" } else { object::namespace(object) };
                let kind = kind.unwrap_or(key.kind);
                let owner = Key::new(kind, namespace, text(owner, &["name"]));
                dangling.push((owner, uid.to_owned()));
            }
            Some(owner) if object::is_terminating(owner) && has_finalizer(owner, FOREGROUND) => {
                waiting += 1;
            }
            Some(_) => solid += 1,
        }
    }
    if solid > 0 {
        if dangling.is_empty() {
            return Vec::new();
        }
        let mut changed = object.clone();
        for (_, uid) in &dangling {
            changed = crate::controllers::facts::release(&changed, uid);
        }
        return vec![Action::IfGone(dangling, Box::new(Action::Update(key.kind, changed)))];
    }
    let propagation = if has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if waiting > 0 && view.dependents(object::uid(object)).next().is_some() {
        Propagation::Foreground
    } else {
        Propagation::Background
    };
    let is_clean = at(object, &["metadata", "deletionTimestamp"]).is_none();
    let delete = Action::Delete {
        key: key.clone(),
        uid: object::uid(object).to_owned(),
        deletion: Ask { grace_s: None, propagation },
        owner: None,
    };
    if is_clean { vec![Action::IfGone(dangling, Box::new(delete))] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        client::Deletion,
        controllers::{deployment::Deployments, fake::Cluster, replicas::Replicas},
    };

    const ALL: [&dyn Controller; 3] = [&Collector, &Deployments, &Replicas];

    fn web() -> (Cluster, Key) {
        let mut cluster = Cluster::new(3);
        let deployment = json!({
            "metadata": {"namespace": "default", "name": "web"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
            },
        });
        cluster.create(kinds::DEPLOYMENTS, deployment).unwrap();
        cluster.converge(&ALL, true);
        assert_eq!(cluster.all(kinds::PODS).count(), 2);
        (cluster, Key::new(kinds::DEPLOYMENTS, "default", "web"))
    }

    fn delete(propagation: Propagation) -> Deletion {
        Deletion { propagation, ..Deletion::default() }
    }

    #[test]
    fn dependents_follow_their_owner() {
        let (mut cluster, key) = web();
        cluster.delete(&key, &delete(Propagation::Background)).unwrap();
        cluster.converge(&ALL, true);
        assert_eq!(cluster.objects.len(), 0);
    }

    #[test]
    fn an_owner_waits_in_the_foreground() {
        let (mut cluster, key) = web();
        cluster.delete(&key, &delete(Propagation::Foreground)).unwrap();
        for _ in 0..5 {
            for action in cluster.plans(&ALL) {
                cluster.apply(&action);
            }
        }
        assert!(cluster.objects.contains_key(&key), "pods still end");
        cluster.converge(&ALL, true);
        assert_eq!(cluster.objects.len(), 0);
    }

    #[test]
    fn orphans_stay() {
        let (mut cluster, key) = web();
        cluster.delete(&key, &delete(Propagation::Orphan)).unwrap();
        cluster.converge(&ALL, true);
        assert!(!cluster.objects.contains_key(&key));
        assert_eq!(cluster.all(kinds::PODS).count(), 2);
        let set = cluster.all(kinds::REPLICA_SETS).next().unwrap();
        assert!(list(set, &["metadata", "ownerReferences"]).is_empty());
    }
}
