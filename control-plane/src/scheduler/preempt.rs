//! Preemption: which pods of lower priority have to go so that a pod finds a node.

use std::{cmp::Reverse, sync::Arc};

use serde_json::Value;

use super::{NAME, Node, Round, filter, near::Pod, priority};
use crate::{
    cache::{
        Key,
        kinds::{BUDGETS, PODS},
        ledger::{Amounts, Usage},
    },
    controllers::facts::{created, is_over},
    object::{self, at, number, text},
    runner::{Action, Report, act::Ask},
    selector::Selector,
};

/// What a node costs: broken budgets, the highest priority, their sum, their number.
type Cost = (usize, i64, i64, usize, Reverse<jiff::Timestamp>);

impl Round<'_> {
    /// What to do, the node that is hoped for, and what to say.
    pub(super) fn preempt(
        &mut self,
        pod: &Arc<Value>,
        needs: &Amounts,
    ) -> (Vec<Action>, String, String) {
        let count = self.nodes.len();
        let none = |words: String| (Vec::new(), String::new(), words);
        if text(pod, &["spec", "preemptionPolicy"]) == "Never" {
            return none("not eligible due to preemptionPolicy=Never.".to_owned());
        }
        let hoped = text(pod, &["status", "nominatedNodeName"]);
        let waits = !hoped.is_empty()
            && self
                .view
                .on_node(hoped)
                .any(|other| object::is_terminating(other) && priority(other) < priority(pod));
        if waits {
            return none("not eligible due to a terminating pod on the nominated node.".to_owned());
        }
        let (mut best, mut helpless): (Option<(Cost, usize, Vec<Pod>)>, usize) = (None, 0);
        for at in 0..count {
            if filter::fixed(pod, &self.nodes[at]).is_some() {
                helpless += 1;
                continue;
            }
            let Some(victims) = self.victims(pod, needs, at) else { continue };
            let cost = self.cost(&victims);
            let is_better = best.as_ref().is_none_or(|(least, ..)| cost < *least);
            if is_better {
                best = Some((cost, at, victims));
            }
        }
        let Some((_, at, victims)) = best else {
            let mut words = Vec::new();
            if count > helpless {
                let rest = count - helpless;
                words.push(format!("{rest} No preemption victims found for incoming pod"));
            }
            if helpless > 0 {
                words.push(format!("{helpless} Preemption is not helpful for scheduling"));
            }
            return none(format!("0/{count} nodes are available: {}.", words.join(", ")));
        };
        let name = self.nodes[at].name.clone();
        let mut actions = Vec::new();
        for victim in &victims {
            self.victims.insert(object::uid(victim).to_owned());
            self.nodes[at].usage.count(victim, false);
            let message = format!("Preempted by pod {} on node {name}", object::uid(pod));
            let report = Report::new(NAME, victim, false, "Preempted", message);
            actions.push(Action::Report(report));
            actions.push(Action::Delete {
                key: Key::of(PODS, victim),
                uid: object::uid(victim).to_owned(),
                deletion: Ask::default(),
                owner: None,
            });
        }
        // The room is this pod's: others of this round do not get it.
        self.nodes[at].usage.count(pod, true);
        (actions, name.clone(), format!("{} pods are to go from node {name}.", victims.len()))
    }

    /// The fewest pods that have to leave a node; none if even all would not help.
    fn victims(&self, pod: &Value, needs: &Amounts, at: usize) -> Option<Vec<Pod>> {
        let node = &self.nodes[at];
        let mut lower: Vec<Pod> = self
            .view
            .on_node(&node.name)
            .filter(|other| priority(other) < priority(pod) && !is_over(other))
            .filter(|other| !self.victims.contains(object::uid(other)))
            .cloned()
            .collect();
        if lower.is_empty() {
            return None;
        }
        // The most important come first, since they may stay if there is room.
        lower.sort_by_key(|other| (Reverse(priority(other)), created(other)));
        let mut usage = node.usage.clone();
        for other in &lower {
            usage.count(other, false);
        }
        if !fits(pod, needs, node, &usage) {
            return None;
        }
        let mut victims = Vec::new();
        for other in lower {
            usage.count(&other, true);
            if !fits(pod, needs, node, &usage) {
                usage.count(&other, false);
                victims.push(other);
            }
        }
        // Nobody would have to go: the reason is not room.
        if victims.is_empty() { None } else { Some(victims) }
    }

    fn cost(&self, victims: &[Pod]) -> Cost {
        let broken = victims.iter().filter(|victim| {
            self.view.inside(BUDGETS, object::namespace(victim)).any(|budget| {
                let selector = at(budget, &["spec", "selector"]).map(Selector::of);
                selector.is_some_and(|selector| selector.selects(victim))
                    && number(budget, &["status", "disruptionsAllowed"]).unwrap_or(0) <= 0
            })
        });
        let priorities = || victims.iter().map(|victim| priority(victim));
        let oldest = victims.iter().map(|victim| created(victim)).min().unwrap_or_default();
        (
            broken.count(),
            priorities().max().unwrap_or(0),
            priorities().sum(),
            victims.len(),
            Reverse(oldest),
        )
    }
}

fn fits(pod: &Value, needs: &Amounts, node: &Node, usage: &Usage) -> bool {
    let then = Node {
        object: node.object.clone(),
        name: String::new(),
        room: node.room.clone(),
        usage: usage.clone(),
    };
    filter::refusals(pod, needs, &then).is_empty()
}
