//! Namespaces: what each has from its beginning, and how it ends.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    cache::{
        Key, Step, View,
        kinds::{CONFIG_MAPS, EVENTS, NAMESPACED, NAMESPACES, PODS, SERVICE_ACCOUNTS},
    },
    client::Kind,
    controllers::facts::set_condition,
    object::{self, list},
    runner::{Action, Controller, act::Ask},
};

/// Plans what namespaces have, and their end.
#[derive(Clone, Debug)]
pub struct Namespaces {
    /// The certificate of the API's authority, for pods; none is given out if it is empty.
    pub root_ca: String,
}

const NAME: &str = "namespace-controller";
const FINALIZER: &str = "kubernetes";
const ROOT_CA: &str = "kube-root-ca.crt";

/// All kinds that live in namespaces, and namespaces.
const WATCHED: &[Kind] = &{
    let mut kinds = [NAMESPACES; NAMESPACED.len() + 1];
    let mut at = 0;
    while at < NAMESPACED.len() {
        kinds[at] = NAMESPACED[at];
        at += 1;
    }
    kinds
};

impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        NAME
    }

    fn watches(&self) -> &'static [Kind] {
        WATCHED
    }

    fn touched(&self, step: &Step, view: &View) -> Vec<Key> {
        let Some(object) = step.new.as_deref().or(step.old.as_deref()) else { return Vec::new() };
        if step.kind == NAMESPACES {
            return vec![Key::of(NAMESPACES, object)];
        }
        let namespace = object::namespace(object);
        let is_basic = matches!(
            (step.kind, object::name(object)),
            (SERVICE_ACCOUNTS, "default") | (CONFIG_MAPS, ROOT_CA)
        );
        let is_ending =
            view.get(NAMESPACES, "", namespace).is_some_and(|it| object::is_terminating(it));
        if is_basic || is_ending { vec![Key::new(NAMESPACES, "", namespace)] } else { Vec::new() }
    }

    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action> {
        let Some(namespace) = view.at(key) else { return Vec::new() };
        if object::is_terminating(namespace) {
            return end(key, namespace, view, now);
        }
        self.begin(&key.name, view)
    }

    fn workers(&self) -> usize {
        10
    }
}

impl Namespaces {
    fn begin(&self, namespace: &str, view: &View) -> Vec<Action> {
        let mut actions = Vec::new();
        if view.get(SERVICE_ACCOUNTS, namespace, "default").is_none() {
            let object = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": namespace},
            });
            actions.push(Action::Create { kind: SERVICE_ACCOUNTS, object, owner: None });
        }
        if self.root_ca.is_empty() {
            return actions;
        }
        let data = json!({"ca.crt": self.root_ca});
        match view.get(CONFIG_MAPS, namespace, ROOT_CA) {
            None => {
                let object = json!({
                    "apiVersion": "v1", "kind": "ConfigMap",
                    "metadata": {"name": ROOT_CA, "namespace": namespace, "annotations": {
                        "kubernetes.io/description":
                            "Contains a CA bundle that can be used to verify the kube-apiserver \
                             when using internal endpoints such as the internal service IP or \
                             kubernetes.default.svc.",
                    }},
                    "data": data,
                });
                actions.push(Action::Create { kind: CONFIG_MAPS, object, owner: None });
            }
            Some(map) if map.get("data") != Some(&data) => {
                let mut changed = Value::clone(map);
                changed["data"] = data;
                actions.push(Action::Update(CONFIG_MAPS, changed));
            }
            Some(_) => {}
        }
        actions
    }
}

/// Pods go first, since they may need what the others are; then all else, then the namespace.
fn end(key: &Key, namespace: &Arc<Value>, view: &View, now: Timestamp) -> Vec<Action> {
    let rest = |kind: Kind| view.inside(kind, &key.name);
    let pods: Vec<&Arc<Value>> = rest(PODS).collect();
    let mut left: Vec<(Kind, &Arc<Value>)> = Vec::new();
    if pods.is_empty() {
        left.extend(NAMESPACED.iter().flat_map(|kind| rest(*kind).map(|object| (*kind, object))));
    } else {
        left.extend(pods.into_iter().map(|pod| (PODS, pod)));
    }
    let finalizers = list(namespace, &["spec", "finalizers"]);
    let has_ours = finalizers.iter().any(|it| it.as_str() == Some(FINALIZER));
    if left.is_empty() && has_ours {
        let mut changed = Value::clone(namespace);
        let others: Vec<Value> =
            finalizers.iter().filter(|it| it.as_str() != Some(FINALIZER)).cloned().collect();
        changed["spec"]["finalizers"] = others.into();
        let kinds = NAMESPACED.iter().chain(&[EVENTS]);
        let mut actions: Vec<Action> =
            kinds.map(|kind| Action::Clear(*kind, key.name.clone())).collect();
        actions.push(Action::Part { key: key.clone(), part: "finalize", body: changed });
        return actions;
    }
    let mut actions: Vec<Action> = left
        .iter()
        .filter(|(_, object)| !object::is_terminating(object))
        .map(|(kind, object)| Action::Delete {
            key: Key::of(*kind, object),
            uid: object::uid(object).to_owned(),
            deletion: Ask::default(),
            owner: None,
        })
        .collect();
    actions.extend(tell(namespace, &left, now));
    actions
}

/// Says what a namespace waits for.
fn tell(namespace: &Value, left: &[(Kind, &Arc<Value>)], now: Timestamp) -> Option<Action> {
    let mut counts: Vec<(Kind, usize)> = Vec::new();
    for (kind, _) in left {
        match counts.last_mut() {
            Some((last, count)) if last == kind => *count += 1,
            _ => counts.push((*kind, 1)),
        }
    }
    let words: Vec<String> = counts
        .iter()
        .map(|(kind, count)| {
            let (resource, group) = (kind.plural, kind.group);
            let dot = if group.is_empty() { "" } else { "." };
            format!("{resource}{dot}{group} has {count} resource instances")
        })
        .collect();
    let remains = !words.is_empty();
    let wish = json!({
        "type": "NamespaceContentRemaining",
        "status": if remains { "True" } else { "False" },
        "reason": if remains { "SomeResourcesRemain" } else { "ContentRemoved" },
        "message": if remains {
            format!("Some resources are remaining: {}", words.join(", "))
        } else {
            "All content successfully removed".to_owned()
        },
    });
    let mut conditions = list(namespace, &["status", "conditions"]).to_vec();
    set_condition(&mut conditions, wish, now);
    let mut changed = namespace.clone();
    changed["status"]["phase"] = "Terminating".into();
    changed["status"]["conditions"] = conditions.into();
    if changed == *namespace { None } else { Some(Action::Status(NAMESPACES, changed)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Deletion, controllers::fake::Cluster, object::text};

    fn plans() -> Namespaces {
        Namespaces { root_ca: "pem".to_owned() }
    }

    #[test]
    fn a_namespace_has_an_account_and_the_root_certificate() {
        let mut cluster = Cluster::new(1);
        cluster.create(NAMESPACES, json!({"metadata": {"name": "shop"}})).unwrap();
        cluster.converge(&[&plans()], false);
        assert!(cluster.get(SERVICE_ACCOUNTS, "shop", "default").is_some());
        let mut map = cluster.get(CONFIG_MAPS, "shop", ROOT_CA).unwrap();
        map["data"] = json!({});
        cluster.update(CONFIG_MAPS, map, false).unwrap();
        cluster.converge(&[&plans()], false);
        let map = cluster.get(CONFIG_MAPS, "shop", ROOT_CA).unwrap();
        assert_eq!(map["data"]["ca.crt"], "pem");
    }

    #[test]
    fn pods_go_first_and_the_namespace_last() {
        let mut cluster = Cluster::new(1);
        cluster.create(NAMESPACES, json!({"metadata": {"name": "shop"}})).unwrap();
        cluster.converge(&[&plans()], false);
        let pod = json!({
            "metadata": {"namespace": "shop", "name": "web"}, "spec": {"nodeName": "a"},
        });
        cluster.create(PODS, pod).unwrap();
        let key = Key::new(NAMESPACES, "", "shop");
        cluster.delete(&key, &Deletion::default()).unwrap();
        cluster.converge(&[&plans()], false);
        assert!(cluster.get(SERVICE_ACCOUNTS, "shop", "default").is_some(), "the pod still runs");
        let namespace = cluster.get(NAMESPACES, "", "shop").unwrap();
        let message = text(&namespace["status"]["conditions"][0], &["message"]).to_owned();
        assert_eq!(message, "Some resources are remaining: pods has 1 resource instances");
        cluster.run_nodes(1, false);
        cluster.converge(&[&plans()], false);
        assert_eq!(cluster.objects.len(), 0);
    }
}
