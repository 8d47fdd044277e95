//! Templates of pods: which revision has which, and the name that follows from it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::HASH;
use crate::{
    cache::{
        View,
        kinds::{CONFIG_MAPS, SECRETS},
    },
    client::Kind,
    controllers::facts::{annotation, dense},
    object::{self, at, list, text},
};

/// Set to `true` on a Deployment, it rolls when a ConfigMap or Secret changes that its pods use.
pub(super) const RESTART: &str = "hashplane.io/restart-on-config-change";
/// The annotation of a template that says in which state its ConfigMaps and Secrets are.
pub(super) const CONFIG: &str = "hashplane.io/config-hash";

/// The template that pods of a Deployment should have.
pub(super) fn wanted(deployment: &Value, view: &View) -> Value {
    let mut template = at(deployment, &["spec", "template"]).cloned().unwrap_or_default();
    if annotation(deployment, RESTART) == "true" {
        let namespace = object::namespace(deployment);
        let mut hash = Fnv::default();
        for (kind, name) in used(&template) {
            let object = view.get(kind, namespace, &name);
            hash.add(kind.plural.as_bytes());
            hash.add(name.as_bytes());
            for field in ["data", "binaryData"] {
                let data = object.and_then(|object| at(object, &[field]));
                hash.add(data.map(Value::to_string).unwrap_or_default().as_bytes());
            }
        }
        object::map(&mut template, &["metadata", "annotations"])
            .insert(CONFIG.into(), hash.text().into());
    }
    template
}

/// Whether a Deployment asks to follow one of these ConfigMaps or Secrets.
pub(super) fn follows(deployment: &Value, kind: Kind, objects: &[&Value]) -> bool {
    if annotation(deployment, RESTART) != "true" {
        return false;
    }
    let Some(template) = at(deployment, &["spec", "template"]) else { return false };
    let used = used(template);
    objects.iter().any(|object| used.contains(&(kind, object::name(object).to_owned())))
}

/// Whether a ReplicaSet has this template, but for the label that tells revisions apart.
pub(super) fn is_same(set: &Value, template: &Value) -> bool {
    let mut theirs = at(set, &["spec", "template"]).cloned().unwrap_or_default();
    let mut ours = template.clone();
    for template in [&mut theirs, &mut ours] {
        object::map(template, &["metadata", "labels"]).remove(HASH);
    }
    dense(&theirs) == dense(&ours)
}

/// The hash of a template; `collisions` makes it another one.
pub(super) fn hash(template: &Value, collisions: i64) -> String {
    let mut hash = Fnv::default();
    hash.add(canonical(&dense(template)).as_bytes());
    if collisions > 0 {
        hash.add(&collisions.to_le_bytes());
    }
    hash.text()
}

/// JSON with sorted names, whatever order the map keeps.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields =
                fields.iter().map(|(name, value)| format!("{name:?}:{}", canonical(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
    }
}

/// The ConfigMaps and Secrets that a template names.
fn used(template: &Value) -> BTreeSet<(Kind, String)> {
    let mut used = BTreeSet::new();
    let mut take = |kind: Kind, value: &Value, path: &[&str]| {
        let name = text(value, path);
        if !name.is_empty() {
            used.insert((kind, name.to_owned()));
        }
    };
    for field in ["containers", "initContainers"] {
        for container in list(template, &["spec", field]) {
            for variable in list(container, &["env"]) {
                take(CONFIG_MAPS, variable, &["valueFrom", "configMapKeyRef", "name"]);
                take(SECRETS, variable, &["valueFrom", "secretKeyRef", "name"]);
            }
            for source in list(container, &["envFrom"]) {
                take(CONFIG_MAPS, source, &["configMapRef", "name"]);
                take(SECRETS, source, &["secretRef", "name"]);
            }
        }
    }
    for volume in list(template, &["spec", "volumes"]) {
        take(CONFIG_MAPS, volume, &["configMap", "name"]);
        take(SECRETS, volume, &["secret", "secretName"]);
        for source in list(volume, &["projected", "sources"]) {
            take(CONFIG_MAPS, source, &["configMap", "name"]);
            take(SECRETS, source, &["secret", "name"]);
        }
    }
    used
}

/// FNV-1a of 32 bits, written so that it forms no words.
struct Fnv(u32);

impl Default for Fnv {
    fn default() -> Self {
        Self(0x811c_9dc5)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    }

    fn text(&self) -> String {
        const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
        let digits = self.0.to_string();
        digits
            .bytes()
            .map(|digit| char::from(LETTERS[usize::from(digit) % LETTERS.len()]))
            .collect()
    }
}
