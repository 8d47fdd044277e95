//! Objects that go.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Registry, Scope, TRIES, encoded, pause, stamp, update::is_over};
use crate::{
    api::status::{Failure, Reason},
    client::Propagation,
    object::{self, map},
    store::{self, Expect, Write},
};

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only in this version.
    pub version: Option<String>,
    /// Seconds that a pod gets; nothing leaves it to the pod.
    pub grace_s: Option<i64>,
    /// What becomes of dependents; nothing leaves it to the finalizers that are there.
    pub propagation: Option<Propagation>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// It is gone.
    Gone(Value),
    /// Finalizers or a grace period keep it.
    Marked(Value),
}

impl Deleted {
    /// The object as it was last.
    pub fn object(self) -> Value {
        match self {
            Self::Gone(object) | Self::Marked(object) => object,
        }
    }
}

impl Registry {
    /// Deletes an object, or marks it.
    pub async fn delete(
        &self,
        scope: &Scope<'_>,
        name: &str,
        how: &Delete,
    ) -> Result<Deleted, Failure> {
        for tries in 0..TRIES {
            let entry = self.entry(scope, name).await?;
            let old = encoded::decoded(&entry);
            demand(scope, name, &old, how)?;
            let mut new = old.clone();
            mark(scope, &mut new, how)?;
            let gone = is_over(scope, &new);
            if scope.dry_run || (!gone && new == old) {
                return Ok(if gone { Deleted::Gone(new) } else { Deleted::Marked(new) });
            }
            let value = (!gone).then(|| encoded::encode(&new));
            let write = Write { key: entry.key.clone(), expect: Expect::At(entry.modified), value };
            match self.store.write(write).await {
                Ok(written) => {
                    encoded::set_version(&mut new, written.modified);
                    if gone {
                        self.forget(scope, &new).await;
                        return Ok(Deleted::Gone(new));
                    }
                    return Ok(Deleted::Marked(new));
                }
                Err(store::Error::Conflict { found: None, .. }) => {
                    return Err(scope.not_found(name));
                }
                Err(store::Error::Conflict { .. }) => sleep(pause(tries)).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(scope.conflict(name, super::MODIFIED))
    }
}

fn demand(scope: &Scope<'_>, name: &str, old: &Value, how: &Delete) -> Result<(), Failure> {
    let version = object::text(old, &["metadata", "resourceVersion"]);
    let pairs = [("UID", &how.uid, object::uid(old)), ("ResourceVersion", &how.version, version)];
    for (what, asked, found) in pairs {
        if let Some(asked) = asked
            && asked != found
        {
            let words = format!(
                "Precondition failed: {what} in precondition: {asked}, {what} in object meta: {found}"
            );
            return Err(scope.conflict(name, &words));
        }
    }
    Ok(())
}

/// What a deletion writes into an object.
fn mark(scope: &Scope<'_>, object: &mut Value, how: &Delete) -> Result<(), Failure> {
    let grace = grace(scope, object, how);
    if grace < 0 {
        return Err(Failure::new(Reason::Invalid, "gracePeriodSeconds must be at least 0"));
    }
    let was_marked = object::is_terminating(object);
    let before = object::number(object, &["metadata", "deletionGracePeriodSeconds"]);
    if let Some(propagation) = how.propagation {
        let keep = match propagation {
            Propagation::Background => None,
            Propagation::Foreground => Some("foregroundDeletion"),
            Propagation::Orphan => Some("orphan"),
        };
        let metadata = map(object, &["metadata"]);
        let mut finalizers: Vec<Value> =
            metadata.get("finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
        finalizers.retain(|it| it != "foregroundDeletion" && it != "orphan");
        finalizers.extend(keep.map(|it| json!(it)));
        if finalizers.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), json!(finalizers));
        }
    }
    let is_sooner = before.is_none_or(|before| grace < before);
    if !was_marked || is_sooner {
        let at = Timestamp::now() + SignedDuration::from_secs(grace);
        let metadata = map(object, &["metadata"]);
        metadata.insert("deletionTimestamp".into(), json!(stamp(at)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if scope.resource.has_generation && !was_marked {
            let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0) + 1;
            metadata.insert("generation".into(), json!(generation));
        }
    }
    if scope.resource.plural == "namespaces" {
        map(object, &["status"]).insert("phase".into(), json!("Terminating"));
    }
    Ok(())
}

/// Only pods that a node runs take time to go.
fn grace(scope: &Scope<'_>, object: &Value, how: &Delete) -> i64 {
    let phase = object::text(object, &["status", "phase"]);
    let is_running = scope.resource.plural == "pods"
        && !object::text(object, &["spec", "nodeName"]).is_empty()
        && phase != "Succeeded"
        && phase != "Failed";
    if !is_running {
        return 0;
    }
    let own = object::number(object, &["spec", "terminationGracePeriodSeconds"]);
    how.grace_s.unwrap_or_else(|| own.unwrap_or(30))
}
