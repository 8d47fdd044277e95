//! `autoscaling/v1` `Scale`: how many replicas, of whatever has them.

use axum::{
    http::{StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};

use super::{
    answer,
    asked::{Asked, decode},
    negotiate,
    status::{Cause, Failure, Reason},
    write,
};
use crate::{
    object::{self, at, map},
    registry::{Part, Registry},
    resource::Resource,
};

fn of(resource: &Resource, object: &Value) -> Value {
    let metadata = object.get("metadata");
    let field = |name: &str| metadata.and_then(|it| it.get(name)).cloned();
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": field("name"), "namespace": field("namespace"), "uid": field("uid"),
            "resourceVersion": field("resourceVersion"), "creationTimestamp": field("creationTimestamp"),
        },
        "spec": {"replicas": object::number(object, &["spec", "replicas"]).unwrap_or(0)},
        "status": {
            "replicas": object::number(object, &["status", "replicas"]).unwrap_or(0),
            "selector": selector(resource, object),
        },
    })
}

/// A selector as text.
fn selector(resource: &Resource, object: &Value) -> String {
    let path: &[&str] = match resource.plural {
        "replicationcontrollers" => &["spec", "selector"],
        _ => &["spec", "selector", "matchLabels"],
    };
    let labels = at(object, path).and_then(Value::as_object).into_iter().flatten();
    let mut parts: Vec<String> = labels
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    for expression in object::list(object, &["spec", "selector", "matchExpressions"]) {
        let values: Vec<&str> =
            object::list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        let key = object::text(expression, &["key"]);
        parts.push(match object::text(expression, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    parts.join(",")
}

/// Reads, replaces or patches a scale.
pub async fn serve(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
    verb: &str,
) -> Result<Response, Failure> {
    let scope = asked.scope(resource)?;
    let name = &asked.target.name;
    let object = match verb {
        "get" => registry.get(&scope, name).await?,
        "update" | "patch" => {
            let media = negotiate::media(asked.header(header::CONTENT_TYPE));
            let body = decode(&media, &asked.body)?;
            let change = |old: &Value| {
                let mut scale = of(resource, old);
                if verb == "patch" {
                    write::apply(&media, "Scale", &mut scale, &body)?;
                } else {
                    scale = body.clone();
                }
                let replicas = object::number(&scale, &["spec", "replicas"]).unwrap_or(0);
                if replicas < 0 {
                    let why = "must be greater than or equal to 0";
                    let cause = Cause::invalid("spec.replicas", &json!(replicas), why);
                    return Err(Failure::invalid("Scale", "autoscaling", name, vec![cause]));
                }
                let mut new = old.clone();
                let metadata = map(&mut new, &["metadata"]);
                match object::text(&scale, &["metadata", "resourceVersion"]) {
                    "" => drop(metadata.remove("resourceVersion")),
                    version => drop(metadata.insert("resourceVersion".into(), json!(version))),
                }
                map(&mut new, &["spec"]).insert("replicas".into(), json!(replicas));
                Ok(new)
            };
            registry.change(&scope, name, Part::Object, &change).await?
        }
        _ => {
            return Err(Failure::new(
                Reason::MethodNotAllowed,
                "a scale is read, replaced or patched",
            ));
        }
    };
    let scale = of(resource, &object);
    let mut response = answer::value(&scale, asked.answer()?.format);
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}
