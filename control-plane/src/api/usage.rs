//! `metrics.k8s.io`: what nodes and pods use, asked of the nodes when somebody wants to know.

use std::{collections::BTreeMap, time::Duration};

use axum::{body::to_bytes, response::Response};
use futures::future::join_all;
use serde_json::{Value, json};

use super::{
    answer,
    asked::{Asked, BODY_MAX},
    connect::{self, Nodes},
    status::{Failure, Reason},
};
use crate::{
    client::Kind,
    object::{self, at, list, text},
    registry::{Registry, Scope, encoded},
    resource::{self, Resource},
};

/// Group of these resources.
pub const GROUP: &str = "metrics.k8s.io";
const API: &str = "metrics.k8s.io/v1beta1";
const NODES: Kind = Kind { group: "", plural: "nodes" };
const PODS: Kind = Kind { group: "", plural: "pods" };
/// A node that takes longer is left out.
const WITHIN: Duration = Duration::from_secs(5);

/// Answers for nodes or pods, one or all.
pub async fn serve(
    registry: &Registry,
    nodes: &Nodes,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let is_node = resource.plural == "nodes";
    let kind = if is_node { NODES } else { PODS };
    let labels = labels(registry, kind, &asked.target.namespace).await?;
    let summaries = summaries(registry, nodes).await?;
    let mut items: Vec<Value> = if is_node {
        summaries.iter().filter_map(|it| node(&it["node"], &labels)).collect()
    } else {
        let pods = summaries.iter().flat_map(|it| list(it, &["pods"]));
        pods.filter_map(|it| pod(it, &labels)).collect()
    };
    let target = &asked.target;
    items.retain(|it| {
        (target.namespace.is_empty() || object::namespace(it) == target.namespace)
            && (target.name.is_empty() || object::name(it) == target.name)
    });
    let (labels, _) = asked.selectors(resource)?;
    items.retain(|it| labels.selects(it));
    let format = asked.answer()?.format;
    if target.name.is_empty() {
        let list = json!({
            "kind": format!("{}List", resource.kind), "apiVersion": API, "metadata": {}, "items": items,
        });
        return Ok(answer::value(&list, format));
    }
    if let Some(item) = items.pop() {
        return Ok(answer::value(&item, format));
    }
    let words = format!("{}.{GROUP} {:?} not found", resource.plural, target.name);
    Err(Failure::new(Reason::NotFound, words))
}

type Labels = BTreeMap<(String, String), Value>;

async fn labels(registry: &Registry, kind: Kind, namespace: &str) -> Result<Labels, Failure> {
    let objects = all(registry, kind, namespace).await?;
    let pair = |it: &Value| {
        let key = (object::namespace(it).to_owned(), object::name(it).to_owned());
        (key, at(it, &["metadata", "labels"]).cloned().unwrap_or_else(|| json!({})))
    };
    Ok(objects.iter().map(pair).collect())
}

async fn all(registry: &Registry, kind: Kind, namespace: &str) -> Result<Vec<Value>, Failure> {
    let Some(known) = resource::by_id(kind) else { return Ok(Vec::new()) };
    let listing = registry.list(&Scope::new(known, namespace), None, 0, None).await?;
    Ok(listing.entries.iter().map(encoded::decoded).collect())
}

async fn summaries(registry: &Registry, nodes: &Nodes) -> Result<Vec<Value>, Failure> {
    let all = all(registry, NODES, "").await?;
    let asked = all.iter().map(|node| async move {
        let request = connect::question("/stats/summary").ok()?;
        let answer = tokio::time::timeout(WITHIN, nodes.ask(node, "/stats/summary", request));
        let body = answer.await.ok()?.ok()?.into_body();
        serde_json::from_slice(&to_bytes(body, BODY_MAX).await.ok()?).ok()
    });
    Ok(join_all(asked).await.into_iter().flatten().collect())
}

fn quantities(cpu: &Value, memory: &Value) -> Value {
    let cpu = cpu["usageNanoCores"].as_u64().unwrap_or(0);
    let memory = memory["workingSetBytes"].as_u64().unwrap_or(0) / 1024;
    json!({"cpu": format!("{cpu}n"), "memory": format!("{memory}Ki")})
}

fn seconds(time: &Value) -> Value {
    // The API's times are whole seconds.
    let time = time.as_str().and_then(|it| it.parse::<jiff::Timestamp>().ok());
    json!(time.map(|it| format!("{it:.0}")))
}

fn node(summary: &Value, labels: &Labels) -> Option<Value> {
    let name = text(summary, &["nodeName"]);
    let own = labels.get(&(String::new(), name.to_owned()))?;
    Some(json!({
        "kind": "NodeMetrics", "apiVersion": API, "metadata": {"name": name, "labels": own},
        "timestamp": seconds(&summary["cpu"]["time"]), "window": "10s",
        "usage": quantities(&summary["cpu"], &summary["memory"]),
    }))
}

fn pod(summary: &Value, labels: &Labels) -> Option<Value> {
    let (namespace, name) =
        (text(summary, &["podRef", "namespace"]), text(summary, &["podRef", "name"]));
    let own = labels.get(&(namespace.to_owned(), name.to_owned()))?;
    let containers = list(summary, &["containers"]);
    let time = containers.first().map(|it| seconds(&it["cpu"]["time"]));
    let containers: Vec<Value> = containers
        .iter()
        .map(|it| json!({"name": it["name"], "usage": quantities(&it["cpu"], &it["memory"])}))
        .collect();
    Some(json!({
        "kind": "PodMetrics", "apiVersion": API,
        "metadata": {"name": name, "namespace": namespace, "labels": own},
        "timestamp": time, "window": "10s", "containers": containers,
    }))
}
