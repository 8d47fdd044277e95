//! Endpoints, the older form of EndpointSlices, for those who still read or write them.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    HEADLESS, address, delete, endpoint,
    pack::{Group, identity},
};
use crate::{
    cache::{Key, View, kinds::ENDPOINTS},
    controllers::facts::{dense, ready_since},
    object::{self, at, list, text},
    runner::Action,
};

const WRITER: &str = "endpoints.kubernetes.io/managed-by";
const OURS: &str = "endpoint-controller";
const TRUNCATED: &str = "endpoints.kubernetes.io/over-capacity";

/// Addresses in one object at most.
const ADDRESSES_MAX: usize = 1000;

/// Whether we have written Endpoints.
pub(super) fn is_ours(endpoints: &Value) -> bool {
    text(endpoints, &["metadata", "labels", WRITER]) == OURS
}

/// What to do with Endpoints whose Service is gone.
pub(super) fn abandoned(key: &Key, view: &View) -> Vec<Action> {
    let endpoints = view.get(ENDPOINTS, &key.namespace, &key.name);
    let ours = endpoints.filter(|it| is_ours(it) && !object::is_terminating(it));
    ours.map(|endpoints| delete(ENDPOINTS, endpoints)).into_iter().collect()
}

/// What to do so that Endpoints tell where pods are.
pub(super) fn plan(service: &Value, pods: &[Arc<Value>], view: &View) -> Option<Action> {
    let (namespace, name) = (object::namespace(service), object::name(service));
    let (subsets, is_cut) = subsets(service, pods);
    let old = view.get(ENDPOINTS, namespace, name);
    let mut object = old.map_or_else(
        || {
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": {"name": name, "namespace": namespace},
            })
        },
        |old| Value::clone(old),
    );
    object["subsets"] = subsets.into();
    let mut labels = at(service, &["metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
    labels[WRITER] = OURS.into();
    if text(service, &["spec", "clusterIP"]) == "None" {
        labels[HEADLESS] = "".into();
    }
    object["metadata"]["labels"] = labels;
    let annotations = object::map(&mut object, &["metadata", "annotations"]);
    if is_cut {
        annotations.insert(TRUNCATED.into(), "truncated".into());
    } else {
        annotations.remove(TRUNCATED);
    }
    match old {
        None => Some(Action::Create { kind: ENDPOINTS, object, owner: None }),
        Some(old) => {
            let bare = |object: &Value| {
                let mut object = dense(object);
                if list(&object, &["subsets"]).is_empty() {
                    object::map(&mut object, &[]).remove("subsets");
                }
                object
            };
            let is_same = bare(&object) == bare(old);
            if is_same { None } else { Some(Action::Update(ENDPOINTS, object)) }
        }
    }
}

/// Addresses by the ports that they have in common, and whether some are left out.
fn subsets(service: &Value, pods: &[Arc<Value>]) -> (Vec<Value>, bool) {
    let families = endpoint::families(service);
    let family = families.first().map_or("IPv4", String::as_str);
    let publishes = endpoint::publishes_unready(service);
    let mut groups: BTreeMap<String, (Vec<Value>, [Vec<Value>; 2])> = BTreeMap::new();
    let (mut count, mut is_cut) = (0, false);
    for pod in pods {
        let Some(address) = address(pod, family) else { continue };
        if object::is_terminating(pod) && !publishes {
            continue;
        }
        if count == ADDRESSES_MAX {
            is_cut = true;
            break;
        }
        count += 1;
        let ports = endpoint::ports(service, pod);
        let mut entry = json!({
            "ip": address,
            "targetRef": {
                "kind": "Pod", "namespace": object::namespace(pod),
                "name": object::name(pod), "uid": object::uid(pod),
            },
        });
        let node = text(pod, &["spec", "nodeName"]);
        if !node.is_empty() {
            entry["nodeName"] = node.into();
        }
        let hostname = text(pod, &["spec", "hostname"]);
        if !hostname.is_empty() && text(pod, &["spec", "subdomain"]) == object::name(service) {
            entry["hostname"] = hostname.into();
        }
        let group = groups.entry(Value::from(ports.clone()).to_string());
        let (_, [ready, unready]) = group.or_insert_with(|| (ports, [Vec::new(), Vec::new()]));
        let is_ready = publishes || ready_since(pod).is_some();
        if is_ready { ready.push(entry) } else { unready.push(entry) }
    }
    let subset = |(ports, [ready, unready]): (Vec<Value>, [Vec<Value>; 2])| {
        let mut subset = json!({});
        for (field, values) in
            [("addresses", ready), ("notReadyAddresses", unready), ("ports", named(ports))]
        {
            if !values.is_empty() {
                subset[field] = values.into();
            }
        }
        subset
    };
    (groups.into_values().map(subset).collect(), is_cut)
}

/// Ports as Endpoints have them: without a name rather than with an empty one.
fn named(mut ports: Vec<Value>) -> Vec<Value> {
    for port in &mut ports {
        if text(port, &["name"]).is_empty() {
            object::map(port, &[]).remove("name");
        }
    }
    ports
}

/// Endpoints that somebody has written by hand, by family and ports.
pub(super) fn groups(endpoints: &Value) -> BTreeMap<(String, String), Group> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for subset in list(endpoints, &["subsets"]) {
        let ports: Vec<Value> = list(subset, &["ports"])
            .iter()
            .map(|port| {
                let mut port = port.clone();
                object::set_default(object::map(&mut port, &[]), "name", || "".into());
                object::set_default(object::map(&mut port, &[]), "protocol", || "TCP".into());
                port
            })
            .collect();
        for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
            for address in list(subset, &[field]).iter().take(ADDRESSES_MAX) {
                let ip = text(address, &["ip"]);
                let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
                let mut endpoint = json!({
                    "addresses": [ip],
                    "conditions": {"ready": ready, "serving": ready, "terminating": false},
                });
                for field in ["hostname", "nodeName", "targetRef"] {
                    if let Some(value) = at(address, &[field]) {
                        endpoint[field] = value.clone();
                    }
                }
                let key = (family.to_owned(), Value::from(ports.clone()).to_string());
                let group = groups
                    .entry(key)
                    .or_insert_with(|| Group { ports: ports.clone(), endpoints: BTreeMap::new() });
                group.endpoints.insert(identity(&endpoint), endpoint);
            }
        }
    }
    groups
}
