//! Makes the writes of a plan: creations and deletions in batches that grow, all else in order.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};

use super::World;
use crate::{
    api::status::{Failure, Reason},
    cache::{Key, Step, View, kinds, version},
    client::{Deletion, Kind},
    object,
};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create an object.
    Create {
        /// Its kind.
        kind: Kind,
        /// It.
        object: Value,
        /// Who is told of success and of failure, if anybody.
        owner: Option<Value>,
    },
    /// Replace an object if it is still in the version that `metadata.resourceVersion` names.
    Update(Kind, Value),
    /// Replace its status, likewise.
    Status(Kind, Value),
    /// Delete an object.
    Delete {
        /// It.
        key: Key,
        /// Only if this is its uid.
        uid: String,
        /// What else it demands.
        deletion: Ask,
        /// Who is told, if anybody.
        owner: Option<Value>,
    },
    /// Write through a subresource.
    Part {
        /// The object.
        key: Key,
        /// The subresource.
        part: &'static str,
        /// What is written.
        body: Value,
    },
    /// Delete all objects of a kind that a namespace has, by what the API says and not by what we
    /// know; the plan ends here if there were any.
    Clear(Kind, String),
    /// Do something if none of these objects is there any more, by what the API says: what we know
    /// of one kind may be ahead of what we know of another.
    IfGone(Vec<(Key, String)>, Box<Self>),
    /// Tell people.
    Report(Report),
    /// Plan again after a while, even if nothing changes.
    Again(Duration),
}

/// What a deletion demands beyond the uid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Seconds that a pod gets to end.
    pub grace_s: Option<i64>,
    /// What becomes of dependents.
    pub propagation: crate::client::Propagation,
}

/// What an Event says.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Who says it.
    pub source: &'static str,
    /// What about: an `ObjectReference`.
    pub about: Value,
    /// Whether it is bad.
    pub is_warning: bool,
    /// In a word.
    pub reason: &'static str,
    /// In a sentence.
    pub message: String,
}

impl Report {
    /// About an object.
    pub fn new(
        source: &'static str,
        about: &Value,
        is_warning: bool,
        reason: &'static str,
        message: String,
    ) -> Self {
        Self { source, about: reference(about), is_warning, reason, message }
    }
}

/// The `ObjectReference` of an object.
pub fn reference(object: &Value) -> Value {
    let mut reference = json!({
        "apiVersion": object["apiVersion"],
        "kind": object["kind"],
        "name": object::name(object),
        "uid": object::uid(object),
        "resourceVersion": object::text(object, &["metadata", "resourceVersion"]),
    });
    if !object::namespace(object).is_empty() {
        reference["namespace"] = object::namespace(object).into();
    }
    reference
}

/// A plan that was not carried out to its end.
#[derive(Debug)]
pub enum Failed {
    /// What was planned for is no longer so: plan again.
    Stale,
    /// The API says no.
    Refused {
        /// Why, in a word.
        reason: Reason,
        /// Why.
        words: String,
    },
    /// We may no longer write.
    NotLeading,
}

/// More than this is not written in one go: the rest follows in the next plan.
const BURST_MAX: usize = 500;

/// A write that takes longer counts as failed.
const WRITE_TIME_MAX: Duration = Duration::from_secs(4);

/// Makes the writes of a plan, in order; when to plan again.
pub async fn act(
    world: &World,
    source: &'static str,
    actions: Vec<Action>,
) -> Result<Option<Duration>, Failed> {
    let mut again: Option<Duration> = None;
    let mut actions = actions.into_iter().peekable();
    while let Some(action) = actions.next() {
        let class = class(&action);
        let mut batch = vec![action];
        if let Some(class) = class {
            while let Some(next) = actions.next_if(|next| self::class(next) == Some(class)) {
                batch.push(next);
            }
        }
        if batch.len() > BURST_MAX {
            batch.truncate(BURST_MAX);
            again = Some(Duration::ZERO);
        }
        if let Some(after) = slowly(world, source, batch).await? {
            again = Some(again.map_or(after, |again| again.min(after)));
        }
    }
    Ok(again)
}

/// Actions of one class may be carried out at once.
fn class(action: &Action) -> Option<(u8, Kind)> {
    match action {
        Action::Create { kind, .. } => Some((0, *kind)),
        Action::Delete { key, .. } => Some((1, key.kind)),
        Action::Part { key, .. } => Some((2, key.kind)),
        Action::Update(..)
        | Action::Status(..)
        | Action::Clear(..)
        | Action::IfGone(..)
        | Action::Report(_)
        | Action::Again(_) => None,
    }
}

/// Carries out 1, then 2, 4, 8 at once; a failure ends it, so that what cannot be is not tried in
/// masses.
async fn slowly(
    world: &World,
    source: &'static str,
    mut batch: Vec<Action>,
) -> Result<Option<Duration>, Failed> {
    // Bindings were checked one by one; there is no reason to expect that they fail together.
    let is_binding = matches!(batch.first(), Some(Action::Part { .. }));
    let (mut width, mut again) = (if is_binding { BURST_MAX } else { 1 }, None);
    while !batch.is_empty() {
        let rest = batch.split_off(width.min(batch.len()));
        let results = join_all(batch.into_iter().map(|action| one(world, source, action))).await;
        for result in results {
            again = result?.or(again);
        }
        batch = rest;
        width *= 2;
    }
    Ok(again)
}

async fn one(
    world: &World,
    source: &'static str,
    action: Action,
) -> Result<Option<Duration>, Failed> {
    match action {
        Action::Again(after) => return Ok(Some(after)),
        Action::Report(report) => world.report(report),
        Action::Create { kind, object, owner } => {
            create(world, source, kind, object, owner).await?;
        }
        Action::Clear(kind, namespace) => {
            let all = write(world, world.client.list(kind, &namespace)).await?;
            for object in all.items.iter().filter(|it| !object::is_terminating(it)) {
                let (key, uid) = (Key::of(kind, object), object::uid(object).to_owned());
                delete(world, source, key, uid, Ask::default(), None).await?;
            }
            if !all.items.is_empty() {
                return Err(Failed::Stale);
            }
        }
        Action::IfGone(owners, action) => {
            for (key, uid) in &owners {
                let call = world.client.get(key.kind, &key.namespace, &key.name);
                match write(world, call).await {
                    Ok(owner) if object::uid(&owner) == uid => return Err(Failed::Stale),
                    Ok(_) | Err(Failed::Stale) => {}
                    Err(failed) => return Err(failed),
                }
            }
            return Box::pin(one(world, source, *action)).await;
        }
        Action::Update(kind, object) => {
            let object = write(world, world.client.update(kind, object)).await?;
            world.learn(|view| wrote(view, kind, &object));
        }
        Action::Status(kind, object) => {
            let object = write(world, world.client.update_status(kind, object)).await?;
            world.learn(|view| wrote(view, kind, &object));
        }
        Action::Part { key, part, body } => {
            let (namespace, name) = (&key.namespace, &key.name);
            let call = |body| world.client.create_part(key.kind, namespace, name, part, body);
            let node = object::text(&body, &["target", "name"]).to_owned();
            let call = call(body);
            let object = write(world, call).await?;
            if part == "binding" {
                world.learn(|view| view.bound(&key, &node).into_iter().collect());
            } else if !object::uid(&object).is_empty() && version(&object) > 0 {
                world.learn(|view| wrote(view, key.kind, &object));
            }
        }
        Action::Delete { key, uid, deletion, owner } => {
            delete(world, source, key, uid, deletion, owner).await?;
        }
    }
    Ok(None)
}

async fn create(
    world: &World,
    source: &'static str,
    kind: Kind,
    object: Value,
    owner: Option<Value>,
) -> Result<(), Failed> {
    let (_, name) = kinds::names(kind);
    match write(world, world.client.create(kind, object)).await {
        Ok(object) => {
            world.learn(|view| wrote(view, kind, &object));
            if let Some(about) = owner {
                let message = format!("Created {}: {}", name.to_lowercase(), object::name(&object));
                let reason = "SuccessfulCreate";
                world.report(Report { source, about, is_warning: false, reason, message });
            }
            Ok(())
        }
        Err(failed) => {
            if let (Some(about), Failed::Refused { words, .. }) = (owner, &failed) {
                let message = format!("Error creating: {words}");
                let reason = "FailedCreate";
                world.report(Report { source, about, is_warning: true, reason, message });
            }
            Err(failed)
        }
    }
}

async fn delete(
    world: &World,
    source: &'static str,
    key: Key,
    uid: String,
    ask: Ask,
    owner: Option<Value>,
) -> Result<(), Failed> {
    let (_, name) = kinds::names(key.kind);
    let Ask { grace_s, propagation } = ask;
    let deletion = Deletion { uid: Some(uid.clone()), version: None, grace_s, propagation };
    let call = world.client.delete(key.kind, &key.namespace, &key.name, deletion);
    match write(world, call).await {
        Ok(()) => {
            let now = format!("{:.0}", (world.clock)());
            world.learn(|view| view.doomed(&key, &uid, &now).into_iter().collect());
            if let Some(about) = owner {
                let message = format!("Deleted {}: {}", name.to_lowercase(), key.name);
                let reason = "SuccessfulDelete";
                world.report(Report { source, about, is_warning: false, reason, message });
            }
            Ok(())
        }
        // Gone is what was wished; another uid means that it is gone as well.
        Err(Failed::Stale) => {
            let now = format!("{:.0}", (world.clock)());
            world.learn(|view| view.doomed(&key, &uid, &now).into_iter().collect());
            Ok(())
        }
        Err(failed) => Err(failed),
    }
}

fn wrote(view: &mut View, kind: Kind, object: &Arc<Value>) -> Vec<Step> {
    view.wrote(kind, object).into_iter().collect()
}

/// Waits for a write, while we may write.
async fn write<T>(
    world: &World,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failed> {
    if !world.leader.is_leading() {
        return Err(Failed::NotLeading);
    }
    match tokio::time::timeout(WRITE_TIME_MAX, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(failure)) => {
            let reason = failure.reason();
            if matches!(reason, Reason::Conflict | Reason::NotFound | Reason::AlreadyExists) {
                return Err(Failed::Stale);
            }
            Err(Failed::Refused { reason, words: words(&failure) })
        }
        Err(_elapsed) => {
            let words = "the write took too long".to_owned();
            Err(Failed::Refused { reason: Reason::Timeout, words })
        }
    }
}

/// What a failure says.
pub fn words(failure: &Failure) -> String {
    object::text(&failure.status(), &["message"]).to_owned()
}
