//! A Deployment that changes its size in the middle of a rollout: each revision in its proportion.

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value;

use super::{DESIRED, MAX, Rollout};
use crate::{
    controllers::facts::{annotation, count, created, replicas},
    runner::Action,
};

impl Rollout<'_> {
    /// Whether a ReplicaSet was last given its size for another size of the Deployment.
    pub(super) fn is_resized(&self) -> bool {
        self.all().filter(|set| replicas(set) > 0).any(|set| {
            annotation(set, DESIRED).parse::<i64>().is_ok_and(|size| size != self.wanted())
        })
    }

    /// Gives the Deployment's size to its ReplicaSets.
    pub(super) fn scale(&self) -> Vec<Action> {
        let active: Vec<&Arc<Value>> = self.all().filter(|set| replicas(set) > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.as_ref().or_else(|| self.old.last()),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(set) = only {
            return self.resize(set, self.wanted());
        }
        if active.is_empty() {
            return Vec::new();
        }
        if self.new.as_ref().is_some_and(|new| self.is_saturated(new)) {
            let old = self.old.iter().filter(|set| replicas(set) > 0);
            return old.flat_map(|set| self.resize(set, 0)).collect();
        }
        if self.is_recreate() {
            return Vec::new();
        }
        self.proportion(active)
    }

    fn is_saturated(&self, new: &Value) -> bool {
        let desired = annotation(new, DESIRED).parse().unwrap_or(-1);
        let wanted = self.wanted();
        replicas(new) == wanted && desired == wanted && count(new, "availableReplicas") == wanted
    }

    fn proportion(&self, mut sets: Vec<&Arc<Value>>) -> Vec<Action> {
        let (surge, _) = self.allowance();
        let allowed = if self.wanted() > 0 { self.wanted() + surge } else { 0 };
        let change = allowed - self.total();
        if change < 0 {
            sets.sort_by_key(|set| (Reverse(replicas(set)), created(set)));
        } else {
            sets.sort_by_key(|set| (Reverse(replicas(set)), Reverse(created(set))));
        }
        let mut given = 0;
        let mut sizes = Vec::new();
        for set in sets {
            let share = self.share(set, surge, change, given);
            given += share;
            sizes.push((set, replicas(set) + share));
        }
        if let Some((_, size)) = sizes.first_mut() {
            *size = (*size + change - given).max(0);
        }
        sizes.into_iter().flat_map(|(set, size)| self.resize(set, size)).collect()
    }

    /// What one ReplicaSet gets of a change.
    fn share(&self, set: &Value, surge: i64, change: i64, given: i64) -> i64 {
        if replicas(set) == 0 || change == given {
            return 0;
        }
        let share = if self.wanted() == 0 {
            -replicas(set)
        } else {
            let before: i64 = annotation(set, MAX)
                .parse()
                .ok()
                .filter(|max| *max > 0)
                .unwrap_or_else(|| count(self.deployment, "replicas").max(1));
            let product = replicas(set) * (self.wanted() + surge);
            // Halves are rounded up, as all of it is positive.
            (2 * product + before) / (2 * before) - replicas(set)
        };
        let left = change - given;
        if change > 0 { share.min(left) } else { share.max(left) }
    }
}
