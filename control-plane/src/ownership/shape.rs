//! How fields are owned: as a whole, field by field, or item by item.
//!
//! Facts from the `listType`, `listMapKey`, `mapType` and `structType` markers of upstream's types.

use serde_json::{Map, Value, json};

use crate::schema::{self, Field, Many, Message, Type};

/// How a field is owned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// As a whole.
    Whole,
    /// Field by field.
    Fields(&'static str, &'static Message),
    /// Entry by entry.
    Entries,
    /// Item by item; items are told apart by these fields.
    Items(&'static [&'static str], &'static str, &'static Message),
    /// Value by value.
    Values,
}

/// Lists whose items have owners of their own: the message around, its field, what tells items apart.
const ITEMS: &[(&str, &str, &[&str])] = &[
    ("PodSpec", "containers", &["name"]),
    ("PodSpec", "initContainers", &["name"]),
    ("PodSpec", "ephemeralContainers", &["name"]),
    ("PodSpec", "volumes", &["name"]),
    ("PodSpec", "imagePullSecrets", &["name"]),
    ("PodSpec", "hostAliases", &["ip"]),
    ("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("PodSpec", "schedulingGates", &["name"]),
    ("PodSpec", "resourceClaims", &["name"]),
    ("Container", "ports", &["containerPort", "protocol"]),
    ("Container", "env", &["name"]),
    ("Container", "volumeMounts", &["mountPath"]),
    ("Container", "volumeDevices", &["devicePath"]),
    ("EphemeralContainer", "ports", &["containerPort", "protocol"]),
    ("EphemeralContainer", "env", &["name"]),
    ("EphemeralContainer", "volumeMounts", &["mountPath"]),
    ("EphemeralContainer", "volumeDevices", &["devicePath"]),
    ("ResourceRequirements", "claims", &["name"]),
    ("ContainerStatus", "volumeMounts", &["mountPath"]),
    ("ServiceSpec", "ports", &["port", "protocol"]),
    ("ServiceAccount", "secrets", &["name"]),
    ("NodeStatus", "addresses", &["type"]),
    ("PodStatus", "podIPs", &["ip"]),
    ("PodStatus", "resourceClaimStatuses", &["name"]),
    ("ObjectMeta", "ownerReferences", &["uid"]),
    ("*", "conditions", &["type"]),
];

/// Lists of plain values that have owners of their own.
const VALUES: &[(&str, &str)] = &[("ObjectMeta", "finalizers"), ("NodeSpec", "podCIDRs")];

/// Maps that are owned as a whole.
const WHOLE_MAPS: &[(&str, &str)] = &[
    ("PodSpec", "nodeSelector"),
    ("ServiceSpec", "selector"),
    ("ReplicationControllerSpec", "selector"),
];

/// Messages that are owned as a whole.
const WHOLE_MESSAGES: &[&str] = &[
    "ConfigMapKeySelector",
    "EndpointAddress",
    "EndpointPort",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ObjectReference",
    "OwnerReference",
    "ResourceFieldSelector",
    "RoleRef",
    "SecretKeySelector",
    "SecretReference",
    "Subject",
    "TypedLocalObjectReference",
];

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// How a field of a message is owned.
pub(super) fn of(around: &str, field: &Field) -> Shape {
    let around = short(around);
    let is = |(name, of): &(&str, &str)| *name == around && *of == field.name;
    match (field.many, &field.kind) {
        (Many::One, Type::Message(name)) if !WHOLE_MESSAGES.contains(&short(name)) => {
            schema::message(name).map_or(Shape::Whole, |message| Shape::Fields(name, message))
        }
        (Many::Map, _) if !WHOLE_MAPS.iter().any(is) => Shape::Entries,
        (Many::List, Type::Message(name)) => {
            let keys = ITEMS
                .iter()
                .find(|(parent, of, _)| (*parent == "*" || *parent == around) && *of == field.name);
            match (keys, schema::message(name)) {
                (Some((.., keys)), Some(message)) => Shape::Items(keys, name, message),
                _ => Shape::Whole,
            }
        }
        (Many::List, _) if VALUES.iter().any(is) => Shape::Values,
        (Many::One | Many::List | Many::Map, _) => Shape::Whole,
    }
}

/// The step to an item of a list.
pub(super) fn step_to(item: &Value, keys: &[&str]) -> String {
    let mut named = Map::new();
    for key in keys {
        let value = item.get(*key).filter(|it| !it.is_null()).cloned();
        // The only key with a default.
        let value = value.or_else(|| (*key == "protocol").then(|| json!("TCP")));
        named.insert((*key).to_owned(), value.unwrap_or_default());
    }
    format!("k:{}", Value::Object(named))
}
