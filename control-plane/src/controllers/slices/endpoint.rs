//! From a pod to an endpoint: addresses, ports, conditions, hints.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    address,
    pack::{Group, identity},
};
use crate::{
    cache::{
        Key, Step, View,
        kinds::{NODES, PODS, SERVICES},
    },
    controllers::facts::{is_over, ready_since},
    object::{self, at, list, text},
    selector::Selector,
};

const ZONE: &str = "topology.kubernetes.io/zone";

/// Whether a Service selects pods.
pub(crate) fn is_selecting(service: &Value) -> bool {
    let selector = at(service, &["spec", "selector"]).and_then(Value::as_object);
    selector.is_some_and(|selector| !selector.is_empty())
        && text(service, &["spec", "type"]) != "ExternalName"
}

/// The Services whose endpoints a change of a pod may change.
pub(super) fn selecting(step: &Step, view: &View) -> Vec<Key> {
    let (old, new) = (step.old.as_deref(), step.new.as_deref());
    let facts = |pod: &Value| {
        (
            pod["metadata"]["labels"].clone(),
            pod["status"]["podIPs"].clone(),
            pod["spec"]["nodeName"].clone(),
            (ready_since(pod).is_some(), object::is_terminating(pod), is_over(pod)),
        )
    };
    if old.map(facts) == new.map(facts) {
        return Vec::new();
    }
    let pods: Vec<&Value> = old.into_iter().chain(new).collect();
    let namespace = pods.first().map_or("", |pod| object::namespace(pod));
    view.inside(SERVICES, namespace)
        .filter(|service| is_selecting(service))
        .filter(|service| {
            let selector = Selector::of(&service["spec"]["selector"]);
            pods.iter().any(|pod| selector.selects(pod))
        })
        .map(|service| Key::of(SERVICES, service))
        .collect()
}

/// The pods that a Service selects, but for those that have come to their end.
pub(super) fn pods(service: &Value, view: &View) -> Vec<Arc<Value>> {
    let selector = Selector::of(&service["spec"]["selector"]);
    view.inside(PODS, object::namespace(service))
        .filter(|pod| !is_over(pod) && selector.selects(pod))
        .cloned()
        .collect()
}

/// The families of a Service's addresses.
pub(super) fn families(service: &Value) -> Vec<String> {
    let families: Vec<String> = list(service, &["spec", "ipFamilies"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if families.is_empty() { vec!["IPv4".to_owned()] } else { families }
}

/// The zone of a node.
pub(super) fn zone(node: &Value) -> &str {
    text(node, &["metadata", "labels", ZONE])
}

/// Whether pods are published before they are ready.
pub(super) fn publishes_unready(service: &Value) -> bool {
    at(service, &["spec", "publishNotReadyAddresses"]).and_then(Value::as_bool) == Some(true)
}

/// Adds a pod to the group of endpoints with its ports, if it has an address of the family.
pub(super) fn add(
    groups: &mut BTreeMap<(String, String), Group>,
    service: &Value,
    pod: &Value,
    family: &str,
    view: &View,
) {
    let Some(address) = address(pod, family) else { return };
    let ports = ports(service, pod);
    let group = groups.entry((family.to_owned(), Value::from(ports.clone()).to_string()));
    let group = group.or_insert_with(|| Group { ports, endpoints: BTreeMap::new() });
    let endpoint = endpoint(service, pod, address, view);
    group.endpoints.insert(identity(&endpoint), endpoint);
}

/// The ports of a Service as a pod has them; named ports that it does not have are left out.
pub(super) fn ports(service: &Value, pod: &Value) -> Vec<Value> {
    let resolve = |port: &Value| {
        let protocol = match text(port, &["protocol"]) {
            "" => "TCP",
            protocol => protocol,
        };
        let number = match at(port, &["targetPort"]) {
            Some(Value::String(name)) => named(pod, name, protocol)?,
            Some(Value::Number(number)) if number.as_i64() != Some(0) => number.as_i64()?,
            _ => port["port"].as_i64()?,
        };
        let mut resolved =
            json!({"name": text(port, &["name"]), "protocol": protocol, "port": number});
        if let Some(application) = at(port, &["appProtocol"]) {
            resolved["appProtocol"] = application.clone();
        }
        Some(resolved)
    };
    list(service, &["spec", "ports"]).iter().filter_map(resolve).collect()
}

fn named(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let sidecars = list(pod, &["spec", "initContainers"])
        .iter()
        .filter(|container| text(container, &["restartPolicy"]) == "Always");
    let containers = list(pod, &["spec", "containers"]).iter().chain(sidecars);
    let mut ports = containers.flat_map(|container| list(container, &["ports"]));
    let found = ports.find(|port| {
        let theirs = text(port, &["protocol"]);
        text(port, &["name"]) == name && (theirs == protocol || theirs.is_empty())
    });
    found.and_then(|port| port["containerPort"].as_i64())
}

fn endpoint(service: &Value, pod: &Value, address: &str, view: &View) -> Value {
    let serving = ready_since(pod).is_some();
    let terminating = object::is_terminating(pod);
    let ready = publishes_unready(service) || (serving && !terminating);
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": {
            "kind": "Pod", "namespace": object::namespace(pod),
            "name": object::name(pod), "uid": object::uid(pod),
        },
    });
    let node = text(pod, &["spec", "nodeName"]);
    let zone = view.get(NODES, "", node).map_or("", |node| zone(node));
    if !node.is_empty() {
        endpoint["nodeName"] = node.into();
    }
    if !zone.is_empty() {
        endpoint["zone"] = zone.into();
    }
    let hostname = text(pod, &["spec", "hostname"]);
    let is_of_service = text(pod, &["spec", "subdomain"]) == object::name(service);
    if !hostname.is_empty() && is_of_service {
        endpoint["hostname"] = hostname.into();
    }
    let hints = hints(text(service, &["spec", "trafficDistribution"]), node, zone);
    if let Some(hints) = hints.filter(|_| ready) {
        endpoint["hints"] = hints;
    }
    endpoint
}

/// Where the clients of an endpoint should be.
fn hints(distribution: &str, node: &str, zone: &str) -> Option<Value> {
    let is_near = matches!(distribution, "PreferClose" | "PreferSameZone" | "PreferSameNode");
    let mut hints = json!({});
    if is_near && !zone.is_empty() {
        hints["forZones"] = json!([{"name": zone}]);
    }
    if distribution == "PreferSameNode" && !node.is_empty() {
        hints["forNodes"] = json!([{"name": node}]);
    }
    hints.as_object().is_some_and(|hints| !hints.is_empty()).then_some(hints)
}
