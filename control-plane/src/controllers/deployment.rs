//! Deployments: revisions as ReplicaSets, and how one takes over from another.

mod history;
mod roll;
mod scale;
mod state;
mod template;

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::roll::{allowance, new_size};
use super::facts::{
    self, adopt, annotation, control, created, dense, is_controlled, is_over, release, replicas,
};
use crate::{
    cache::{
        Key, Step, View,
        kinds::{CONFIG_MAPS, DEPLOYMENTS, PODS, REPLICA_SETS, SECRETS},
    },
    client::Kind,
    object::{self, at, number, text},
    runner::{Action, Controller, Report},
    selector::Selector,
};

/// Plans Deployments.
#[derive(Clone, Copy, Debug)]
pub struct Deployments;

const NAME: &str = "deployment-controller";

/// The label by which the pods of a revision differ from those of others.
pub const HASH: &str = "pod-template-hash";
/// The number of a revision.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// A Deployment with its ReplicaSets.
#[derive(Debug)]
struct Rollout<'a> {
    key: &'a Key,
    deployment: &'a Arc<Value>,
    /// The template that its pods should have now.
    template: Value,
    /// The ReplicaSet of the template.
    new: Option<Arc<Value>>,
    /// All others, oldest first.
    old: Vec<Arc<Value>>,
    view: &'a View,
    now: Timestamp,
}

impl Controller for Deployments {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[DEPLOYMENTS, REPLICA_SETS, PODS, CONFIG_MAPS, SECRETS]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let both = [step.old.as_deref(), step.new.as_deref()].into_iter().flatten();
        if step.kind == DEPLOYMENTS {
            return both.map(|deployment| Key::of(DEPLOYMENTS, deployment)).collect();
        }
        if step.kind == REPLICA_SETS {
            return both.flat_map(|set| deployments_of(set, view)).collect();
        }
        if step.kind == PODS {
            // Only `Recreate` waits for pods, and only for their end.
            let pods = both.filter(|pod| step.new.is_none() || is_over(pod));
            let sets = pods.filter_map(facts::controller);
            let sets = sets.filter_map(|owner| view.uid(text(owner, &["uid"])));
            return sets.flat_map(|set| deployments_of(set, view)).collect();
        }
        let objects: Vec<&Value> = both.collect();
        let namespace = objects.first().map_or("", |object| object::namespace(object));
        view.inside(DEPLOYMENTS, namespace)
            .filter(|deployment| template::follows(deployment, step.kind, &objects))
            .map(|deployment| Key::of(DEPLOYMENTS, deployment))
            .collect()
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let Some(deployment) = view.at(key) else { return Vec::new() };
        let (actions, sets) = claim(deployment, view);
        if !actions.is_empty() {
            return actions;
        }
        let template = template::wanted(deployment, view);
        let new = sets.iter().position(|set| template::is_same(set, &template));
        let mut old = sets;
        let new = new.map(|at| old.remove(at));
        Rollout { key, deployment, template, new, old, view, now }.plan()
    }
}

/// The Deployments that a ReplicaSet is, or may come to be, a part of.
fn deployments_of(set: &Value, view: &View) -> Vec<Key> {
    let namespace = object::namespace(set);
    if let Some(owner) = facts::controller(set) {
        return vec![Key::new(DEPLOYMENTS, namespace, text(owner, &["name"]))];
    }
    view.inside(DEPLOYMENTS, namespace)
        .filter(|deployment| selector(deployment).selects(set))
        .map(|deployment| Key::of(DEPLOYMENTS, deployment))
        .collect()
}

fn selector(deployment: &Value) -> Selector {
    at(deployment, &["spec", "selector"]).map(Selector::of).unwrap_or_default()
}

/// The ReplicaSets of a Deployment, oldest first, or what to do so that they are its own.
fn claim(deployment: &Arc<Value>, view: &View) -> (Vec<Action>, Vec<Arc<Value>>) {
    let (uid, selector) = (object::uid(deployment), selector(deployment));
    let (mut actions, mut sets) = (Vec::new(), Vec::new());
    for set in view.owned(REPLICA_SETS, uid).filter(|set| is_controlled(set, uid)) {
        if selector.selects(set) {
            sets.push(set.clone());
        } else if !object::is_terminating(set) {
            actions.push(Action::Update(REPLICA_SETS, release(set, uid)));
        }
    }
    if !object::is_terminating(deployment) && !selector.is_empty() {
        let orphans = view.orphans(REPLICA_SETS, object::namespace(deployment));
        let ours = orphans.filter(|set| selector.selects(set) && !object::is_terminating(set));
        actions.extend(ours.map(|set| Action::Update(REPLICA_SETS, adopt(set, deployment))));
    }
    sets.sort_by_key(|set| (created(set), object::name(set).to_owned()));
    (actions, sets)
}

impl Rollout<'_> {
    fn plan(&self) -> Vec<Action> {
        if object::is_terminating(self.deployment) {
            return self.status(None).into_iter().collect();
        }
        if let Some(back) = self.roll_back() {
            return back;
        }
        if let Some(action) = self.publish_revision() {
            return vec![action];
        }
        let mut actions = if self.is_paused() {
            let mut actions = self.describe_new();
            if actions.is_empty() {
                actions = self.scale();
                if actions.is_empty() {
                    actions = self.clean_up();
                }
            }
            actions
        } else if self.is_resized() {
            self.scale()
        } else if self.is_recreate() {
            self.recreate()
        } else {
            self.roll()
        };
        if !actions.iter().any(|action| matches!(action, Action::Status(..))) {
            actions.extend(self.status(None));
        }
        actions.extend(self.deadline());
        actions
    }

    fn is_paused(&self) -> bool {
        at(self.deployment, &["spec", "paused"]).and_then(Value::as_bool) == Some(true)
    }

    fn is_recreate(&self) -> bool {
        text(self.deployment, &["spec", "strategy", "type"]) == "Recreate"
    }

    fn wanted(&self) -> i64 {
        replicas(self.deployment)
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.old.iter().chain(&self.new)
    }

    fn total(&self) -> i64 {
        self.all().map(|set| replicas(set)).sum()
    }

    /// How many pods there may be beyond those wished, and how many may be missing.
    fn allowance(&self) -> (i64, i64) {
        if self.is_recreate() { (0, 0) } else { allowance(self.deployment) }
    }

    fn recreate(&self) -> Vec<Action> {
        let running: Vec<&Arc<Value>> = self.old.iter().filter(|set| replicas(set) > 0).collect();
        if !running.is_empty() {
            return running.into_iter().flat_map(|set| self.resize(set, 0)).collect();
        }
        let has_pods = self.old.iter().any(|set| {
            let pods = self.view.owned(PODS, object::uid(set));
            pods.into_iter().any(|pod| !is_over(pod))
        });
        if has_pods {
            return Vec::new();
        }
        let Some(new) = &self.new else { return self.create(self.wanted()) };
        let mut actions = self.describe_new();
        if actions.is_empty() && replicas(new) != self.wanted() {
            actions = self.resize(new, self.wanted());
        }
        if actions.is_empty() { self.clean_up() } else { actions }
    }

    /// Creates the ReplicaSet of the template.
    fn create(&self, size: i64) -> Vec<Action> {
        let collisions = number(self.deployment, &["status", "collisionCount"]).unwrap_or(0);
        let hash = template::hash(&self.template, collisions);
        let name = format!("{}-{hash}", object::name(self.deployment));
        let namespace = object::namespace(self.deployment);
        if self.view.get(REPLICA_SETS, namespace, &name).is_some() {
            // Another template has the same hash: count on.
            let mut changed = Value::clone(self.deployment);
            object::map(&mut changed, &["status"])
                .insert("collisionCount".into(), (collisions + 1).into());
            return vec![Action::Status(DEPLOYMENTS, changed)];
        }
        let mut template = self.template.clone();
        object::map(&mut template, &["metadata", "labels"])
            .insert(HASH.into(), hash.clone().into());
        let mut selector = at(self.deployment, &["spec", "selector"]).cloned().unwrap_or_default();
        object::map(&mut selector, &["matchLabels"]).insert(HASH.into(), hash.into());
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {
                "name": name, "namespace": namespace,
                "labels": template["metadata"]["labels"],
                "ownerReferences": [control(self.deployment)],
            },
            "spec": {"replicas": size, "selector": selector, "template": template},
        });
        if let Some(seconds) = number(self.deployment, &["spec", "minReadySeconds"]) {
            set["spec"]["minReadySeconds"] = seconds.into();
        }
        self.describe(&mut set);
        let create = Action::Create { kind: REPLICA_SETS, object: set, owner: None };
        let mut actions = vec![create];
        actions.extend(self.status(Some(&name)));
        if size > 0 {
            actions.push(self.scaled(&name, 0, size));
        }
        actions
    }

    /// Gives a ReplicaSet another size.
    fn resize(&self, set: &Value, size: i64) -> Vec<Action> {
        let mut changed = set.clone();
        object::map(&mut changed, &["spec"]).insert("replicas".into(), size.into());
        self.note_sizes(&mut changed);
        if dense(&changed) == dense(set) {
            return Vec::new();
        }
        let mut actions = vec![Action::Update(REPLICA_SETS, changed)];
        if replicas(set) != size {
            actions.push(self.scaled(object::name(set), replicas(set), size));
        }
        actions
    }

    fn scaled(&self, name: &str, from: i64, to: i64) -> Action {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        let reason = "ScalingReplicaSet";
        Action::Report(Report::new(NAME, self.deployment, false, reason, message))
    }

    fn note_sizes(&self, set: &mut Value) {
        let (surge, _) = self.allowance();
        let annotations = object::map(set, &["metadata", "annotations"]);
        annotations.insert(DESIRED.into(), self.wanted().to_string().into());
        annotations.insert(MAX.into(), (self.wanted() + surge).to_string().into());
    }
}

/// The revision of a ReplicaSet or a Deployment; 0 if it has none.
fn revision(object: &Value) -> i64 {
    annotation(object, REVISION).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests;
