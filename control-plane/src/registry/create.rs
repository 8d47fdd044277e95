//! New objects.

use serde_json::{Value, json};

use super::{Registry, Scope, TRIES, encoded, names, now};
use crate::{
    api::status::{Cause, Failure, Reason},
    object::{self, map},
    ownership,
    store::{self, Expect, Write},
};

impl Registry {
    /// Creates an object; gives it back as it is stored. Its status is kept if `with_status`.
    pub async fn create(
        &self,
        scope: &Scope<'_>,
        mut object: Value,
        with_status: bool,
    ) -> Result<Value, Failure> {
        let resource = scope.resource;
        begin(scope, &mut object)?;
        // A kubelet registers its node with its status.
        let with_status = with_status || resource.plural == "nodes";
        if resource.has_status() && !with_status {
            map(&mut object, &[]).remove("status");
        }
        let base = object::text(&object, &["metadata", "generateName"]).to_owned();
        let is_generated = object::name(&object).is_empty() && !base.is_empty();
        (resource.rules.default)(&mut object);
        ownership::created(&mut object, resource, &scope.writer(&now()));
        self.admit(scope, &mut object).await?;
        for tries in 0..TRIES {
            if is_generated {
                map(&mut object, &["metadata"])
                    .insert("name".into(), json!(names::generated(&base)));
            }
            let causes = (resource.rules.validate)(&object, None);
            if !causes.is_empty() {
                return Err(scope.invalid(&object, causes));
            }
            let claims = self.claim(scope, &mut object, None).await?;
            let name = object::name(&object).to_owned();
            if scope.dry_run {
                self.release(claims).await;
                if self.store.get(&scope.key(&name)).await?.is_some() {
                    return Err(scope.exists(&name));
                }
                return Ok(object);
            }
            let value = Some(encoded::encode(&object));
            let write = Write { key: scope.key(&name), expect: Expect::Absent, value };
            match self.store.write(write).await {
                Ok(entry) => {
                    encoded::set_version(&mut object, entry.modified);
                    return Ok(object);
                }
                Err(error) => {
                    // What may have happened keeps what it claimed.
                    if !error.is_ambiguous() {
                        self.release(claims).await;
                    }
                    match error {
                        store::Error::Conflict { .. } if is_generated && tries + 1 < TRIES => {}
                        store::Error::Conflict { .. } => return Err(scope.exists(&name)),
                        error => return Err(error.into()),
                    }
                }
            }
        }
        Err(Failure::new(Reason::AlreadyExists, format!("no free name begins with {base:?}")))
    }
}

/// What the server says of an object and nobody else.
fn begin(scope: &Scope<'_>, object: &mut Value) -> Result<(), Failure> {
    let resource = scope.resource;
    if !object.is_object() {
        return Err(Failure::new(Reason::BadRequest, "the body of the request is no object"));
    }
    let top = map(object, &[]);
    top.insert("apiVersion".into(), json!(resource.api_version()));
    top.insert("kind".into(), json!(resource.kind));
    let metadata = map(object, &["metadata"]);
    let given = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    if resource.namespaced {
        if !given.is_empty() && given != scope.namespace {
            let words = format!(
                "the namespace of the provided object does not match the namespace sent on the \
                 request: {given:?} and {:?}",
                scope.namespace
            );
            return Err(Failure::new(Reason::BadRequest, words));
        }
        metadata.insert("namespace".into(), json!(scope.namespace));
    } else {
        metadata.remove("namespace");
    }
    let version = metadata.get("resourceVersion").and_then(Value::as_str).unwrap_or_default();
    if !version.is_empty() {
        let words = "resourceVersion should not be set on objects to be created";
        return Err(Failure::new(Reason::BadRequest, words));
    }
    for field in object::SERVER_FIELDS {
        metadata.remove(field);
    }
    metadata.remove("deletionGracePeriodSeconds");
    metadata.insert("uid".into(), json!(names::uid()));
    metadata.insert("creationTimestamp".into(), json!(now()));
    if resource.has_generation {
        metadata.insert("generation".into(), json!(1));
    }
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("name").is_empty() && text("generateName").is_empty() {
        let cause = Cause::required("metadata.name", "name or generateName is required");
        return Err(scope.invalid(&json!({}), vec![cause]));
    }
    Ok(())
}
