//! Who has which role.

use serde_json::{Value, json};

use super::{AGE, Columns, NAME, age_of, column, wide};
use crate::object::{self, list, text};

/// Columns of bindings of roles, in namespaces and in the cluster.
pub const BINDING: Columns = Columns {
    definitions: &[
        NAME,
        column("Role", "string", "The role."),
        AGE,
        wide("Users", "string", "Users that have it."),
        wide("Groups", "string", "Groups that have it."),
        wide("ServiceAccounts", "string", "Service accounts that have it."),
    ],
    row: |object, now| {
        let of = |kind: &str| {
            let subjects = list(object, &["subjects"]).iter();
            let subjects = subjects.filter(|it| text(it, &["kind"]) == kind);
            let names = subjects.map(|it| match text(it, &["namespace"]) {
                "" => text(it, &["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(it, &["name"])),
            });
            names.collect::<Vec<String>>().join(", ")
        };
        let role = |field: &str| text(object, &["roleRef", field]);
        let row: Vec<Value> = vec![
            json!(object::name(object)),
            json!(format!("{}/{}", role("kind"), role("name"))),
            age_of(object, now),
            json!(of("User")),
            json!(of("Group")),
            json!(of("ServiceAccount")),
        ];
        row
    },
};
