//! Revisions: their numbers, what they are described by, which are kept, and the way back.

use std::{cmp::Reverse, sync::Arc};

use serde_json::{Value, json};

use super::{DESIRED, MAX, NAME, REVISION, REVISION_HISTORY, Rollout, revision, template};
use crate::{
    cache::{
        Key,
        kinds::{DEPLOYMENTS, REPLICA_SETS},
    },
    controllers::facts::{annotation, condition, count, dense, replicas},
    object::{self, at, number, text},
    runner::{Action, Report, act::Ask},
};

/// Set to `true` on a Deployment, it goes back to its last good revision when a rollout stalls.
pub(super) const ROLL_BACK: &str = "hashplane.io/rollback-on-progress-deadline";
/// Says on a ReplicaSet that its rollout came to a good end.
const GOOD: &str = "hashplane.io/completed";

/// Annotations of a Deployment that are not those of its revisions.
const KEPT_BACK: [&str; 8] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
    template::RESTART,
    ROLL_BACK,
];

impl Rollout<'_> {
    /// Gives a ReplicaSet the annotations that the newest one has.
    pub(super) fn describe(&self, set: &mut Value) {
        let highest = self.old.iter().map(|set| revision(set)).max().unwrap_or(0);
        let (before, next) = (revision(set), highest + 1);
        let annotations = object::map(set, &["metadata", "annotations"]);
        let theirs = at(self.deployment, &["metadata", "annotations"]);
        for (name, value) in theirs.and_then(Value::as_object).into_iter().flatten() {
            if !KEPT_BACK.contains(&name.as_str()) {
                annotations.insert(name.clone(), value.clone());
            }
        }
        if before < next {
            if before > 0 {
                let history = annotations.get(REVISION_HISTORY).and_then(Value::as_str);
                let history = match history.unwrap_or_default() {
                    "" => before.to_string(),
                    history => format!("{history},{before}"),
                };
                annotations.insert(REVISION_HISTORY.into(), history.into());
            }
            annotations.insert(REVISION.into(), next.to_string().into());
        }
        if self.is_complete() && annotation(self.deployment, ROLL_BACK) == "true" {
            let annotations = object::map(set, &["metadata", "annotations"]);
            annotations.insert(GOOD.into(), "true".into());
        }
        self.note_sizes(set);
    }

    /// Corrects what describes the newest ReplicaSet.
    pub(super) fn describe_new(&self) -> Vec<Action> {
        let Some(new) = &self.new else { return Vec::new() };
        let mut changed = Value::clone(new);
        self.describe(&mut changed);
        let min_ready_s = number(self.deployment, &["spec", "minReadySeconds"]).unwrap_or(0);
        if number(new, &["spec", "minReadySeconds"]).unwrap_or(0) != min_ready_s {
            changed["spec"]["minReadySeconds"] = min_ready_s.into();
        }
        if dense(&changed) == dense(new) {
            return Vec::new();
        }
        vec![Action::Update(REPLICA_SETS, changed)]
    }

    /// Gives the Deployment the number of its newest revision.
    pub(super) fn publish_revision(&self) -> Option<Action> {
        let number = annotation(self.new.as_ref()?, REVISION);
        let highest = self.old.iter().map(|set| revision(set)).max().unwrap_or(0);
        let is_settled = number.parse::<i64>().is_ok_and(|number| number > highest);
        if !is_settled || annotation(self.deployment, REVISION) == number {
            return None;
        }
        let mut changed = Value::clone(self.deployment);
        object::map(&mut changed, &["metadata", "annotations"])
            .insert(REVISION.into(), number.into());
        Some(Action::Update(DEPLOYMENTS, changed))
    }

    /// Deletes revisions beyond the limit, once the rollout is complete.
    pub(super) fn clean_up(&self) -> Vec<Action> {
        let limit = number(self.deployment, &["spec", "revisionHistoryLimit"]).unwrap_or(10);
        if !self.is_complete() && !self.is_paused() {
            return Vec::new();
        }
        let mut idle: Vec<&Arc<Value>> =
            self.old.iter().filter(|set| !object::is_terminating(set)).collect();
        let surplus = idle.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        idle.sort_by_key(|set| revision(set));
        idle.truncate(surplus);
        idle.retain(|set| {
            let generation = number(set, &["metadata", "generation"]).unwrap_or(0);
            let seen = number(set, &["status", "observedGeneration"]).unwrap_or(0);
            count(set, "replicas") == 0 && replicas(set) == 0 && seen >= generation
        });
        let delete = |set: &Arc<Value>| Action::Delete {
            key: Key::of(REPLICA_SETS, set),
            uid: object::uid(set).to_owned(),
            deletion: Ask::default(),
            owner: None,
        };
        idle.into_iter().map(delete).collect()
    }

    /// Goes back to the last good revision, if that was asked for and the rollout has stalled.
    pub(super) fn roll_back(&self) -> Option<Vec<Action>> {
        let progressing = condition(self.deployment, "Progressing")?;
        let is_stalled = text(progressing, &["reason"]) == "ProgressDeadlineExceeded";
        if !is_stalled
            || annotation(self.deployment, ROLL_BACK) != "true"
            || self.is_paused()
            || number(self.deployment, &["metadata", "generation"])
                != number(self.deployment, &["status", "observedGeneration"])
        {
            return None;
        }
        let new = self.new.as_ref()?;
        let mut good: Vec<&Arc<Value>> =
            self.old.iter().filter(|set| annotation(set, GOOD) == "true").collect();
        good.sort_by_key(|set| Reverse(revision(set)));
        let back = good.into_iter().find(|set| !template::is_same(set, &self.template))?;
        let mut wish = at(back, &["spec", "template"])?.clone();
        object::map(&mut wish, &["metadata", "labels"]).remove(super::HASH);
        object::map(&mut wish, &["metadata", "annotations"]).remove(template::CONFIG);
        let mut changed = Value::clone(self.deployment);
        changed["spec"]["template"] = wish;
        if dense(&changed) == dense(self.deployment) {
            return None;
        }
        let message = format!(
            "Revision {} exceeded its progress deadline; rolled back to revision {}",
            revision(new),
            revision(back),
        );
        let report = Report::new(NAME, self.deployment, true, "DeploymentRollback", message);
        Some(vec![Action::Update(DEPLOYMENTS, changed), Action::Report(report)])
    }

    /// Whether all pods are of the newest revision, and available.
    pub(super) fn is_complete(&self) -> bool {
        let status = &json!({"status": self.counts()});
        let wanted = self.wanted();
        ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| count(status, field) == wanted)
    }
}
