//! Nodes, namespaces, and what pods are given.

use serde_json::{Value, json};

use super::{AGE, Columns, NAME, NONE, age_of, column, or_none, wide};
use crate::object::{self, at, list, number, text};

/// Columns of nodes.
pub const NODE: Columns = Columns {
    definitions: &[
        NAME,
        column("Status", "string", "Whether it takes pods."),
        column("Roles", "string", "What it is for."),
        AGE,
        column("Version", "string", "Version of its agent."),
        wide("Internal-IP", "string", "Its address in the cluster."),
        wide("External-IP", "string", "Its address outside."),
        wide("OS-Image", "string", "Its system."),
        wide("Kernel-Version", "string", "Its kernel."),
        wide("Container-Runtime", "string", "What runs its containers."),
    ],
    row: |object, now| {
        let of = |field: &str| match text(object, &["status", "nodeInfo", field]) {
            "" => "<unknown>",
            text => text,
        };
        let address = |kind: &str| {
            let all = list(object, &["status", "addresses"]);
            let found = all.iter().find(|it| text(it, &["type"]) == kind);
            or_none(found.map_or("", |it| text(it, &["address"])))
        };
        vec![
            json!(object::name(object)),
            json!(status(object)),
            json!(roles(object)),
            age_of(object, now),
            json!(text(object, &["status", "nodeInfo", "kubeletVersion"])),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(of("osImage")),
            json!(of("kernelVersion")),
            json!(of("containerRuntimeVersion")),
        ]
    },
};

fn status(node: &Value) -> String {
    let ready =
        list(node, &["status", "conditions"]).iter().rfind(|it| text(it, &["type"]) == "Ready");
    let word = match ready.map(|it| text(it, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if at(node, &["spec", "unschedulable"]) == Some(&json!(true)) {
        format!("{word},SchedulingDisabled")
    } else {
        word.to_owned()
    }
}

fn roles(node: &Value) -> String {
    let labels = at(node, &["metadata", "labels"]).and_then(Value::as_object);
    let role = |(key, value): (&String, &Value)| {
        let role = match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => role.to_owned(),
            None if key == "kubernetes.io/role" => value.as_str().unwrap_or_default().to_owned(),
            None => return None,
        };
        (!role.is_empty()).then_some(role)
    };
    let mut all: Vec<String> = labels.into_iter().flatten().filter_map(role).collect();
    all.sort();
    all.dedup();
    or_none(&all.join(",")).to_owned()
}

/// Columns of namespaces.
pub const NAMESPACE: Columns = Columns {
    definitions: &[NAME, column("Status", "string", "Whether it is being deleted."), AGE],
    row: |object, now| {
        vec![
            json!(object::name(object)),
            json!(text(object, &["status", "phase"])),
            age_of(object, now),
        ]
    },
};

fn entries(object: &Value, field: &str) -> usize {
    at(object, &[field]).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

/// Columns of config maps.
pub const CONFIG_MAP: Columns = Columns {
    definitions: &[NAME, column("Data", "integer", "How many entries it has."), AGE],
    row: |object, now| {
        let count = entries(object, "data") + entries(object, "binaryData");
        vec![json!(object::name(object)), json!(count), age_of(object, now)]
    },
};

/// Columns of secrets.
pub const SECRET: Columns = Columns {
    definitions: &[
        NAME,
        column("Type", "string", "What it is for."),
        column("Data", "integer", "How many entries it has."),
        AGE,
    ],
    row: |object, now| {
        let kind = match text(object, &["type"]) {
            "" => "Opaque",
            kind => kind,
        };
        let count = entries(object, "data");
        vec![json!(object::name(object)), json!(kind), json!(count), age_of(object, now)]
    },
};

/// Columns of service accounts.
pub const ACCOUNT: Columns = Columns {
    definitions: &[NAME, column("Secrets", "integer", "How many secrets it names."), AGE],
    row: |object, now| {
        let count = list(object, &["secrets"]).len();
        vec![json!(object::name(object)), json!(count), age_of(object, now)]
    },
};

/// Columns of leases.
pub const LEASE: Columns = Columns {
    definitions: &[NAME, column("Holder", "string", "Who has it."), AGE],
    row: |object, now| {
        let holder = text(object, &["spec", "holderIdentity"]);
        vec![json!(object::name(object)), json!(holder), age_of(object, now)]
    },
};

/// Columns of priority classes.
pub const PRIORITY: Columns = Columns {
    definitions: &[
        NAME,
        column("Value", "integer", "The priority of its pods."),
        column("Global-Default", "boolean", "Whether pods without a class have it."),
        AGE,
        wide("PreemptionPolicy", "string", "Whether its pods push others aside."),
    ],
    row: |object, now| {
        let policy = text(object, &["preemptionPolicy"]);
        vec![
            json!(object::name(object)),
            json!(number(object, &["value"]).unwrap_or(0)),
            json!(at(object, &["globalDefault"]) == Some(&json!(true))),
            age_of(object, now),
            json!(if policy.is_empty() { NONE } else { policy }),
        ]
    },
};
