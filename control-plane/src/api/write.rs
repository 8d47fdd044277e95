//! Writing: create, update, patch, delete.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use super::{
    answer,
    asked::{Asked, decode},
    negotiate,
    status::{Cause, Failure, Reason},
};
use crate::{
    client::Propagation,
    object::{self, map},
    ownership::{self, Operation},
    patch,
    registry::{Delete, Deleted, Part, Registry, encoded},
    resource::Resource,
    schema,
};

/// The most operations that a JSON patch may have.
const OPERATIONS_MAX: usize = 10_000;

/// A new object.
pub async fn create(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let mut object = body_of(asked, resource)?;
    let unknown = checked(asked, resource, &mut object)?;
    let object = registry.create(&asked.scope(resource)?, object, false).await?;
    Ok(warned(answer::object(asked, resource, object, StatusCode::CREATED), &unknown))
}

/// Takes out what the kind does not have, or refuses it, as `fieldValidation` says; the warnings.
fn checked(asked: &Asked, resource: &Resource, object: &mut Value) -> Result<Vec<String>, Failure> {
    let Some(kind) = schema::of(&resource.api_version(), resource.kind) else {
        return Ok(Vec::new());
    };
    let refuse = |why: &str| {
        let (kind, version) = (resource.kind, resource.version);
        let words = format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}");
        Failure::new(Reason::BadRequest, words)
    };
    let unknown = schema::prune(object, kind, resource.kind)
        .map_err(|mismatch| refuse(&mismatch.to_string()))?;
    let unknown: Vec<String> = unknown.iter().map(|it| format!("unknown field {it:?}")).collect();
    match asked.query.text("fieldValidation") {
        "Ignore" => Ok(Vec::new()),
        "Strict" if !unknown.is_empty() => {
            Err(refuse(&format!("strict decoding error: {}", unknown.join(", "))))
        }
        "" | "Warn" | "Strict" => Ok(unknown),
        other => {
            let words = format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Warn\", \"Strict\""
            );
            Err(Failure::new(Reason::Invalid, words))
        }
    }
}

/// An answer with `Warning` headers (RFC 7234, section 5.5; 299 is miscellaneous).
fn warned(mut response: Response, warnings: &[String]) -> Response {
    for warning in warnings {
        let text = format!("299 - {warning:?}");
        if let Ok(text) = header::HeaderValue::from_str(&text) {
            response.headers_mut().append(header::WARNING, text);
        }
    }
    response
}

/// The body, which has to be of the resource's kind.
fn body_of(asked: &Asked, resource: &Resource) -> Result<Value, Failure> {
    let object = asked.object()?;
    if !object.is_object() {
        return Err(Failure::new(Reason::BadRequest, "the body of the request is no object"));
    }
    let kind = object::text(&object, &["kind"]);
    let version = object::text(&object, &["apiVersion"]);
    let is_other = (!kind.is_empty() && kind != resource.kind)
        || (!version.is_empty() && version != resource.api_version());
    if is_other {
        let words = format!(
            "{kind} in version {version:?} cannot be handled as a {}: no kind {kind:?} is registered \
             for version {version:?} here",
            resource.kind
        );
        return Err(Failure::new(Reason::BadRequest, words));
    }
    Ok(object)
}

fn part_of(asked: &Asked) -> Part {
    match asked.target.subresource.as_str() {
        "status" => Part::Status,
        "finalize" | "ephemeralcontainers" | "resize" => Part::Whole,
        _ => Part::Object,
    }
}

/// Another object in the place of one.
pub async fn update(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let mut object = body_of(asked, resource)?;
    let unknown = checked(asked, resource, &mut object)?;
    let scope = asked.scope(resource)?;
    let part = part_of(asked);
    let name = &asked.target.name;
    let given = object::name(&object);
    if given.is_empty() {
        let words = "the name of the object must be set";
        return Err(Failure::new(Reason::BadRequest, words));
    }
    let object =
        registry.change(&scope, name, part, &|old| Ok(narrowed(asked, old, &object))).await?;
    Ok(warned(answer::object(asked, resource, object, StatusCode::OK), &unknown))
}

/// What a subresource may change, on what is there.
fn narrowed(asked: &Asked, old: &Value, new: &Value) -> Value {
    let field = match asked.target.subresource.as_str() {
        "resize" => return resized(old, new),
        "finalize" => "finalizers",
        "ephemeralcontainers" => "ephemeralContainers",
        _ => return new.clone(),
    };
    let mut object = old.clone();
    let value = object::at(new, &["spec", field]).cloned().unwrap_or_else(|| json!([]));
    map(&mut object, &["spec"]).insert(field.into(), value);
    object
}

/// A pod whose containers have the resources of another one's.
fn resized(old: &Value, new: &Value) -> Value {
    let mut pod = old.clone();
    for field in ["containers", "initContainers"] {
        let wanted = object::list(new, &["spec", field]);
        let spec = map(&mut pod, &["spec"]);
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = object::text(container, &["name"]).to_owned();
            let other = wanted.iter().find(|it| object::text(it, &["name"]) == name);
            if let Some(resources) = other.and_then(|it| it.get("resources")) {
                map(container, &[]).insert("resources".into(), resources.clone());
            }
        }
    }
    pod
}

/// An object that a patch changes.
pub async fn patch(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let media = negotiate::media(asked.header(header::CONTENT_TYPE));
    let body = decode(&media, &asked.body)?;
    if media == "application/apply-patch+yaml" {
        return server_side_apply(registry, asked, resource, body).await;
    }
    if body.as_array().is_some_and(|it| it.len() > OPERATIONS_MAX) {
        let words = format!("a JSON patch has at most {OPERATIONS_MAX} operations");
        return Err(Failure::new(Reason::RequestEntityTooLarge, words));
    }
    let scope = asked.scope(resource)?;
    let part = part_of(asked);
    let change = |old: &Value| {
        let mut new = old.clone();
        apply(&media, resource.kind, &mut new, &body)?;
        checked(asked, resource, &mut new)?;
        // Without a version of its own, a patch applies to whatever is there.
        if object::at(&body, &["metadata", "resourceVersion"]).is_none() {
            map(&mut new, &["metadata"]).remove("resourceVersion");
        }
        Ok(narrowed(asked, old, &new))
    };
    let object = registry.change(&scope, &asked.target.name, part, &change).await?;
    Ok(answer::object(asked, resource, object, StatusCode::OK))
}

/// A configuration that is applied; what is not there is created.
async fn server_side_apply(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
    mut config: Value,
) -> Result<Response, Failure> {
    if asked.query.text("fieldManager").is_empty() {
        let why = "is required for apply patch";
        let cause = Cause::required("fieldManager", why);
        return Err(Failure::invalid("PatchOptions", "meta.k8s.io", "", vec![cause]));
    }
    if !object::list(&config, &["metadata", "managedFields"]).is_empty() {
        let words = "metadata.managedFields must be nil";
        return Err(Failure::new(Reason::BadRequest, words));
    }
    let unknown = checked(asked, resource, &mut config)?;
    let force = asked.query.is_on("force");
    let mut scope = asked.scope(resource)?;
    scope.operation = Operation::Apply;
    let name = &asked.target.name;
    let given = object::text(&config, &["metadata", "resourceVersion"]).to_owned();
    let change = |old: &Value| {
        let now = crate::registry::now();
        let mut new = ownership::apply(old, &config, resource, &scope.writer(&now), force)?;
        map(&mut new, &["metadata"]).insert("resourceVersion".into(), json!(given));
        Ok(new)
    };
    let part = part_of(asked);
    let (object, code) = match registry.change(&scope, name, part, &change).await {
        Err(failure)
            if failure.reason() == Reason::NotFound && asked.target.subresource.is_empty() =>
        {
            let mut new = change(&json!({}))?;
            let metadata = map(&mut new, &["metadata"]);
            metadata.insert("name".into(), json!(name));
            (registry.create(&scope, new, false).await?, StatusCode::CREATED)
        }
        other => (other?, StatusCode::OK),
    };
    Ok(warned(answer::object(asked, resource, object, code), &unknown))
}

/// Applies a patch of this media type.
pub(super) fn apply(
    media: &str,
    kind: &str,
    object: &mut Value,
    body: &Value,
) -> Result<(), Failure> {
    let done = match media {
        "application/json-patch+json" => patch::json::apply(object, body),
        "application/merge-patch+json" => {
            patch::merge::apply(object, body.clone());
            Ok(())
        }
        "application/strategic-merge-patch+json" => {
            patch::strategic::apply(kind, object, body.clone())
        }
        other => {
            let words = format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, \
                 application/strategic-merge-patch+json, application/apply-patch+yaml; it was {other}"
            );
            return Err(Failure::new(Reason::UnsupportedMediaType, words));
        }
    };
    done.map_err(|error| match error {
        patch::Error::Malformed(words) => Failure::new(Reason::BadRequest, words),
        patch::Error::DoesNotFit(words) => Failure::new(Reason::Invalid, words),
    })
}

/// From the body and the parameters.
fn deletion(asked: &Asked) -> Result<Delete, Failure> {
    let body = asked.object()?;
    let text = |path: &[&str]| {
        let text = object::text(&body, path);
        (!text.is_empty()).then(|| text.to_owned())
    };
    let orphan = object::at(&body, &["orphanDependents"]).and_then(Value::as_bool);
    let named = text(&["propagationPolicy"])
        .unwrap_or_else(|| asked.query.text("propagationPolicy").to_owned());
    let propagation = match (named.as_str(), orphan) {
        ("", None) => None,
        ("Background", _) | ("", Some(false)) => Some(Propagation::Background),
        ("Foreground", _) => Some(Propagation::Foreground),
        ("Orphan", _) | ("", Some(true)) => Some(Propagation::Orphan),
        (other, _) => {
            let words = format!(
                "invalid value: {other:?}: propagationPolicy is Foreground, Background or Orphan"
            );
            return Err(Failure::new(Reason::Invalid, words));
        }
    };
    let grace = object::number(&body, &["gracePeriodSeconds"]);
    Ok(Delete {
        uid: text(&["preconditions", "uid"]),
        version: text(&["preconditions", "resourceVersion"]),
        grace_s: grace.or(asked.query.number("gracePeriodSeconds")?),
        propagation,
    })
}

fn dry(asked: &Asked) -> Result<bool, Failure> {
    let body = asked.object()?;
    Ok(asked.query.dry_run()? || object::list(&body, &["dryRun"]).iter().any(|it| it == "All"))
}

/// An object that goes.
pub async fn delete(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let mut scope = asked.scope(resource)?;
    scope.dry_run = dry(asked)?;
    let deleted = registry.delete(&scope, &asked.target.name, &deletion(asked)?).await?;
    match deleted {
        Deleted::Gone(object) if resource.plural != "pods" => {
            let details = json!({
                "name": object::name(&object), "group": resource.group, "kind": resource.plural,
                "uid": object::uid(&object),
            });
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
            });
            Ok(answer::value(&status, asked.answer()?.format))
        }
        Deleted::Gone(object) | Deleted::Marked(object) => {
            Ok(answer::object(asked, resource, object, StatusCode::OK))
        }
    }
}

/// All objects that selectors choose.
pub async fn delete_all(
    registry: &Registry,
    asked: &Asked,
    resource: &'static Resource,
) -> Result<Response, Failure> {
    let mut scope = asked.scope(resource)?;
    scope.dry_run = dry(asked)?;
    let how = Delete { uid: None, version: None, ..deletion(asked)? };
    let (labels, fields) = asked.selectors(resource)?;
    let listing = registry.list(&scope, None, 0, None).await?;
    let mut items = Vec::new();
    for entry in &listing.entries {
        let object = encoded::decoded(entry);
        if !super::read::selects(&labels, &fields, &object) {
            continue;
        }
        let of = crate::registry::Scope { namespace: object::namespace(&object), ..scope };
        match registry.delete(&of, object::name(&object), &how).await {
            Ok(deleted) => items.push(deleted.object()),
            Err(failure) if failure.reason() == Reason::NotFound => {}
            Err(failure) => return Err(failure),
        }
    }
    let list = json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": {"resourceVersion": listing.revision.to_string()}, "items": items,
    });
    Ok(answer::value(&list, asked.answer()?.format).into_response())
}
