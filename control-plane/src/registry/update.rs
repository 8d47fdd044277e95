//! Objects that change.

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{MODIFIED, Registry, Scope, TRIES, encoded, now, pause};
use crate::{
    api::status::{Cause, Failure},
    object::{self, map},
    ownership,
    store::{self, Entry, Expect, Write},
};

/// Which part of an object changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything but its status.
    Object,
    /// Its status, and its labels, annotations and finalizers stay.
    Status,
    /// All of it, for what the server itself does with subresources.
    Whole,
}

/// From what an object is to what it should be. Called again if somebody else was faster.
pub type Change<'a> = &'a (dyn Fn(&Value) -> Result<Value, Failure> + Send + Sync);

impl Registry {
    /// Changes an object; gives it back as it is then stored.
    pub async fn change(
        &self,
        scope: &Scope<'_>,
        name: &str,
        part: Part,
        change: Change<'_>,
    ) -> Result<Value, Failure> {
        for tries in 0..TRIES {
            let entry = self.entry(scope, name).await?;
            let old = encoded::decoded(&entry);
            let mut new = change(&old)?;
            let asked = object::text(&new, &["metadata", "resourceVersion"]);
            let current = entry.modified.to_string();
            if !asked.is_empty() && asked != current {
                return Err(scope.conflict(name, MODIFIED));
            }
            let asked_uid = object::uid(&new);
            if !asked_uid.is_empty() && asked_uid != object::uid(&old) {
                let words = format!(
                    "Precondition failed: UID in precondition: {asked_uid}, UID in object meta: {}",
                    object::uid(&old)
                );
                return Err(scope.conflict(name, &words));
            }
            prepare(scope, &old, &mut new, part)?;
            let claims = self.claim(scope, &mut new, Some(&old)).await?;
            if new == old {
                return Ok(old);
            }
            if scope.dry_run {
                self.release(claims).await;
                return Ok(new);
            }
            match self.replace(scope, &entry, new).await {
                Ok(object) => {
                    self.release_old(scope, &old, &object).await;
                    return Ok(object);
                }
                Err(error) => {
                    // What may have happened keeps what it claimed.
                    if !error.is_ambiguous() {
                        self.release(claims).await;
                    }
                    match error {
                        store::Error::Conflict { found: None, .. } => {
                            return Err(scope.not_found(name));
                        }
                        store::Error::Conflict { .. } => sleep(pause(tries)).await,
                        error => return Err(error.into()),
                    }
                }
            }
        }
        Err(scope.conflict(name, MODIFIED))
    }

    /// Puts another object in the place of one; without finalizers it is deleted if it was marked so.
    async fn replace(
        &self,
        scope: &Scope<'_>,
        entry: &Entry,
        mut object: Value,
    ) -> Result<Value, store::Error> {
        let is_over = is_over(scope, &object);
        let value = (!is_over).then(|| encoded::encode(&object));
        let write = Write { key: entry.key.clone(), expect: Expect::At(entry.modified), value };
        let written = self.store.write(write).await?;
        encoded::set_version(&mut object, written.modified);
        if is_over {
            self.forget(scope, &object).await;
        }
        Ok(object)
    }
}

fn prepare(scope: &Scope<'_>, old: &Value, new: &mut Value, part: Part) -> Result<(), Failure> {
    let resource = scope.resource;
    let given = object::namespace(new);
    if !given.is_empty() && given != object::namespace(old) {
        let words =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(Failure::new(crate::api::status::Reason::BadRequest, words));
    }
    let given = object::name(new);
    if !given.is_empty() && given != object::name(old) {
        let words = format!(
            "the name of the object ({given}) does not match the name on the URL ({})",
            object::name(old)
        );
        return Err(Failure::new(crate::api::status::Reason::BadRequest, words));
    }
    match part {
        Part::Object if resource.has_status() => {
            let status = old.get("status").cloned().unwrap_or(Value::Null);
            put(new, "status", status);
        }
        Part::Status => {
            let status = new.get("status").cloned().unwrap_or(Value::Null);
            let managed = object::at(new, &["metadata", "managedFields"]).cloned();
            *new = old.clone();
            put(new, "status", status);
            if let Some(managed) = managed {
                map(new, &["metadata"]).insert("managedFields".into(), managed);
            }
        }
        Part::Object | Part::Whole => {}
    }
    keep(old, new);
    if part != Part::Status {
        (resource.rules.default)(new);
    }
    ownership::updated(old, new, resource, &scope.writer(&now()));
    let mut causes = match part {
        Part::Status => (resource.rules.validate_status)(new, old),
        Part::Object => (resource.rules.validate)(new, Some(old)),
        Part::Whole => Vec::new(),
    };
    causes.extend(new_finalizers(old, new));
    if !causes.is_empty() {
        return Err(scope.invalid(new, causes));
    }
    let is_same = object::same_but_for(old, new, &["metadata", "status"]);
    if resource.has_generation && !is_same {
        let generation = object::number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
        map(new, &["metadata"]).insert("generation".into(), json!(generation));
    }
    Ok(())
}

fn put(object: &mut Value, field: &str, value: Value) {
    let map = map(object, &[]);
    if value.is_null() {
        map.remove(field);
    } else {
        map.insert(field.into(), value);
    }
}

/// What the server says of an object stays as it is.
fn keep(old: &Value, new: &mut Value) {
    for field in ["apiVersion", "kind"] {
        put(new, field, old.get(field).cloned().unwrap_or(Value::Null));
    }
    let before = old.get("metadata");
    let metadata = map(new, &["metadata"]);
    let fields = object::SERVER_FIELDS.into_iter();
    for field in fields.chain(["name", "namespace", "generateName", "deletionGracePeriodSeconds"]) {
        match before.and_then(|before| before.get(field)) {
            Some(value) => drop(metadata.insert(field.into(), value.clone())),
            None => drop(metadata.remove(field)),
        }
    }
}

/// Who is on the way out gets no new finalizers.
fn new_finalizers(old: &Value, new: &Value) -> Option<Cause> {
    let path = ["metadata", "finalizers"];
    let before = object::list(old, &path);
    let added: Vec<&Value> =
        object::list(new, &path).iter().filter(|it| !before.contains(it)).collect();
    let is_refused = object::is_terminating(old) && !added.is_empty();
    is_refused.then(|| {
        let words = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
        );
        Cause::forbidden("metadata.finalizers", &words)
    })
}

/// Whether nothing keeps an object that was marked as deleted.
pub(super) fn is_over(scope: &Scope<'_>, object: &Value) -> bool {
    let grace = object::number(object, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    object::is_terminating(object)
        && grace == 0
        && object::list(object, &["metadata", "finalizers"]).is_empty()
        && (scope.resource.plural != "namespaces"
            || object::list(object, &["spec", "finalizers"]).is_empty())
}
