//! A cluster in memory for tests: an API that fails one call in ten, watches that lose events, and
//! nodes that run what is bound to them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::facts::later;
use crate::{
    api::status::{Failure, Reason},
    cache::{Key, View, kinds},
    client::{Answer, Change, Client, Deletion, Kind, Objects, Propagation},
    object::{self, at, list, text},
    runner::{Action, Controller, time},
    store::Revision,
};

/// How much goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// One call in this many fails; never if 0.
    pub call_in: u64,
    /// Half of the events are lost, and the watch ends after each loss.
    pub loses_events: bool,
}

/// All objects, and who watches them.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub objects: BTreeMap<Key, Arc<Value>>,
    pub revision: u64,
    pub now: Timestamp,
    watchers: Vec<(Kind, mpsc::Sender<Change>)>,
    random: u64,
    pub faults: Faults,
    /// Every write that succeeded.
    pub writes: usize,
}

fn failure(reason: Reason) -> Failure {
    Failure::new(reason, format!("{reason:?}"))
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        Self { random: seed * 2 + 1, now, ..Self::default() }
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        one_in > 0 && self.random.is_multiple_of(one_in)
    }

    pub(crate) fn pass(&mut self, seconds: i64) {
        self.now = later(self.now, seconds);
    }

    /// All of it, as a controller sees it.
    pub(crate) fn view(&self) -> View {
        let mut view = View::default();
        for (key, object) in &self.objects {
            view.changed(key.kind, &Change::Put(object.clone()));
        }
        view
    }

    pub(crate) fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let object = self.objects.get(&Key::new(kind, namespace, name))?;
        Some(Value::clone(object))
    }

    pub(crate) fn all(&self, kind: Kind) -> impl Iterator<Item = &Arc<Value>> {
        self.objects.iter().filter(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    fn tell(&mut self, kind: Kind, change: &Change) {
        let watchers = std::mem::take(&mut self.watchers);
        for (watched, watcher) in watchers {
            let is_lost = watched == kind && self.faults.loses_events && self.chance(2);
            let is_told = watched != kind || watcher.try_send(change.clone()).is_ok();
            if is_told && !is_lost {
                self.watchers.push((watched, watcher));
            }
        }
    }

    fn put(&mut self, key: Key, mut object: Value) -> Arc<Value> {
        self.revision += 1;
        self.writes += 1;
        object["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let object = Arc::new(object);
        let kind = key.kind;
        let is_done = object::is_terminating(&object)
            && list(&object, &["metadata", "finalizers"]).is_empty()
            && list(&object, &["spec", "finalizers"]).is_empty()
            && at(&object, &["metadata", "deletionGracePeriodSeconds"]).is_none();
        if is_done {
            self.objects.remove(&key);
            self.tell(kind, &Change::Gone(object.clone()));
        } else {
            self.objects.insert(key, object.clone());
            self.tell(kind, &Change::Put(object.clone()));
        }
        object
    }

    pub(crate) fn create(&mut self, kind: Kind, mut object: Value) -> Result<Arc<Value>, Failure> {
        self.revision += 1;
        if object::name(&object).is_empty() {
            let prefix = text(&object, &["metadata", "generateName"]).to_owned();
            object["metadata"]["name"] = format!("{prefix}{:05}", self.revision).into();
        }
        let key = Key::of(kind, &object);
        if self.objects.contains_key(&key) {
            return Err(failure(Reason::AlreadyExists));
        }
        let (api_version, name) = kinds::names(kind);
        object["apiVersion"] = api_version.into();
        object["kind"] = name.into();
        object["metadata"]["uid"] = format!("uid-{}", self.revision).into();
        object["metadata"]["creationTimestamp"] = time(self.now);
        object["metadata"]["generation"] = 1.into();
        if kind == kinds::NAMESPACES {
            object["spec"]["finalizers"] = json!(["kubernetes"]);
            object["status"]["phase"] = "Active".into();
        }
        if kind == kinds::PODS && at(&object, &["status", "phase"]).is_none() {
            object["status"]["phase"] = "Pending".into();
        }
        Ok(self.put(key, object))
    }

    pub(crate) fn update(
        &mut self,
        kind: Kind,
        mut object: Value,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let key = Key::of(kind, &object);
        let Some(old) = self.objects.get(&key).cloned() else {
            return Err(failure(Reason::NotFound));
        };
        let version = &object["metadata"]["resourceVersion"];
        if !version.is_null() && *version != old["metadata"]["resourceVersion"] {
            return Err(failure(Reason::Conflict));
        }
        if status {
            let mut changed = Value::clone(&old);
            changed["status"] = object["status"].take();
            return Ok(self.put(key, changed));
        }
        object["status"] = old["status"].clone();
        if object["status"].is_null() {
            object::map(&mut object, &[]).remove("status");
        }
        for field in object::SERVER_FIELDS {
            object["metadata"][field] = old["metadata"][field].clone();
        }
        if object["spec"] != old["spec"] {
            let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
            object["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(self.put(key, object))
    }

    pub(crate) fn delete(&mut self, key: &Key, deletion: &Deletion) -> Result<(), Failure> {
        let Some(old) = self.objects.get(key) else { return Err(failure(Reason::NotFound)) };
        if deletion.uid.as_deref().is_some_and(|uid| uid != object::uid(old)) {
            return Err(failure(Reason::Conflict));
        }
        let mut object = Value::clone(old);
        let is_running = key.kind == kinds::PODS
            && !text(&object, &["spec", "nodeName"]).is_empty()
            && deletion.grace_s != Some(0);
        if object::is_terminating(&object) && (is_running || key.kind != kinds::PODS) {
            return Ok(());
        }
        object["metadata"]["deletionTimestamp"] = time(self.now);
        if is_running {
            object["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        } else {
            object::map(&mut object, &["metadata"]).remove("deletionGracePeriodSeconds");
        }
        let finalizer = match deletion.propagation {
            Propagation::Background => None,
            Propagation::Foreground => Some("foregroundDeletion"),
            Propagation::Orphan => Some("orphan"),
        };
        if let Some(finalizer) = finalizer {
            let mut finalizers = list(&object, &["metadata", "finalizers"]).to_vec();
            finalizers.push(finalizer.into());
            object["metadata"]["finalizers"] = finalizers.into();
        }
        self.put(key.clone(), object);
        Ok(())
    }

    fn part(&mut self, key: &Key, part: &str, body: &Value) -> Result<Arc<Value>, Failure> {
        let Some(old) = self.objects.get(key) else { return Err(failure(Reason::NotFound)) };
        let mut object = Value::clone(old);
        match part {
            "binding" if text(&object, &["spec", "nodeName"]).is_empty() => {
                object["spec"]["nodeName"] = body["target"]["name"].clone();
                Ok(self.put(key.clone(), object))
            }
            "binding" => Err(failure(Reason::Conflict)),
            "finalize" => {
                object["spec"]["finalizers"] = body["spec"]["finalizers"].clone();
                Ok(self.put(key.clone(), object))
            }
            _ => Err(failure(Reason::NotFound)),
        }
    }

    /// Does one thing that a plan asks for.
    pub(crate) fn apply(&mut self, action: &Action) -> bool {
        match action.clone() {
            Action::Create { kind, object, .. } => self.create(kind, object).is_ok(),
            Action::Update(kind, object) => self.update(kind, object, false).is_ok(),
            Action::Status(kind, object) => self.update(kind, object, true).is_ok(),
            Action::Part { key, part, body } => self.part(&key, part, &body).is_ok(),
            Action::Delete { key, uid, deletion, .. } => {
                let deletion = Deletion {
                    uid: Some(uid),
                    version: None,
                    grace_s: deletion.grace_s,
                    propagation: deletion.propagation,
                };
                self.delete(&key, &deletion).is_ok()
            }
            Action::Clear(kind, namespace) => {
                let before = self.objects.len();
                self.objects.retain(|key, _| key.kind != kind || key.namespace != namespace);
                before != self.objects.len()
            }
            Action::IfGone(owners, action) => {
                let is_there = |(key, uid): &(Key, String)| {
                    self.objects.get(key).is_some_and(|owner| object::uid(owner) == uid)
                };
                !owners.iter().any(is_there) && self.apply(&action)
            }
            Action::Report(_) | Action::Again(_) => false,
        }
    }

    /// Lets nodes start one pod in `start_in` of those bound to them, and end what shall end.
    /// Pods that nobody schedules are bound to a node called `a`.
    pub(crate) fn run_nodes(&mut self, start_in: u64, schedules: bool) {
        let pods: Vec<(Key, Arc<Value>)> = self
            .objects
            .iter()
            .filter(|(key, _)| key.kind == kinds::PODS)
            .map(|(key, pod)| (key.clone(), pod.clone()))
            .collect();
        for (key, pod) in pods {
            let mut changed = Value::clone(&pod);
            let node = text(&pod, &["spec", "nodeName"]);
            if object::is_terminating(&pod) {
                object::map(&mut changed, &["metadata"]).remove("deletionGracePeriodSeconds");
            } else if node.is_empty() && schedules {
                changed["spec"]["nodeName"] = "a".into();
            } else if !node.is_empty()
                && text(&pod, &["status", "phase"]) == "Pending"
                && !text(&pod, &["spec", "containers", "image"]).contains("broken")
                && at(&pod, &["metadata", "labels", "broken"]).is_none()
                && self.chance(start_in)
            {
                changed["status"] = json!({
                    "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}],
                    "conditions": [{
                        "type": "Ready", "status": "True", "lastTransitionTime": time(self.now),
                    }],
                });
            }
            if changed != *pod {
                self.put(key, changed);
            }
        }
    }

    /// Everything that controllers would plan now, but for reports and waiting.
    pub(crate) fn plans(&self, controllers: &[&dyn Controller]) -> Vec<Action> {
        let view = self.view();
        let mut actions = Vec::new();
        for controller in controllers {
            let mut keys = std::collections::BTreeSet::new();
            for (key, object) in &self.objects {
                if controller.watches().contains(&key.kind) {
                    let (kind, new) = (key.kind, Some(object.clone()));
                    let step = crate::cache::Step { kind, old: None, new };
                    keys.extend(controller.touched(&step, &view));
                }
            }
            for key in keys {
                actions.extend(controller.plan(&key, &view, self.now));
            }
        }
        actions.retain(|action| !matches!(action, Action::Report(_) | Action::Again(_)));
        actions
    }

    /// Plans and acts until nothing is left to do; how many rounds it took.
    pub(crate) fn converge(&mut self, controllers: &[&dyn Controller], nodes: bool) -> usize {
        for round in 0..200 {
            let before = self.revision;
            if nodes {
                self.run_nodes(1, true);
            }
            let actions = self.plans(controllers);
            if actions.is_empty() && before == self.revision {
                return round;
            }
            for action in &actions {
                self.apply(action);
            }
        }
        panic!("it does not converge: {:#?}", self.plans(controllers));
    }
}

/// The API of a cluster.
#[derive(Clone, Debug)]
pub(crate) struct Fake(pub Arc<Mutex<Cluster>>);

impl Fake {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self(Arc::new(Mutex::new(cluster)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call<'a, T: Send + 'a>(
        &'a self,
        call: impl FnOnce(&mut Cluster) -> Result<T, Failure> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut cluster = self.lock();
            let call_in = cluster.faults.call_in;
            if cluster.chance(call_in) {
                return Err(failure(Reason::InternalError));
            }
            let answer = call(&mut cluster);
            // Half of the failures come after the deed.
            if cluster.chance(call_in * 2) { Err(failure(Reason::Timeout)) } else { answer }
        })
    }
}

impl Client for Fake {
    fn get<'a>(&'a self, kind: Kind, namespace: &'a str, name: &'a str) -> Answer<'a, Arc<Value>> {
        self.call(move |cluster| {
            let object = cluster.objects.get(&Key::new(kind, namespace, name)).cloned();
            object.ok_or_else(|| failure(Reason::NotFound))
        })
    }

    fn list<'a>(&'a self, kind: Kind, namespace: &'a str) -> Answer<'a, Objects> {
        self.call(move |cluster| {
            let items = cluster
                .all(kind)
                .filter(|object| namespace.is_empty() || object::namespace(object) == namespace);
            Ok(Objects { items: items.cloned().collect(), revision: Revision(cluster.revision) })
        })
    }

    fn watch(&self, kind: Kind, after: Revision) -> Answer<'_, mpsc::Receiver<Change>> {
        self.call(move |cluster| {
            let (send, receive) = mpsc::channel(1 << 16);
            // What changed since is not kept here: a watch from the past ends at once.
            if after.0 == cluster.revision {
                cluster.watchers.push((kind, send));
            }
            Ok(receive)
        })
    }

    fn create(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        self.call(move |cluster| cluster.create(kind, object))
    }

    fn update(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        self.call(move |cluster| cluster.update(kind, object, false))
    }

    fn update_status(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        self.call(move |cluster| cluster.update(kind, object, true))
    }

    fn create_part<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        part: &'a str,
        body: Value,
    ) -> Answer<'a, Arc<Value>> {
        self.call(move |cluster| cluster.part(&Key::new(kind, namespace, name), part, &body))
    }

    fn delete<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        deletion: Deletion,
    ) -> Answer<'a, ()> {
        self.call(move |cluster| cluster.delete(&Key::new(kind, namespace, name), &deletion))
    }
}
