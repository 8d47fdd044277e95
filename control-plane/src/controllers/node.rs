//! Nodes: whether they live, the taints that follow, and the pods that cannot bear them.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{
        Key, Step, View,
        kinds::{LEASES, NODES, PODS},
    },
    client::Kind,
    controllers::facts::{
        condition, created, is_over, later, moment, ready_since, set_condition, until,
    },
    object::{self, at, list, number, text},
    runner::{Action, Controller, Report, act::Ask, time},
    scheduler::tolerates,
};

/// Plans what follows from the state of nodes.
#[derive(Clone, Copy, Debug)]
pub struct Nodes;

const NAME: &str = "node-controller";
/// Where nodes renew their Leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

/// A node that has not been heard of for this long is lost, unless its Lease says otherwise.
const LEASE_S: i64 = 40;
/// What a new node gets on top.
const START_S: i64 = 60;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CLOSED: &str = "node.kubernetes.io/unschedulable";

/// Conditions that keep new pods away while they hold.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

impl Controller for Nodes {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[NODES, LEASES, PODS]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let Some(object) = step.new.as_deref().or(step.old.as_deref()) else { return Vec::new() };
        let name = if step.kind == NODES {
            object::name(object)
        } else if step.kind == LEASES {
            if object::namespace(object) != LEASE_NAMESPACE {
                return Vec::new();
            }
            object::name(object)
        } else {
            // A pod matters when it comes to a node that has taints, or is not ready.
            let name = text(object, &["spec", "nodeName"]);
            let node = view.get(NODES, "", name);
            let is_well = |node: &Value| {
                list(node, &["spec", "taints"]).is_empty()
                    && condition(node, "Ready").is_none_or(|it| text(it, &["status"]) == "True")
            };
            if name.is_empty() || node.is_none_or(|node| is_well(node)) {
                return Vec::new();
            }
            name
        };
        vec![Key::new(NODES, "", name)]
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let Some(node) = view.at(key).filter(|node| !object::is_terminating(node)) else {
            return Vec::new();
        };
        let lost_at = lost_at(node, view);
        let is_lost = lost_at <= now;
        let mut actions: Vec<Action> = if is_lost { lost(node, now) } else { Vec::new() };
        if actions.is_empty() {
            actions.extend(taint(node, now));
        }
        for pod in view.on_node(&key.name).filter(|pod| !object::is_terminating(pod)) {
            actions.extend(bear(pod, node, now));
        }
        if !is_lost {
            // One second more, since the times are whole seconds.
            actions.push(Action::Again(until(later(lost_at, 1), now)));
        }
        actions
    }
}

/// When a node counts as lost, unless it is heard of again.
fn lost_at(node: &Value, view: &View) -> Timestamp {
    let lease = view.get(LEASES, LEASE_NAMESPACE, object::name(node));
    let lease_s = lease.and_then(|it| number(it, &["spec", "leaseDurationSeconds"]));
    let renewed = lease.and_then(|it| moment(it, &["spec", "renewTime"]));
    let told = condition(node, "Ready")
        .filter(|it| text(it, &["status"]) != "Unknown")
        .and_then(|it| moment(it, &["lastHeartbeatTime"]));
    let heard = renewed.max(told).map(|at| later(at, lease_s.unwrap_or(LEASE_S)));
    heard.unwrap_or_else(|| later(created(node), START_S)).max(later(created(node), START_S))
}

/// Says that a node is lost.
fn lost(node: &Arc<Value>, now: Timestamp) -> Vec<Action> {
    let mut conditions = list(node, &["status", "conditions"]).to_vec();
    for name in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        let before = condition(node, name);
        if before.is_some_and(|it| text(it, &["status"]) == "Unknown") {
            continue;
        }
        let (reason, message) = match before {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let mut wish =
            json!({"type": name, "status": "Unknown", "reason": reason, "message": message});
        wish["lastHeartbeatTime"] =
            before.map_or_else(|| time(created(node)), |it| it["lastHeartbeatTime"].clone());
        set_condition(&mut conditions, wish, now);
    }
    let mut changed = Value::clone(node);
    changed["status"]["conditions"] = conditions.into();
    if changed == **node {
        return Vec::new();
    }
    let message = format!("Node {} status is now: NodeNotReady", object::name(node));
    let report = Report::new(NAME, node, false, "NodeNotReady", message);
    vec![Action::Status(NODES, changed), Action::Report(report)]
}

/// Gives a node the taints that its conditions ask for, and no others of ours.
fn taint(node: &Arc<Value>, now: Timestamp) -> Option<Action> {
    let mut wishes: Vec<(&str, &str)> = Vec::new();
    let is = |name: &str, status: &str| {
        condition(node, name).is_some_and(|it| text(it, &["status"]) == status)
    };
    let is_silent = condition(node, "Ready").is_none();
    for (key, applies) in
        [(NOT_READY, is("Ready", "False") || is_silent), (UNREACHABLE, is("Ready", "Unknown"))]
    {
        if applies {
            wishes.extend([(key, "NoSchedule"), (key, "NoExecute")]);
        }
    }
    wishes.extend(
        PRESSURES.iter().filter(|(name, _)| is(name, "True")).map(|(_, key)| (*key, "NoSchedule")),
    );
    if at(node, &["spec", "unschedulable"]).and_then(Value::as_bool) == Some(true) {
        wishes.push((CLOSED, "NoSchedule"));
    }
    let is_ours = |taint: &Value| {
        let key = text(taint, &["key"]);
        [NOT_READY, UNREACHABLE, CLOSED].contains(&key)
            || PRESSURES.iter().any(|(_, ours)| *ours == key)
    };
    let name =
        |taint: &Value| (text(taint, &["key"]).to_owned(), text(taint, &["effect"]).to_owned());
    let mut taints: Vec<Value> = list(node, &["spec", "taints"])
        .iter()
        .filter(|taint| {
            let is_wished = wishes
                .iter()
                .any(|(key, effect)| name(taint) == ((*key).to_owned(), (*effect).to_owned()));
            !is_ours(taint) || is_wished
        })
        .cloned()
        .collect();
    for (key, effect) in wishes {
        if !taints.iter().any(|it| name(it) == (key.to_owned(), effect.to_owned())) {
            taints.push(json!({"key": key, "effect": effect, "timeAdded": time(now)}));
        }
    }
    if taints == list(node, &["spec", "taints"]) {
        return None;
    }
    let mut changed = Value::clone(node);
    changed["spec"]["taints"] = taints.into();
    Some(Action::Update(NODES, changed))
}

/// What becomes of a pod on a node in this state.
fn bear(pod: &Arc<Value>, node: &Value, now: Timestamp) -> Vec<Action> {
    if is_over(pod) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    let is_unwell = condition(node, "Ready").is_some_and(|it| text(it, &["status"]) != "True");
    if is_unwell && ready_since(pod).is_some() {
        let mut conditions = list(pod, &["status", "conditions"]).to_vec();
        let wish = json!({"type": "Ready", "status": "False", "reason": "NodeNotReady"});
        set_condition(&mut conditions, wish, now);
        let mut changed = Value::clone(pod);
        changed["status"]["conditions"] = conditions.into();
        actions.push(Action::Status(PODS, changed));
    }
    let mut end: Option<Timestamp> = None;
    let taints = list(node, &["spec", "taints"]).iter();
    for taint in taints.filter(|taint| text(taint, &["effect"]) == "NoExecute") {
        let since = moment(taint, &["timeAdded"]).unwrap_or(now);
        let tolerations = list(pod, &["spec", "tolerations"]).iter();
        let borne: Vec<&Value> = tolerations.filter(|it| tolerates(it, taint)).collect();
        let limits = borne.iter().filter_map(|it| number(it, &["tolerationSeconds"]));
        let at = match limits.min() {
            Some(seconds) => Some(later(since, seconds.max(0))),
            None if borne.is_empty() => Some(now),
            None => None,
        };
        end = [end, at].into_iter().flatten().min();
    }
    match end {
        None => {}
        Some(at) if at > now => actions.push(Action::Again(until(at, now))),
        Some(_) => {
            let (namespace, name) = (object::namespace(pod), object::name(pod));
            let message = format!("Marking for deletion Pod {namespace}/{name}");
            let report = Report::new(NAME, pod, false, "TaintManagerEviction", message);
            actions.push(Action::Report(report));
            actions.push(Action::Delete {
                key: Key::of(PODS, pod),
                uid: object::uid(pod).to_owned(),
                deletion: Ask::default(),
                owner: None,
            });
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controllers::fake::Cluster;

    fn start() -> Cluster {
        let mut cluster = Cluster::new(1);
        let ready = json!([{
            "type": "Ready", "status": "True", "lastHeartbeatTime": time(cluster.now),
        }]);
        let node = json!({"metadata": {"name": "a"}, "status": {"conditions": ready}});
        cluster.create(NODES, node).unwrap();
        for (name, seconds) in [("patient", json!(300)), ("eternal", Value::Null)] {
            let tolerations = [NOT_READY, UNREACHABLE]
                .map(|key| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds}));
            let pod = json!({
                "metadata": {"namespace": "default", "name": name},
                "spec": {"nodeName": "a", "tolerations": tolerations},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
            });
            cluster.create(PODS, pod).unwrap();
        }
        renew(&mut cluster);
        cluster
    }

    fn renew(cluster: &mut Cluster) {
        let lease = json!({
            "metadata": {"namespace": LEASE_NAMESPACE, "name": "a"},
            "spec": {"leaseDurationSeconds": 40, "renewTime": format!("{:.6}", cluster.now)},
        });
        if cluster.create(LEASES, lease.clone()).is_err() {
            cluster.update(LEASES, lease, false).unwrap();
        }
    }

    fn taints(cluster: &Cluster) -> Vec<String> {
        let node = cluster.get(NODES, "", "a").unwrap();
        let taints = list(&node, &["spec", "taints"]).iter();
        taints.map(|it| format!("{}:{}", text(it, &["key"]), text(it, &["effect"]))).collect()
    }

    #[test]
    fn a_node_that_renews_its_lease_lives() {
        let mut cluster = start();
        for _ in 0..10 {
            cluster.pass(30);
            renew(&mut cluster);
            cluster.converge(&[&Nodes], false);
        }
        assert!(taints(&cluster).is_empty());
    }

    #[test]
    fn a_silent_node_is_lost_and_its_pods_go_when_their_patience_ends() {
        let mut cluster = start();
        cluster.pass(70);
        cluster.converge(&[&Nodes], false);
        let expected = [format!("{UNREACHABLE}:NoSchedule"), format!("{UNREACHABLE}:NoExecute")];
        assert_eq!(taints(&cluster), expected);
        let patient = |cluster: &Cluster| cluster.get(PODS, "default", "patient").unwrap();
        assert!(ready_since(&patient(&cluster)).is_none());
        assert!(!object::is_terminating(&patient(&cluster)));
        cluster.pass(301);
        cluster.converge(&[&Nodes], false);
        assert!(object::is_terminating(&patient(&cluster)));
        let eternal = cluster.get(PODS, "default", "eternal").unwrap();
        assert!(!object::is_terminating(&eternal));

        renew(&mut cluster);
        let mut node = cluster.get(NODES, "", "a").unwrap();
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        cluster.update(NODES, node, true).unwrap();
        cluster.converge(&[&Nodes], false);
        assert!(taints(&cluster).is_empty());
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let mut cluster = start();
        let mut node = cluster.get(NODES, "", "a").unwrap();
        node["spec"]["unschedulable"] = true.into();
        cluster.update(NODES, node, false).unwrap();
        cluster.converge(&[&Nodes], false);
        assert_eq!(taints(&cluster), [format!("{CLOSED}:NoSchedule")]);
    }
}
