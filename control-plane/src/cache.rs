//! What the server's own parts know of the cluster: all objects of the kinds they follow, indexed.

pub mod follow;
pub mod kinds;
pub mod ledger;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::Value;

use self::ledger::Ledger;
use crate::{
    client::{Change, Kind, Objects},
    object::{self, at, text},
};

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for objects of the cluster.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of a name.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object.
    pub fn of(kind: Kind, object: &Value) -> Self {
        Self::new(kind, object::namespace(object), object::name(object))
    }
}

/// What a change did to one object.
#[derive(Clone, Debug)]
pub struct Step {
    /// The kind.
    pub kind: Kind,
    /// What it was, if it was.
    pub old: Option<Arc<Value>>,
    /// What it is, if it is.
    pub new: Option<Arc<Value>>,
}

type Named = BTreeMap<String, Arc<Value>>;

#[derive(Debug, Default)]
struct Table {
    namespaces: BTreeMap<String, Named>,
    /// The last revision that the watch of this kind has told.
    seen: u64,
}

/// Objects as they are known, at one moment.
#[derive(Debug, Default)]
pub struct View {
    tables: BTreeMap<Kind, Table>,
    owned: BTreeMap<String, BTreeSet<Key>>,
    orphans: BTreeMap<(Kind, String), BTreeSet<String>>,
    uids: BTreeMap<String, Key>,
    on_node: BTreeMap<String, BTreeSet<(String, String)>>,
    failures: BTreeMap<(&'static str, Key), String>,
    ledger: Ledger,
}

static NOTHING: Named = Named::new();

impl View {
    /// One object.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.tables.get(&kind)?.namespaces.get(namespace)?.get(name)
    }

    /// The object that a key names.
    pub fn at(&self, key: &Key) -> Option<&Arc<Value>> {
        self.get(key.kind, &key.namespace, &key.name)
    }

    /// The objects of a namespace, by name.
    pub fn inside(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        let table = self.tables.get(&kind).and_then(|table| table.namespaces.get(namespace));
        table.unwrap_or(&NOTHING).values()
    }

    /// All objects of a kind.
    pub fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Value>> {
        let table = self.tables.get(&kind).into_iter();
        table.flat_map(|table| table.namespaces.values().flat_map(Named::values))
    }

    /// Objects of a kind that name this uid among their owners.
    pub fn owned(&self, kind: Kind, uid: &str) -> impl Iterator<Item = &Arc<Value>> {
        let keys = self.owned.get(uid).into_iter().flatten();
        keys.filter(move |key| key.kind == kind).filter_map(|key| self.at(key))
    }

    /// Keys of all objects that name this uid among their owners.
    pub fn dependents(&self, uid: &str) -> impl Iterator<Item = &Key> {
        self.owned.get(uid).into_iter().flatten()
    }

    /// Objects of a namespace that no controller claims.
    pub fn orphans(&self, kind: Kind, namespace: &str) -> impl Iterator<Item = &Arc<Value>> {
        let names = self.orphans.get(&(kind, namespace.to_owned())).into_iter().flatten();
        let table = self.tables.get(&kind).and_then(|table| table.namespaces.get(namespace));
        names.filter_map(move |name| table?.get(name))
    }

    /// The object with this uid.
    pub fn uid(&self, uid: &str) -> Option<&Arc<Value>> {
        self.uids.get(uid).and_then(|key| self.at(key))
    }

    /// Pods that are bound to a node.
    pub fn on_node(&self, node: &str) -> impl Iterator<Item = &Arc<Value>> {
        let names = self.on_node.get(node).into_iter().flatten();
        names.filter_map(|(namespace, name)| self.get(kinds::PODS, namespace, name))
    }

    /// What nodes have promised to pods.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Why the last try of a controller failed, unless it succeeded since.
    pub fn failure(&self, controller: &'static str, key: &Key) -> Option<&str> {
        self.failures.get(&(controller, key.clone())).map(String::as_str)
    }

    /// Remembers or forgets why a try failed; whether that is news.
    pub fn set_failure(
        &mut self,
        controller: &'static str,
        key: &Key,
        why: Option<String>,
    ) -> bool {
        let at = (controller, key.clone());
        match why {
            Some(why) => self.failures.insert(at, why.clone()).as_ref() != Some(&why),
            None => self.failures.remove(&at).is_some(),
        }
    }

    /// Takes in a list. What we wrote after its moment stays.
    pub fn listed(&mut self, kind: Kind, objects: &Objects) -> Vec<Step> {
        let revision = objects.revision.0;
        let wanted: BTreeSet<Key> = objects.items.iter().map(|item| Key::of(kind, item)).collect();
        let gone: Vec<Key> = self
            .all(kind)
            .filter(|object| version(object) <= revision)
            .map(|object| Key::of(kind, object))
            .filter(|key| !wanted.contains(key))
            .collect();
        let mut steps: Vec<Step> = gone.iter().filter_map(|key| self.remove(key)).collect();
        for item in &objects.items {
            steps.extend(self.put(kind, item));
        }
        let table = self.tables.entry(kind).or_default();
        table.seen = table.seen.max(revision);
        steps
    }

    /// Takes in what a watch tells.
    pub fn changed(&mut self, kind: Kind, change: &Change) -> Option<Step> {
        let (Change::Put(object) | Change::Gone(object)) = change;
        let table = self.tables.entry(kind).or_default();
        table.seen = table.seen.max(version(object));
        match change {
            Change::Put(object) => self.put(kind, object),
            Change::Gone(object) => {
                let key = Key::of(kind, object);
                let newer = self.at(&key).is_some_and(|old| version(old) > version(object));
                if newer { None } else { self.remove(&key) }
            }
        }
    }

    /// Takes in what a write of ours gave back, unless the watch is already past it.
    pub fn wrote(&mut self, kind: Kind, object: &Arc<Value>) -> Option<Step> {
        let seen = self.tables.get(&kind)?.seen;
        if version(object) > seen { self.put(kind, object) } else { None }
    }

    /// Marks an object whose deletion we have asked for, until the watch tells what became of it.
    pub fn doomed(&mut self, key: &Key, uid: &str, now: &str) -> Option<Step> {
        let old = self.at(key)?;
        if object::uid(old) != uid || object::is_terminating(old) {
            return None;
        }
        let mut marked = Value::clone(old);
        object::map(&mut marked, &["metadata"]).insert("deletionTimestamp".into(), now.into());
        Some(self.replace(key, &Arc::new(marked)))
    }

    /// Marks a pod that we have bound, until the watch tells so.
    pub fn bound(&mut self, key: &Key, node: &str) -> Option<Step> {
        let old = self.at(key)?;
        if !text(old, &["spec", "nodeName"]).is_empty() {
            return None;
        }
        let mut marked = Value::clone(old);
        object::map(&mut marked, &["spec"]).insert("nodeName".into(), node.into());
        Some(self.replace(key, &Arc::new(marked)))
    }

    fn put(&mut self, kind: Kind, object: &Arc<Value>) -> Option<Step> {
        let key = Key::of(kind, object);
        if self.at(&key).is_some_and(|old| version(old) >= version(object)) {
            return None;
        }
        Some(self.replace(&key, object))
    }

    fn replace(&mut self, key: &Key, object: &Arc<Value>) -> Step {
        let old = self.at(key).cloned();
        if let Some(old) = &old {
            self.index(key, old, false);
        }
        self.index(key, object, true);
        let table = self.tables.entry(key.kind).or_default();
        let names = table.namespaces.entry(key.namespace.clone()).or_default();
        names.insert(key.name.clone(), object.clone());
        Step { kind: key.kind, old, new: Some(object.clone()) }
    }

    fn remove(&mut self, key: &Key) -> Option<Step> {
        let table = self.tables.get_mut(&key.kind)?;
        let names = table.namespaces.get_mut(&key.namespace)?;
        let old = names.remove(&key.name)?;
        if names.is_empty() {
            table.namespaces.remove(&key.namespace);
        }
        self.index(key, &old, false);
        Some(Step { kind: key.kind, old: Some(old), new: None })
    }

    fn index(&mut self, key: &Key, object: &Value, enter: bool) {
        let mut is_orphan = true;
        for owner in object::list(object, &["metadata", "ownerReferences"]) {
            is_orphan &= owner.get("controller").and_then(Value::as_bool) != Some(true);
            turn(&mut self.owned, text(owner, &["uid"]).to_owned(), key.clone(), enter);
        }
        let is_claimable = key.kind == kinds::PODS || key.kind == kinds::REPLICA_SETS;
        if is_orphan && is_claimable {
            let place = (key.kind, key.namespace.clone());
            turn(&mut self.orphans, place, key.name.clone(), enter);
        }
        if key.kind == kinds::PODS {
            self.ledger.turn(object, enter);
        }
        let node = text(object, &["spec", "nodeName"]);
        if key.kind == kinds::PODS && !node.is_empty() {
            let pod = (key.namespace.clone(), key.name.clone());
            turn(&mut self.on_node, node.to_owned(), pod, enter);
        }
        if enter {
            self.uids.insert(object::uid(object).to_owned(), key.clone());
        } else {
            self.uids.remove(object::uid(object));
        }
    }
}

/// `metadata.resourceVersion`; 0 if it is none.
pub fn version(object: &Value) -> u64 {
    at(object, &["metadata", "resourceVersion"])
        .and_then(Value::as_str)
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

fn turn<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: K, value: V, enter: bool) {
    if enter {
        index.entry(key).or_default().insert(value);
    } else if let Some(values) = index.get_mut(&key) {
        values.remove(&value);
        if values.is_empty() {
            index.remove(&key);
        }
    }
}
