//! What the server's own parts ask of the API: the same rules as for clients over HTTP, without HTTP.

use std::{future::Future, pin::Pin, sync::Arc};

use serde_json::Value;
use tokio::sync::mpsc;

use crate::{api::status::Failure, store::Revision};

/// What the API answers, when it does.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// Names a kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// The resource in the plural, such as `replicasets`.
    pub plural: &'static str,
}

/// All objects of a kind at one moment.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Each with `apiVersion`, `kind` and `metadata.resourceVersion`.
    pub items: Vec<Arc<Value>>,
    /// The moment; a watch from here misses nothing.
    pub revision: Revision,
}

/// What became of an object.
#[derive(Clone, Debug)]
pub enum Change {
    /// It is new, or has changed.
    Put(Arc<Value>),
    /// It is gone; this is what it was last, with the revision of its deletion.
    Gone(Arc<Value>),
}

/// How dependents go with what they depend on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They go afterwards.
    #[default]
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// What a deletion demands.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    /// Only the object with this uid.
    pub uid: Option<String>,
    /// Only in this version.
    pub version: Option<String>,
    /// Seconds a pod gets to end; nothing leaves it to the pod.
    pub grace_s: Option<i64>,
    /// What becomes of dependents.
    pub propagation: Propagation,
}

/// The API as the server's own parts use it. An empty namespace stands for objects of the cluster,
/// or, in lists, for all namespaces.
pub trait Client: Send + Sync + 'static {
    /// One object.
    fn get<'a>(&'a self, kind: Kind, namespace: &'a str, name: &'a str) -> Answer<'a, Arc<Value>>;

    /// All objects of a kind.
    fn list<'a>(&'a self, kind: Kind, namespace: &'a str) -> Answer<'a, Objects>;

    /// Every change of a kind after a revision, in order, until the receiver is dropped. The channel
    /// ends when the server does, or when the receiver falls too far behind: then list again.
    fn watch(&self, kind: Kind, after: Revision) -> Answer<'_, mpsc::Receiver<Change>>;

    /// Creates an object, with its `status` if it has one.
    fn create(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>>;

    /// Replaces an object but for its status; a conflict unless `metadata.resourceVersion` is that of
    /// the object now, or absent.
    fn update(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>>;

    /// Replaces the status of an object, likewise.
    fn update_status(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>>;

    /// Writes through a subresource: `binding`, `eviction`, `scale`, `token`, …
    fn create_part<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        part: &'a str,
        body: Value,
    ) -> Answer<'a, Arc<Value>>;

    /// Deletes an object, or marks it deleted while finalizers or a grace period keep it.
    fn delete<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        deletion: Deletion,
    ) -> Answer<'a, ()>;
}
