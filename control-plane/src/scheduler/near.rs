//! What pods want near them, or not: affinity, anti-affinity, spreading over zones and nodes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use super::{Node, filter::fixed};
use crate::{
    cache::{
        View,
        kinds::{NAMESPACES, NODES, PODS},
        ledger::anti_affinity,
    },
    controllers::facts::is_active,
    object::{self, at, list, number, text},
    selector::Selector,
};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// How many of some pods there are in each part of a topology.
#[derive(Debug)]
struct Count {
    namespaces: BTreeSet<String>,
    selector: Selector,
    topology: String,
    by_value: BTreeMap<String, i64>,
}

impl Count {
    fn matches(&self, pod: &Value) -> bool {
        self.namespaces.contains(object::namespace(pod)) && self.selector.selects(pod)
    }
}

/// Counts by term; each is made once per round and then kept up.
pub(super) struct Near<'a> {
    view: &'a View,
    counts: RefCell<BTreeMap<String, Count>>,
    /// Terms of pods that do not bear others near, and where such pods are.
    guards: BTreeMap<String, Count>,
}

/// What holds for one pod.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Topology and the values in which others do not bear it.
    forbidden: Vec<(String, BTreeSet<String>)>,
    /// Topology and the values in which it does not bear others.
    avoided: Vec<(String, BTreeSet<String>)>,
    /// Topology and the values where it has to be.
    wanted: Vec<(String, BTreeSet<String>)>,
    spreads: Vec<Spread>,
    /// Topology, weight, and how much there is for or against each value.
    pub(super) preferred: Vec<(String, i64, BTreeMap<String, i64>)>,
    /// Topology and counts that should be low.
    pub(super) even: Vec<(String, BTreeMap<String, i64>)>,
}

#[derive(Debug)]
struct Spread {
    topology: String,
    counts: BTreeMap<String, i64>,
    least: i64,
    skew_max: i64,
    own: i64,
}

/// The value of a topology on a node.
pub(super) fn value<'n>(node: &'n Value, topology: &str) -> &'n str {
    let value = text(node, &["metadata", "labels", topology]);
    if value.is_empty() && topology == HOST { object::name(node) } else { value }
}

impl<'a> Near<'a> {
    pub(super) fn new(view: &'a View) -> Self {
        let mut near = Self { view, counts: RefCell::default(), guards: BTreeMap::new() };
        for (namespace, name) in view.ledger().guarded() {
            let Some(pod) = view.get(PODS, namespace, name) else { continue };
            let node = view.get(NODES, "", text(pod, &["spec", "nodeName"]));
            if let Some(node) = node {
                near.guard(pod, node);
            }
        }
        near
    }

    /// Takes note of a pod that has found its node.
    pub(super) fn place(&mut self, pod: &Value, node: &Value) {
        for count in self.counts.get_mut().values_mut() {
            if count.matches(pod) {
                let value = value(node, &count.topology).to_owned();
                *count.by_value.entry(value).or_default() += 1;
            }
        }
        self.guard(pod, node);
    }

    fn guard(&mut self, pod: &Value, node: &Value) {
        for term in anti_affinity(pod) {
            let (name, count) = self.term(pod, term);
            let value = value(node, &count.topology).to_owned();
            let guard = self.guards.entry(name).or_insert(count);
            *guard.by_value.entry(value).or_default() += 1;
        }
    }

    /// A term with nothing counted yet, and a name that equal terms have in common.
    fn term(&self, pod: &Value, term: &Value) -> (String, Count) {
        let mut namespaces: BTreeSet<String> = list(term, &["namespaces"])
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        if let Some(selector) = at(term, &["namespaceSelector"]) {
            let selector = Selector::of(selector);
            let selected = self.view.all(NAMESPACES).filter(|it| selector.selects(it));
            namespaces.extend(selected.map(|namespace| object::name(namespace).to_owned()));
        } else if namespaces.is_empty() {
            namespaces.insert(object::namespace(pod).to_owned());
        }
        let mut selector = at(term, &["labelSelector"]).cloned();
        for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
            for key in list(term, &[field]).iter().filter_map(Value::as_str) {
                if let Some(value) = at(pod, &["metadata", "labels", key]) {
                    let wish = json!({"key": key, "operator": operator, "values": [value]});
                    let whole = selector.get_or_insert_with(|| json!({}));
                    let mut all = list(whole, &["matchExpressions"]).to_vec();
                    all.push(wish);
                    whole["matchExpressions"] = all.into();
                }
            }
        }
        // Without a selector, a term is about no pods.
        let nothing = json!({"matchExpressions": [{"key": "", "operator": "Exists"}]});
        let selector = selector.unwrap_or(nothing);
        let topology = text(term, &["topologyKey"]).to_owned();
        let name = format!("{topology} {selector} {namespaces:?}");
        let selector = Selector::of(&selector);
        (name, Count { namespaces, selector, topology, by_value: BTreeMap::new() })
    }

    /// How many pods meet a term in each part of its topology.
    fn count(&self, pod: &Value, term: &Value) -> (String, BTreeMap<String, i64>, bool) {
        let (name, mut count) = self.term(pod, term);
        let mut counts = self.counts.borrow_mut();
        let known = counts.entry(name).or_insert_with(|| {
            for namespace in &count.namespaces {
                for other in self.view.inside(PODS, namespace) {
                    let node = text(other, &["spec", "nodeName"]);
                    let node = self.view.get(NODES, "", node);
                    let Some(node) = node else { continue };
                    if is_active(other) && count.selector.selects(other) {
                        let value = value(node, &count.topology).to_owned();
                        *count.by_value.entry(value).or_default() += 1;
                    }
                }
            }
            count
        });
        (known.topology.clone(), known.by_value.clone(), known.matches(pod))
    }

    /// What holds for a pod.
    pub(super) fn rules(&self, pod: &Value, nodes: &[Node]) -> Rules {
        let mut rules = Rules::default();
        for guard in self.guards.values().filter(|guard| guard.matches(pod)) {
            let values = present(&guard.by_value);
            rules.forbidden.push((guard.topology.clone(), values));
        }
        for term in anti_affinity(pod) {
            let (topology, counts, _) = self.count(pod, term);
            rules.avoided.push((topology, present(&counts)));
        }
        for term in list(pod, &["spec", "affinity", "podAffinity", REQUIRED]) {
            let (topology, counts, is_own) = self.count(pod, term);
            let values = present(&counts);
            // The first of a group that wants to be together may go anywhere.
            if !(values.is_empty() && is_own) {
                rules.wanted.push((topology, values));
            }
        }
        for (field, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
            for preference in list(pod, &["spec", "affinity", field, PREFERRED]) {
                let weight = sign * number(preference, &["weight"]).unwrap_or(0);
                let (topology, counts, _) = self.count(pod, &preference["podAffinityTerm"]);
                rules.preferred.push((topology, weight, counts));
            }
        }
        self.spread(pod, nodes, &mut rules);
        rules
    }

    fn spread(&self, pod: &Value, nodes: &[Node], rules: &mut Rules) {
        let constraints = list(pod, &["spec", "topologySpreadConstraints"]);
        for constraint in constraints {
            let (topology, counts, is_own) = self.count(pod, constraint);
            if text(constraint, &["whenUnsatisfiable"]) == "ScheduleAnyway" {
                rules.even.push((topology, counts));
                continue;
            }
            let eligible = nodes.iter().filter(|node| is_counted(constraint, pod, node));
            let mut domains = BTreeMap::new();
            for node in eligible {
                let value = value(&node.object, &topology);
                if !value.is_empty() {
                    let count = counts.get(value).copied().unwrap_or(0);
                    domains.insert(value.to_owned(), count);
                }
            }
            let least = domains.values().min().copied().unwrap_or(0);
            let min = number(constraint, &["minDomains"]).unwrap_or(1);
            let are_few = i64::try_from(domains.len()).unwrap_or(i64::MAX) < min;
            rules.spreads.push(Spread {
                topology,
                counts: domains,
                least: if are_few { 0 } else { least },
                skew_max: number(constraint, &["maxSkew"]).unwrap_or(1),
                own: i64::from(is_own),
            });
        }
        let owner = crate::controllers::facts::controller(pod);
        let set = owner.and_then(|owner| self.view.uid(text(owner, &["uid"])));
        let selector = set.and_then(|set| at(set, &["spec", "selector"]));
        if let Some(selector) = selector.filter(|_| constraints.is_empty()) {
            for topology in [HOST, ZONE] {
                let term = json!({"topologyKey": topology, "labelSelector": selector});
                let (topology, counts, _) = self.count(pod, &term);
                rules.even.push((topology, counts));
            }
        }
    }
}

/// Whether a node counts among those that pods are spread over.
fn is_counted(constraint: &Value, pod: &Value, node: &Node) -> bool {
    let honours_taints = text(constraint, &["nodeTaintsPolicy"]) == "Honor";
    let honours_affinity = text(constraint, &["nodeAffinityPolicy"]) != "Ignore";
    match fixed(pod, node) {
        None => true,
        Some(why) if why.contains("affinity") => !honours_affinity,
        Some(_) => !honours_taints,
    }
}

fn present(counts: &BTreeMap<String, i64>) -> BTreeSet<String> {
    let present = counts.iter().filter(|(value, count)| **count > 0 && !value.is_empty());
    present.map(|(value, _)| value.clone()).collect()
}

impl Rules {
    /// What speaks against a node.
    pub(super) fn refusal(&self, node: &Node) -> Option<String> {
        let is_in = |(topology, values): &(String, BTreeSet<String>)| {
            values.contains(value(&node.object, topology))
        };
        for spread in &self.spreads {
            let value = value(&node.object, &spread.topology);
            let words = "node(s) didn't match pod topology spread constraints";
            let Some(count) = spread.counts.get(value) else {
                return Some(format!("{words} (missing required label)"));
            };
            if count + spread.own - spread.least > spread.skew_max {
                return Some(words.to_owned());
            }
        }
        if !self.wanted.iter().all(is_in) {
            return Some("node(s) didn't match pod affinity rules".to_owned());
        }
        if self.avoided.iter().any(is_in) {
            return Some("node(s) didn't match pod anti-affinity rules".to_owned());
        }
        if self.forbidden.iter().any(is_in) {
            return Some("node(s) didn't satisfy existing pods anti-affinity rules".to_owned());
        }
        None
    }
}

/// A pod by its reference, for those that need to hold it.
pub(super) type Pod = Arc<Value>;
