//! Whether a node can take a pod, by what both say alone.

use serde_json::Value;

use super::Node;
use crate::{
    cache::ledger::{Amounts, host_ports},
    object::{at, list, text},
    selector::Selector,
};

/// All that speaks against a node; the first kind of reason that there is.
pub(super) fn refusals(pod: &Value, needs: &Amounts, node: &Node) -> Vec<String> {
    if let Some(why) = fixed(pod, node) {
        return vec![why];
    }
    let taken = host_ports(pod).iter().any(|port| is_taken(port, node));
    if taken {
        return vec!["node(s) didn't have free ports for the requested pod ports".to_owned()];
    }
    lacking(needs, node)
}

/// What speaks against a node whatever else runs there.
pub(super) fn fixed(pod: &Value, node: &Node) -> Option<String> {
    let is_closed = at(&node.object, &["spec", "unschedulable"]).and_then(Value::as_bool);
    let closed = serde_json::json!({
        "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule",
    });
    if is_closed == Some(true) && !is_tolerated(pod, &closed) {
        return Some("node(s) were unschedulable".to_owned());
    }
    let taints = list(&node.object, &["spec", "taints"]).iter();
    let mut binding =
        taints.filter(|taint| matches!(text(taint, &["effect"]), "NoSchedule" | "NoExecute"));
    if let Some(taint) = binding.find(|taint| !is_tolerated(pod, taint)) {
        let (key, value) = (text(taint, &["key"]), text(taint, &["value"]));
        return Some(format!("node(s) had untolerated taint {{{key}: {value}}}"));
    }
    if !selects(pod, &node.object) {
        return Some("node(s) didn't match Pod's node affinity/selector".to_owned());
    }
    None
}

/// What a node has too little of.
pub(super) fn lacking(needs: &Amounts, node: &Node) -> Vec<String> {
    let mut why = Vec::new();
    let room = |name: &str| node.room.get(name).copied().unwrap_or(0);
    if node.usage.pods + 1 > room("pods") && node.room.contains_key("pods") {
        why.push("Too many pods".to_owned());
    }
    for (name, need) in needs {
        let used = node.usage.requests.get(name).copied().unwrap_or(0);
        if *need > 0 && used.saturating_add(*need) > room(name) {
            why.push(format!("Insufficient {name}"));
        }
    }
    why
}

fn is_taken(port: &(String, String, i64), node: &Node) -> bool {
    let any = "0.0.0.0";
    node.usage.ports.keys().any(|(address, protocol, number)| {
        *protocol == port.1
            && *number == port.2
            && (*address == port.0 || address == any || port.0 == any)
    })
}

/// Whether a pod bears a taint.
pub(crate) fn is_tolerated(pod: &Value, taint: &Value) -> bool {
    list(pod, &["spec", "tolerations"]).iter().any(|toleration| tolerates(toleration, taint))
}

/// Whether a toleration is about a taint.
pub(crate) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let (key, effect) = (text(toleration, &["key"]), text(toleration, &["effect"]));
    let is_any = text(toleration, &["operator"]) == "Exists";
    (effect.is_empty() || effect == text(taint, &["effect"]))
        && ((key.is_empty() && is_any) || key == text(taint, &["key"]))
        && (is_any || text(toleration, &["value"]) == text(taint, &["value"]))
}

fn selects(pod: &Value, node: &Value) -> bool {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let labels = at(node, &["metadata", "labels"]);
    let plain = at(pod, &["spec", "nodeSelector"]);
    let is_named = plain
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .all(|(name, value)| labels.and_then(|labels| labels.get(name)) == Some(value));
    let terms = at(pod, &["spec", "affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"]);
    let terms = terms.and_then(Value::as_array);
    is_named && terms.is_none_or(|terms| terms.iter().any(|term| is_met(term, node)))
}

/// Whether a node meets a term; an empty term is met by none.
pub(super) fn is_met(term: &Value, node: &Value) -> bool {
    let (labels, fields) = (list(term, &["matchExpressions"]), list(term, &["matchFields"]));
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    let of =
        |expressions: &[Value]| Selector::of(&serde_json::json!({"matchExpressions": expressions}));
    of(labels).selects_labels(at(node, &["metadata", "labels"])) && of(fields).selects_fields(node)
}
