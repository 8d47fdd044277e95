//! Gives pods their nodes.

mod filter;
mod near;
mod preempt;
mod score;

pub(crate) use self::filter::tolerates;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use self::near::{Near, Rules};
use crate::{
    cache::{
        Key, Step, View,
        kinds::{BUDGETS, NODES, PODS, PRIORITIES, REPLICA_SETS, REPLICATION_CONTROLLERS},
        ledger::{Amounts, Usage, amounts, requests},
    },
    client::Kind,
    controllers::facts::{condition, controller, created, set_condition},
    object::{self, at, list, number, text},
    runner::{Action, Controller, Report},
};

/// Plans which pod goes where.
#[derive(Clone, Copy, Debug)]
pub struct Scheduler;

const NAME: &str = "default-scheduler";

/// Pods that one plan places at most.
const BATCH_MAX: usize = 500;

/// Pods for which there was no node are tried again at most this often.
const AGAIN: Duration = Duration::from_secs(1);

/// With more nodes than this, not all of them are looked at for each pod.
const NODES_ALL: usize = 100;

/// A node, and what is promised of it.
#[derive(Debug)]
struct Node {
    object: Arc<Value>,
    name: String,
    room: Amounts,
    usage: Usage,
}

/// The state of a plan in the making.
struct Round<'a> {
    view: &'a View,
    nodes: Vec<Node>,
    near: Near<'a>,
    /// Owners and priorities of pods for which there was no node in this round.
    hopeless: BTreeMap<(String, i64), String>,
    /// Pods whose deletion this round asks for.
    victims: BTreeSet<String>,
    now: Timestamp,
}

impl Controller for Scheduler {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[PODS, NODES, PRIORITIES, BUDGETS, REPLICA_SETS, REPLICATION_CONTROLLERS]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        if view.ledger().pending().is_empty() || (step.kind != PODS && step.kind != NODES) {
            return Vec::new();
        }
        let is_new = |pod: &Value| text(pod, &["spec", "nodeName"]).is_empty() && !was_tried(pod);
        match step.new.as_deref() {
            Some(pod) if step.kind == PODS && is_new(pod) => vec![key("new")],
            // A new status of a running pod makes no room.
            Some(pod) if step.kind == PODS => {
                let spec = |pod: &Value| (pod["spec"].clone(), pod["metadata"]["labels"].clone());
                let is_over = crate::controllers::facts::is_over;
                let is_same = step
                    .old
                    .as_deref()
                    .is_some_and(|old| spec(old) == spec(pod) && is_over(old) == is_over(pod));
                if is_same { Vec::new() } else { vec![key("again")] }
            }
            Some(node) => {
                let facts = |node: &Value| {
                    (
                        node["spec"].clone(),
                        node["metadata"]["labels"].clone(),
                        node["status"]["allocatable"].clone(),
                    )
                };
                let is_same = step.old.as_deref().map(facts) == Some(facts(node));
                if is_same { Vec::new() } else { vec![key("again"), key("new")] }
            }
            None => vec![key("again")],
        }
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let is_again = key.name == "again";
        let pending = view.ledger().pending().iter();
        let mut pods: Vec<&Arc<Value>> = pending
            .filter_map(|(namespace, name)| view.get(PODS, namespace, name))
            .filter(|pod| was_tried(pod) == is_again)
            .collect();
        if pods.is_empty() {
            return Vec::new();
        }
        pods.sort_by_cached_key(|pod| {
            (std::cmp::Reverse(priority(pod)), created(pod), object::name(pod).to_owned())
        });
        let mut round = Round::new(view, now);
        let (mut binds, mut others) = (Vec::new(), Vec::new());
        let mut is_more = false;
        for pod in pods {
            if binds.len() == BATCH_MAX {
                is_more = true;
                break;
            }
            match round.place(pod) {
                Ok(node) => {
                    binds.push(bind(pod, &node));
                    let (namespace, name) = (object::namespace(pod), object::name(pod));
                    let message = format!("Successfully assigned {namespace}/{name} to {node}");
                    let report = Report::new(NAME, pod, false, "Scheduled", message);
                    others.push(Action::Report(report));
                }
                Err(actions) => others.extend(actions),
            }
        }
        binds.extend(others);
        if is_more {
            binds.push(Action::Again(Duration::ZERO));
        }
        binds
    }

    fn rest(&self, key: &Key) -> Duration {
        if key.name == "again" { AGAIN } else { Duration::ZERO }
    }

    fn workers(&self) -> usize {
        // Two plans at once would promise the same room twice.
        1
    }
}

fn key(name: &str) -> Key {
    Key::new(PODS, "", name)
}

/// Whether there was no node for a pod before.
fn was_tried(pod: &Value) -> bool {
    condition(pod, "PodScheduled").is_some_and(|it| text(it, &["status"]) == "False")
}

fn priority(pod: &Value) -> i64 {
    number(pod, &["spec", "priority"]).unwrap_or(0)
}

fn bind(pod: &Value, node: &str) -> Action {
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {
            "namespace": object::namespace(pod), "name": object::name(pod),
            "uid": object::uid(pod),
        },
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    Action::Part { key: Key::of(PODS, pod), part: "binding", body }
}

impl<'a> Round<'a> {
    fn new(view: &'a View, now: Timestamp) -> Self {
        let node = |object: &Arc<Value>| {
            let name = object::name(object).to_owned();
            let room = at(object, &["status", "allocatable"]);
            let room = amounts(room.or_else(|| at(object, &["status", "capacity"])));
            Node { object: object.clone(), usage: view.ledger().usage(&name), name, room }
        };
        let nodes = view.all(NODES).filter(|node| !object::is_terminating(node)).map(node);
        Self {
            view,
            nodes: nodes.collect(),
            near: Near::new(view),
            hopeless: BTreeMap::new(),
            victims: BTreeSet::new(),
            now,
        }
    }

    /// The node for a pod, whose room it takes; or what to do if there is none.
    fn place(&mut self, pod: &Arc<Value>) -> Result<String, Vec<Action>> {
        let owner = controller(pod).map_or("", |owner| text(owner, &["uid"])).to_owned();
        let class = (owner, priority(pod));
        if let Some(message) = self.hopeless.get(&class).filter(|_| !class.0.is_empty()) {
            return Err(self.give_up(pod, message.clone(), ""));
        }
        let needs = requests(pod);
        let rules = self.near.rules(pod, &self.nodes);
        let (fits, reasons) = self.feasible(pod, &needs, &rules);
        let best = self.best(pod, &needs, &rules, &fits);
        let Some(best) = best else {
            let (message, victims, nominated) = self.no_node(pod, &needs, &reasons);
            if nominated.is_empty() && !class.0.is_empty() {
                self.hopeless.insert(class, message.clone());
            }
            let mut actions = self.give_up(pod, message, &nominated);
            actions.extend(victims);
            return Err(actions);
        };
        let node = &mut self.nodes[best];
        node.usage.count(pod, true);
        let (name, object) = (node.name.clone(), node.object.clone());
        self.near.place(pod, &object);
        Ok(name)
    }

    /// The nodes that a pod can run on, and why it cannot on the others.
    fn feasible(
        &self,
        pod: &Value,
        needs: &Amounts,
        rules: &Rules,
    ) -> (Vec<usize>, BTreeMap<String, usize>) {
        let count = self.nodes.len();
        let enough = if count <= NODES_ALL {
            count
        } else {
            let percent = 50_usize.saturating_sub(count / 125).max(5);
            (count * percent / 100).max(NODES_ALL)
        };
        // Where to begin differs between pods, so that all nodes get their share.
        let first = object::uid(pod)
            .bytes()
            .fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        let (mut fits, mut reasons) = (Vec::new(), BTreeMap::new());
        for step in 0..count {
            let at = (first.wrapping_add(step)) % count;
            let node = &self.nodes[at];
            let mut why = filter::refusals(pod, needs, node);
            if why.is_empty() {
                why.extend(rules.refusal(node));
            }
            if why.is_empty() {
                fits.push(at);
                if fits.len() == enough {
                    break;
                }
            }
            for why in why {
                *reasons.entry(why).or_insert(0) += 1;
            }
        }
        (fits, reasons)
    }

    /// Says that there is no node, once per message.
    fn give_up(&self, pod: &Arc<Value>, message: String, nominated: &str) -> Vec<Action> {
        let mut conditions = list(pod, &["status", "conditions"]).to_vec();
        let wish = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastProbeTime": null,
        });
        set_condition(&mut conditions, wish, self.now);
        let mut changed = Value::clone(pod);
        changed["status"]["conditions"] = conditions.into();
        if !nominated.is_empty() {
            changed["status"]["nominatedNodeName"] = nominated.into();
        }
        if changed == **pod {
            return Vec::new();
        }
        let report = Report::new(NAME, pod, true, "FailedScheduling", message);
        vec![Action::Status(PODS, changed), Action::Report(report)]
    }

    /// What to say, and to do, for a pod that no node can take.
    fn no_node(
        &mut self,
        pod: &Arc<Value>,
        needs: &Amounts,
        reasons: &BTreeMap<String, usize>,
    ) -> (String, Vec<Action>, String) {
        let count = self.nodes.len();
        if count == 0 {
            return ("no nodes available to schedule pods".to_owned(), Vec::new(), String::new());
        }
        let mut words: Vec<String> =
            reasons.iter().map(|(why, count)| format!("{count} {why}")).collect();
        words.sort();
        let words = format!("0/{count} nodes are available: {}.", words.join(", "));
        let (actions, nominated, preemption) = self.preempt(pod, needs);
        (format!("{words} preemption: {preemption}"), actions, nominated)
    }
}

#[cfg(test)]
mod tests;
