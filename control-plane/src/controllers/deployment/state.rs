//! The status of a Deployment: its counts, and whether it gets on.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{NAME, Rollout};
use crate::{
    cache::kinds::DEPLOYMENTS,
    controllers::facts::{condition, count, dense, later, moment, replicas, set_condition, until},
    object::{self, list, number, text},
    runner::{Action, time},
};

/// As long as this, and there is no deadline.
const NO_DEADLINE_S: i64 = i32::MAX as i64;

impl Rollout<'_> {
    /// The counts of the status.
    pub(super) fn counts(&self) -> Value {
        let sum = |field: &str| self.all().map(|set| count(set, field)).sum::<i64>();
        let updated = self.new.as_ref().map_or(0, |new| count(new, "replicas"));
        let available = sum("availableReplicas");
        let missing = self.all().map(|set| replicas(set)).sum::<i64>() - available;
        let mut counts = json!({});
        for (field, count) in [
            ("replicas", sum("replicas")),
            ("updatedReplicas", updated),
            ("readyReplicas", sum("readyReplicas")),
            ("availableReplicas", available),
            ("unavailableReplicas", missing.max(0)),
        ] {
            if count > 0 {
                counts[field] = count.into();
            }
        }
        counts
    }

    /// The status, if it has changed; `created` is a ReplicaSet that the same plan creates.
    pub(super) fn status(&self, created: Option<&str>) -> Option<Action> {
        let mut status = self.counts();
        let mut conditions = list(self.deployment, &["status", "conditions"]).to_vec();
        self.judge_availability(&status, &mut conditions);
        self.judge_failure(&mut conditions);
        self.judge_progress(&status, &mut conditions, created);
        if let Some(generation) = number(self.deployment, &["metadata", "generation"]) {
            status["observedGeneration"] = generation.into();
        }
        if let Some(collisions) = number(self.deployment, &["status", "collisionCount"]) {
            status["collisionCount"] = collisions.into();
        }
        if !conditions.is_empty() {
            status["conditions"] = conditions.into();
        }
        let before = self.deployment.get("status").map_or_else(|| json!({}), dense);
        if before == dense(&status) {
            return None;
        }
        let mut changed = Value::clone(self.deployment);
        changed["status"] = status;
        Some(Action::Status(DEPLOYMENTS, changed))
    }

    fn put(&self, conditions: &mut Vec<Value>, name: &str, status: &str, reason: &str, text: &str) {
        let wish = json!({
            "type": name, "status": status, "reason": reason, "message": text,
            "lastUpdateTime": time(self.now),
        });
        set_condition(conditions, wish, self.now);
    }

    fn judge_availability(&self, counts: &Value, conditions: &mut Vec<Value>) {
        let (_, missing) = self.allowance();
        let available = number(counts, &["availableReplicas"]).unwrap_or(0);
        if available >= self.wanted() - missing {
            let words = "Deployment has minimum availability.";
            self.put(conditions, "Available", "True", "MinimumReplicasAvailable", words);
        } else {
            let words = "Deployment does not have minimum availability.";
            self.put(conditions, "Available", "False", "MinimumReplicasUnavailable", words);
        }
    }

    fn judge_failure(&self, conditions: &mut Vec<Value>) {
        let failed = self.new.iter().chain(&self.old).find_map(|set| {
            condition(set, "ReplicaFailure").filter(|each| text(each, &["status"]) == "True")
        });
        match failed {
            Some(failed) => {
                let (reason, message) = (text(failed, &["reason"]), text(failed, &["message"]));
                self.put(conditions, "ReplicaFailure", "True", reason, message);
            }
            None => conditions.retain(|each| text(each, &["type"]) != "ReplicaFailure"),
        }
    }

    fn judge_progress(&self, counts: &Value, conditions: &mut Vec<Value>, created: Option<&str>) {
        let Some(deadline_s) = self.deadline_s() else {
            conditions.retain(|each| text(each, &["type"]) != "Progressing");
            return;
        };
        let before = condition(self.deployment, "Progressing");
        let reason = before.map_or("", |before| text(before, &["reason"]));
        let name = self.new.as_ref().map_or("", |new| object::name(new));
        let subject = if name.is_empty() {
            format!("Deployment {:?}", object::name(self.deployment))
        } else {
            format!("ReplicaSet {name:?}")
        };
        let mut put = |status: &str, reason: &str, words: &str| {
            self.put(conditions, "Progressing", status, reason, words);
        };
        if let Some(name) = created {
            let words = format!("Created new replica set {name:?}");
            return put("True", "NewReplicaSetCreated", &words);
        }
        if let Some(why) = self.view.failure(NAME, self.key).filter(|_| self.new.is_none()) {
            return put("False", "ReplicaSetCreateError", why);
        }
        if self.is_paused() {
            if reason != "ProgressDeadlineExceeded" {
                put("Unknown", "DeploymentPaused", "Deployment is paused");
            }
            return;
        }
        if reason == "DeploymentPaused" {
            return put("Unknown", "DeploymentResumed", "Deployment is resumed");
        }
        let updated = number(counts, &["updatedReplicas"]).unwrap_or(0);
        let total = number(counts, &["replicas"]).unwrap_or(0);
        if reason == "NewReplicaSetAvailable" && total == updated {
            return;
        }
        if self.is_complete() && self.new.is_some() {
            let words = format!("{subject} has successfully progressed.");
            return put("True", "NewReplicaSetAvailable", &words);
        }
        if self.has_progressed(counts) {
            let words = format!("{subject} is progressing.");
            put("True", "ReplicaSetUpdated", &words);
            self.refresh(conditions);
            return;
        }
        if before.is_none() && self.new.is_some() {
            let words = format!("Found new replica set {name:?}");
            return put("True", "FoundNewReplicaSet", &words);
        }
        let since = before.and_then(|before| moment(before, &["lastUpdateTime"]));
        let is_late = since.is_some_and(|since| later(since, deadline_s) < self.now);
        if is_late && reason != "NewReplicaSetAvailable" {
            let words = format!("{subject} has timed out progressing.");
            put("False", "ProgressDeadlineExceeded", &words);
        }
    }

    /// Progress moves the time from which the deadline counts.
    fn refresh(&self, conditions: &mut [Value]) {
        let progressing = conditions.iter_mut().find(|each| text(each, &["type"]) == "Progressing");
        if let Some(progressing) = progressing {
            progressing["lastUpdateTime"] = time(self.now);
        }
    }

    fn has_progressed(&self, counts: &Value) -> bool {
        let after = json!({"status": counts});
        let more = |field: &str| count(&after, field) > count(self.deployment, field);
        let old = |object: &Value| count(object, "replicas") - count(object, "updatedReplicas");
        more("updatedReplicas")
            || more("readyReplicas")
            || more("availableReplicas")
            || old(&after) < old(self.deployment)
    }

    fn deadline_s(&self) -> Option<i64> {
        number(self.deployment, &["spec", "progressDeadlineSeconds"])
            .filter(|seconds| *seconds < NO_DEADLINE_S)
    }

    /// When to look again whether the deadline has passed.
    pub(super) fn deadline(&self) -> Option<Action> {
        let seconds = self.deadline_s()?;
        let progressing = condition(self.deployment, "Progressing")?;
        let reason = text(progressing, &["reason"]);
        if self.is_complete()
            || self.is_paused()
            || matches!(reason, "NewReplicaSetAvailable" | "ProgressDeadlineExceeded")
        {
            return None;
        }
        let since: Timestamp = moment(progressing, &["lastUpdateTime"])?;
        // One second more, since the times are whole seconds.
        let wait = until(later(since, seconds), self.now) + Duration::from_secs(1);
        Some(Action::Again(wait))
    }
}
