//! What keeps pods: deployments, replica sets, replication controllers, budgets.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{AGE, Column, Columns, NAME, age_of, column, containers, labels, selector, wide};
use crate::object::{self, at, number};

const CONTAINERS: Column = wide("Containers", "string", "Names of its pods' containers.");
const IMAGES: Column = wide("Images", "string", "Images of its pods' containers.");
const SELECTOR: Column = wide("Selector", "string", "Which pods are its own.");

fn count(object: &Value, path: &[&str]) -> i64 {
    number(object, path).unwrap_or(0)
}

fn template(object: &Value) -> Option<&Value> {
    at(object, &["spec", "template", "spec"])
}

/// Columns of deployments.
pub const DEPLOYMENT: Columns = Columns {
    definitions: &[
        NAME,
        column("Ready", "string", "Pods that are ready, of those that should be there."),
        column("Up-to-date", "integer", "Pods of the current template."),
        column("Available", "integer", "Pods that have been ready for long enough."),
        AGE,
        CONTAINERS,
        IMAGES,
        SELECTOR,
    ],
    row: |object, now| {
        let ready = count(object, &["status", "readyReplicas"]);
        let wanted = number(object, &["spec", "replicas"]).unwrap_or(1);
        vec![
            json!(object::name(object)),
            json!(format!("{ready}/{wanted}")),
            json!(count(object, &["status", "updatedReplicas"])),
            json!(count(object, &["status", "availableReplicas"])),
            age_of(object, now),
            json!(containers(template(object), "name")),
            json!(containers(template(object), "image")),
            json!(selector(at(object, &["spec", "selector"]))),
        ]
    },
};

const REPLICAS: &[Column] = &[
    NAME,
    column("Desired", "integer", "Pods that should be there."),
    column("Current", "integer", "Pods that are there."),
    column("Ready", "integer", "Pods that are ready."),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

fn replicas(object: &Value, now: Timestamp, selector: &str) -> Vec<Value> {
    vec![
        json!(object::name(object)),
        json!(number(object, &["spec", "replicas"]).unwrap_or(1)),
        json!(count(object, &["status", "replicas"])),
        json!(count(object, &["status", "readyReplicas"])),
        age_of(object, now),
        json!(containers(template(object), "name")),
        json!(containers(template(object), "image")),
        json!(selector),
    ]
}

/// Columns of replica sets.
pub const REPLICA_SET: Columns = Columns {
    definitions: REPLICAS,
    row: |object, now| replicas(object, now, &selector(at(object, &["spec", "selector"]))),
};

/// Columns of replication controllers, whose selectors are plain labels.
pub const REPLICATION_CONTROLLER: Columns = Columns {
    definitions: REPLICAS,
    row: |object, now| replicas(object, now, &labels(at(object, &["spec", "selector"]))),
};

/// Columns of disruption budgets.
pub const BUDGET: Columns = Columns {
    definitions: &[
        NAME,
        column("Min Available", "string", "Pods that must stay."),
        column("Max Unavailable", "string", "Pods that may be missing."),
        column("Allowed Disruptions", "integer", "Pods that may go now."),
        AGE,
    ],
    row: |object, now| {
        let bound = |field: &str| match at(object, &["spec", field]) {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => "N/A".to_owned(),
        };
        vec![
            json!(object::name(object)),
            json!(bound("minAvailable")),
            json!(bound("maxUnavailable")),
            json!(count(object, &["status", "disruptionsAllowed"])),
            age_of(object, now),
        ]
    },
};
