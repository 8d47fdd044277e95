//! Objects under rules: what may be created, changed and deleted, over any store.
//!
//! Everything that writes an object goes through here: the API over HTTP and the server's own parts.

mod admit;
mod client;
mod create;
mod delete;
pub mod encoded;
mod limits;
pub mod names;
mod parts;
mod services;
mod update;

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    api::status::{About, Failure, Reason},
    object,
    ownership::{Operation, Writer},
    resource::Resource,
    store::{Entry, Key, Listing, Range, Revision, Store, Watch},
};

pub use self::{
    delete::{Delete, Deleted},
    services::Networks,
    update::{Change, Part},
};

/// How often a write is tried against others who write the same object.
const TRIES: u32 = 16;

/// Settings of a cluster.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Addresses and ports of Services.
    pub networks: Networks,
}

/// Objects under rules.
#[expect(missing_debug_implementations, reason = "a store is not shown")]
pub struct Registry {
    store: Arc<dyn Store>,
    settings: Settings,
}

/// Which objects a request is about, and how.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Scope<'a> {
    /// Their kind.
    pub resource: &'static Resource,
    /// Their namespace; empty for objects of the cluster and for all namespaces.
    pub namespace: &'a str,
    /// Whether nothing is to be written.
    pub dry_run: bool,
    /// Who asks, for `managedFields`.
    pub writer: &'a str,
    /// How they write.
    pub operation: Operation,
    /// Through which subresource; empty for the object itself.
    pub part: &'a str,
}

impl<'a> Scope<'a> {
    /// A write of the server's own.
    pub fn new(resource: &'static Resource, namespace: &'a str) -> Self {
        let operation = Operation::Internal;
        Self { resource, namespace, dry_run: false, writer: "hashplane", operation, part: "" }
    }

    /// Who writes, and when.
    pub fn writer<'n>(&'n self, now: &'n str) -> Writer<'n> {
        Writer { name: self.writer, operation: self.operation, part: self.part, now }
    }

    fn about(&self, name: &str) -> About {
        let Resource { group, plural, .. } = *self.resource;
        About { group: group.into(), kind: plural.into(), name: name.into() }
    }

    /// There is no such object.
    pub fn not_found(&self, name: &str) -> Failure {
        let words = format!("{} {name:?} not found", self.resource.full_name());
        Failure::new(Reason::NotFound, words).about(self.about(name))
    }

    fn exists(&self, name: &str) -> Failure {
        let words = format!("{} {name:?} already exists", self.resource.full_name());
        Failure::new(Reason::AlreadyExists, words).about(self.about(name))
    }

    fn conflict(&self, name: &str, why: &str) -> Failure {
        let what = self.resource.full_name();
        let words = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Failure::new(Reason::Conflict, words).about(self.about(name))
    }

    fn invalid(&self, object: &Value, causes: Vec<crate::api::status::Cause>) -> Failure {
        Failure::invalid(self.resource.kind, self.resource.group, object::name(object), causes)
    }

    /// The key of an object.
    pub fn key(&self, name: &str) -> Key {
        Key::from(format!("{}{name}", self.prefix()))
    }

    /// What the keys of all its objects begin with.
    pub fn prefix(&self) -> String {
        let Resource { group, plural, namespaced, .. } = *self.resource;
        let group = if group.is_empty() { "core" } else { group };
        if namespaced && !self.namespace.is_empty() {
            format!("/{group}/{plural}/{}/", self.namespace)
        } else {
            format!("/{group}/{plural}/")
        }
    }
}

/// What others change in the meantime.
const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

impl Registry {
    /// Objects in a store.
    pub fn new(store: Arc<dyn Store>, settings: Settings) -> Self {
        Self { store, settings }
    }

    /// The store below.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// One object as the store holds it.
    pub async fn entry(&self, scope: &Scope<'_>, name: &str) -> Result<Entry, Failure> {
        let key = scope.key(name);
        self.store.get(&key).await?.ok_or_else(|| scope.not_found(name))
    }

    /// One object.
    pub async fn get(&self, scope: &Scope<'_>, name: &str) -> Result<Value, Failure> {
        Ok(encoded::decoded(&self.entry(scope, name).await?))
    }

    /// Objects as the store holds them.
    pub async fn list(
        &self,
        scope: &Scope<'_>,
        after: Option<Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Listing, Failure> {
        let range = Range { prefix: scope.prefix(), after, limit };
        Ok(self.store.list(&range, at).await?)
    }

    /// Changes after a revision.
    pub async fn watch(&self, scope: &Scope<'_>, after: Revision) -> Result<Watch, Failure> {
        Ok(self.store.watch(&scope.prefix(), after).await?)
    }
}

/// The time as objects carry it.
pub fn now() -> String {
    stamp(Timestamp::now())
}

fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Time after which somebody who lost a race tries again.
fn pause(tries: u32) -> Duration {
    Duration::from_millis(u64::from(tries))
}
