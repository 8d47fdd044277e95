//! What the server can do, as clients ask for it before anything else.

use std::collections::BTreeMap;

use axum::{
    body::Body,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use crate::resource::{Part, RESOURCES, Resource, Verbs, api_version};

fn verbs(resource: &Resource) -> Vec<&'static str> {
    match resource.verbs {
        Verbs::All => {
            vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
        }
        Verbs::CreateOnly => vec!["create"],
        Verbs::ReadOnly => vec!["get", "list"],
    }
}

/// Groups with their resources; the core group comes first.
fn groups() -> BTreeMap<&'static str, Vec<&'static Resource>> {
    let mut groups: BTreeMap<&str, Vec<&Resource>> = BTreeMap::new();
    for resource in RESOURCES {
        groups.entry(resource.group).or_default().push(resource);
    }
    groups
}

fn kind_of(resource: &Resource, part: &Part) -> (String, String, String) {
    if part.kind.is_empty() {
        (resource.group.into(), resource.version.into(), resource.kind.into())
    } else {
        (part.group.into(), part.version.into(), part.kind.into())
    }
}

/// `/api/v1`, `/apis/apps/v1`; nothing if there is no such group.
pub fn resources(group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in RESOURCES.iter().filter(|it| it.group == group && it.version == version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": verbs(resource),
        });
        if !resource.short.is_empty() {
            entry["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for part in resource.parts {
            let (group, version, kind) = kind_of(resource, part);
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, part.name), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": part.verbs,
            });
            if !part.version.is_empty() {
                entry["group"] = json!(group);
                entry["version"] = json!(version);
            }
            list.push(entry);
        }
    }
    (!list.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version(group, version),
            "resources": list,
        })
    })
}

/// `/apis/<group>`.
pub fn group(name: &str) -> Option<Value> {
    let of = RESOURCES.iter().find(|it| it.group == name && !name.is_empty())?;
    let version = json!({"groupVersion": of.api_version(), "version": of.version});
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": [version],
        "preferredVersion": version,
    }))
}

/// `/apis`, in the plain way.
fn group_list() -> Value {
    let groups: Vec<Value> = groups().keys().filter_map(|name| group(name)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/api`, in the plain way.
fn versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn aggregated(core: bool, version: &str) -> Value {
    let kind_json = |(group, version, kind): (String, String, String)| json!({"group": group, "version": version, "kind": kind});
    let scope = |it: &Resource| if it.namespaced { "Namespaced" } else { "Cluster" };
    let resource_json = |it: &&Resource| {
        let parts: Vec<Value> = it
            .parts
            .iter()
            .map(|part| {
                json!({
                    "subresource": part.name, "responseKind": kind_json(kind_of(it, part)), "verbs": part.verbs,
                })
            })
            .collect();
        let mut entry = json!({
            "resource": it.plural, "singularResource": it.singular, "scope": scope(it),
            "responseKind": {"group": it.group, "version": it.version, "kind": it.kind},
            "verbs": verbs(it),
        });
        for (name, list) in [("shortNames", it.short), ("categories", it.categories)] {
            if !list.is_empty() {
                entry[name] = json!(list);
            }
        }
        if !parts.is_empty() {
            entry["subresources"] = json!(parts);
        }
        entry
    };
    let mut items = Vec::new();
    for (name, list) in groups().into_iter().filter(|(name, _)| name.is_empty() == core) {
        let resources: Vec<Value> = list.iter().map(resource_json).collect();
        let version = list.first().map_or("v1", |it| it.version);
        let versions =
            json!([{"version": version, "resources": resources, "freshness": "Current"}]);
        let metadata = if name.is_empty() {
            json!({"creationTimestamp": null})
        } else {
            json!({"name": name})
        };
        items.push(json!({"metadata": metadata, "versions": versions}));
    }
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

/// `/api` and `/apis`: all at once if the client takes it so.
pub fn root(core: bool, accept: &str) -> Response {
    for media in accept.split(',') {
        if !media.contains("as=APIGroupDiscoveryList") {
            continue;
        }
        let version = if media.contains("v=v2beta1") { "v2beta1" } else { "v2" };
        let kind =
            format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let kind = HeaderValue::from_str(&kind)
            .unwrap_or_else(|_| HeaderValue::from_static("application/json"));
        let body = Body::from(aggregated(core, version).to_string());
        return ([(header::CONTENT_TYPE, kind)], body).into_response();
    }
    super::answer::json_text(if core { versions() } else { group_list() }.to_string())
}
