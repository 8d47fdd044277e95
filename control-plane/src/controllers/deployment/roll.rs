//! The rolling update: how many pods of the new revision to add, how many of old ones to take.

use std::sync::Arc;

use serde_json::Value;

use super::Rollout;
use crate::{
    controllers::facts::{count, replicas, scaled},
    object::{self, at},
    runner::Action,
};

/// How many pods there may be beyond those wished, and how many of them may be missing: percentages
/// of the one are rounded up, of the other down, and both are never 0.
pub fn allowance(deployment: &Value) -> (i64, i64) {
    let total = replicas(deployment);
    let rolling = |field| at(deployment, &["spec", "strategy", "rollingUpdate", field]);
    let surge = scaled(rolling("maxSurge"), total, true);
    let missing = scaled(rolling("maxUnavailable"), total, false);
    if total == 0 {
        return (surge, 0);
    }
    let missing = if surge == 0 && missing == 0 { 1 } else { missing };
    (surge, missing.min(total))
}

/// The size of the new ReplicaSet, when all sets together have `total` pods.
pub fn new_size(wanted: i64, surge: i64, total: i64, new: i64) -> i64 {
    if new >= wanted {
        return wanted;
    }
    let room = (wanted + surge - total).max(0);
    new + room.min(wanted - new)
}

impl Rollout<'_> {
    pub(super) fn roll(&self) -> Vec<Action> {
        let (surge, _) = self.allowance();
        let Some(new) = &self.new else {
            return self.create(new_size(self.wanted(), surge, self.present(), 0));
        };
        let described = self.describe_new();
        if !described.is_empty() {
            return described;
        }
        let size = new_size(self.wanted(), surge, self.present(), replicas(new));
        if size != replicas(new) {
            return self.resize(new, size);
        }
        let shrunk = self.shrink(new);
        if shrunk.is_empty() { self.clean_up() } else { shrunk }
    }

    /// Pods that are there, or shall be. Those that a smaller size has yet to end are there: upstream
    /// does not count them, and goes beyond its bound for a moment.
    fn present(&self) -> i64 {
        self.all().map(|set| replicas(set).max(count(set, "replicas"))).sum()
    }

    /// Takes pods from old ReplicaSets: first those that serve nobody, then as many as can be missed.
    fn shrink(&self, new: &Value) -> Vec<Action> {
        let (_, missing) = self.allowance();
        let floor = self.wanted() - missing;
        let is_behind = |set: &Value| {
            let generation = object::number(set, &["metadata", "generation"]).unwrap_or(0);
            generation > object::number(set, &["status", "observedGeneration"]).unwrap_or(0)
        };
        let new_unavailable =
            replicas(new) - count(new, "availableReplicas").min(replicas(new)).max(0);
        let most = self.total() - floor - new_unavailable;
        if most <= 0 || is_behind(new) {
            return Vec::new();
        }
        let mut sizes: Vec<(&Arc<Value>, i64)> =
            self.old.iter().map(|set| (set, replicas(set))).collect();
        let mut left = most;
        for (set, size) in &mut sizes {
            let unavailable = (*size - count(set, "availableReplicas")).max(0);
            let take = left.min(unavailable).min(*size);
            *size -= take;
            left -= take;
        }
        let available: i64 = self.all().map(|set| count(set, "availableReplicas")).sum();
        let mut spare = (available - floor).max(0).min(left);
        for (_, size) in &mut sizes {
            let take = spare.min(*size);
            *size -= take;
            spare -= take;
        }
        let changed = sizes.into_iter().filter(|(set, size)| replicas(set) != *size);
        changed.flat_map(|(set, size)| self.resize(set, size)).collect()
    }
}
