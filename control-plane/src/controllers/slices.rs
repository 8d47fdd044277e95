//! EndpointSlices and Endpoints: where the pods of a Service are.

mod classic;
mod endpoint;
mod pack;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

pub(crate) use self::endpoint::is_selecting;
use self::pack::{Group, Wish, pack};
use super::facts::{control, is_controlled};
use crate::{
    cache::{
        Key, Step, View,
        kinds::{ENDPOINTS, NODES, PODS, SERVICES, SLICES},
    },
    client::Kind,
    object::{self, at, list, text},
    runner::{Action, Controller, act::Ask},
};

/// Plans the EndpointSlices and the Endpoints of Services.
#[derive(Clone, Copy, Debug)]
pub struct Slices;

const NAME: &str = "endpoint-slice-controller";

/// The label that names a slice's Service.
pub const SERVICE: &str = "kubernetes.io/service-name";
/// The label that names who writes a slice.
pub const WRITER: &str = "endpointslice.kubernetes.io/managed-by";
const OURS: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";

impl Controller for Slices {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        &[SERVICES, PODS, SLICES, ENDPOINTS, NODES]
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let both = || [step.old.as_deref(), step.new.as_deref()].into_iter().flatten();
        if step.kind == PODS {
            return endpoint::selecting(step, view);
        }
        if step.kind == NODES {
            let zone = |node: &Value| endpoint::zone(node).to_owned();
            if step.old.as_deref().map(zone) == step.new.as_deref().map(zone) {
                return Vec::new();
            }
            return view.all(SERVICES).map(|service| Key::of(SERVICES, service)).collect();
        }
        let name = |object: &Value| {
            if step.kind == SLICES {
                text(object, &["metadata", "labels", SERVICE]).to_owned()
            } else {
                object::name(object).to_owned()
            }
        };
        both()
            .map(|object| Key::new(SERVICES, object::namespace(object), &name(object)))
            .filter(|key| !key.name.is_empty())
            .collect()
    }

    fn plan(&self, key: &Key, view: &View, _now: Timestamp) -> Vec<Action> {
        let Some(service) = view.at(key) else { return classic::abandoned(key, view) };
        if object::is_terminating(service) {
            return Vec::new();
        }
        if !is_selecting(service) {
            return mirror(service, view);
        }
        let pods = endpoint::pods(service, view);
        let mut groups = BTreeMap::new();
        for family in endpoint::families(service) {
            for pod in &pods {
                endpoint::add(&mut groups, service, pod, &family, view);
            }
            placeholder(&mut groups, &family);
        }
        let mut labels = labels(service, OURS);
        if text(service, &["spec", "clusterIP"]) == "None" {
            labels[HEADLESS] = "".into();
        }
        let wish = Wish { owner: service, labels, prefix: format!("{}-", key.name) };
        let mut actions = pack(&wish, groups, &written(service, service, view, OURS));
        actions.extend(classic::plan(service, &pods, view));
        actions
    }
}

/// A family without endpoints has one empty slice, so that readers see that there are none.
fn placeholder(groups: &mut BTreeMap<(String, String), Group>, family: &str) {
    if !groups.keys().any(|(known, _)| known == family) {
        groups.insert((family.to_owned(), String::new()), Group::default());
    }
}

/// Labels of the slices of a Service.
fn labels(service: &Value, writer: &str) -> Value {
    let mut labels = at(service, &["metadata", "labels"]).cloned().unwrap_or_else(|| json!({}));
    labels[SERVICE] = object::name(service).into();
    labels[WRITER] = writer.into();
    labels
}

/// The slices of a Service that somebody has written for this owner.
fn written<'a>(
    service: &Value,
    owner: &Value,
    view: &'a View,
    writer: &str,
) -> Vec<&'a std::sync::Arc<Value>> {
    let uid = object::uid(owner);
    let slices = view.owned(SLICES, uid).filter(|slice| {
        text(slice, &["metadata", "labels", WRITER]) == writer
            && text(slice, &["metadata", "labels", SERVICE]) == object::name(service)
            && is_controlled(slice, uid)
            && !object::is_terminating(slice)
    });
    slices.collect()
}

/// Slices for Endpoints that somebody has written by hand; what we wrote ourselves goes.
fn mirror(service: &Value, view: &View) -> Vec<Action> {
    let mut actions: Vec<Action> = written(service, service, view, OURS)
        .into_iter()
        .map(|slice| delete(SLICES, slice))
        .collect();
    let Some(endpoints) = view.get(ENDPOINTS, object::namespace(service), object::name(service))
    else {
        return actions;
    };
    if classic::is_ours(endpoints) {
        actions.push(delete(ENDPOINTS, endpoints));
        return actions;
    }
    let skips = text(endpoints, &["metadata", "labels", "endpointslice.kubernetes.io/skip-mirror"]);
    let elects =
        at(endpoints, &["metadata", "annotations", "control-plane.alpha.kubernetes.io/leader"]);
    if skips == "true" || elects.is_some() || text(service, &["spec", "type"]) == "ExternalName" {
        return actions;
    }
    let groups = classic::groups(endpoints);
    let mut labels = labels(service, MIRROR);
    let own = at(endpoints, &["metadata", "labels"]).and_then(Value::as_object);
    for (name, value) in own.into_iter().flatten() {
        if name != SERVICE && name != WRITER {
            labels[name.as_str()] = value.clone();
        }
    }
    let wish = Wish { owner: endpoints, labels, prefix: format!("{}-", object::name(service)) };
    actions.extend(pack(&wish, groups, &written(service, endpoints, view, MIRROR)));
    actions
}

fn delete(kind: Kind, object: &Value) -> Action {
    Action::Delete {
        key: Key::of(kind, object),
        uid: object::uid(object).to_owned(),
        deletion: Ask::default(),
        owner: None,
    }
}

/// The frame of a new slice.
fn frame(wish: &Wish<'_>, family: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "generateName": wish.prefix,
            "namespace": object::namespace(wish.owner),
            "labels": wish.labels,
            "ownerReferences": [control(wish.owner)],
        },
        "addressType": family,
    })
}

/// The addresses of a pod, of one family.
fn address<'a>(pod: &'a Value, family: &str) -> Option<&'a str> {
    let addresses = list(pod, &["status", "podIPs"]);
    let mut addresses = addresses.iter().map(|address| text(address, &["ip"]));
    let found = addresses.find(|address| address.contains(':') == (family == "IPv6"));
    let only = text(pod, &["status", "podIP"]);
    found.or_else(|| {
        Some(only).filter(|ip| !ip.is_empty() && ip.contains(':') == (family == "IPv6"))
    })
}

#[cfg(test)]
mod tests;
