//! What people are shown of each kind of object.

pub mod access;
pub mod age;
pub mod cluster;
pub mod events;
pub mod network;
pub mod pods;
pub mod workloads;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the column with the name.
    pub format: &'static str,
    /// What it holds.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The columns of a kind.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct Columns {
    /// Their heads.
    pub definitions: &'static [Column],
    /// The cells of an object, as many as there are definitions.
    pub row: fn(&Value, now: Timestamp) -> Vec<Value>,
}

/// Kinds without columns of their own.
pub const NAME_AND_AGE: Columns = Columns {
    definitions: &[
        Column { name: "Name", kind: "string", format: "name", description: "Name", priority: 0 },
        Column { name: "Created At", kind: "date", format: "", description: "Age", priority: 0 },
    ],
    row: |object, _now| {
        vec![
            json!(object::name(object)),
            json!(object::text(object, &["metadata", "creationTimestamp"])),
        ]
    },
};

/// A column that is always shown.
const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority: 0 }
}

/// A column that `-o wide` shows.
const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { priority: 1, ..column(name, kind, description) }
}

const NAME: Column =
    Column { format: "name", ..column("Name", "string", "Name of the object in its namespace.") };
const AGE: Column = column("Age", "string", "Time since the object was created.");

const NONE: &str = "<none>";

/// `<none>` in the place of nothing.
fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

/// Time since the creation.
fn age_of(object: &Value, now: Timestamp) -> Value {
    json!(age::since(object::text(object, &["metadata", "creationTimestamp"]), now))
}

/// Labels as `a=b,c=d`.
fn labels(map: Option<&Value>) -> String {
    let map = map.and_then(Value::as_object);
    let pairs = map
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    let mut pairs: Vec<String> = pairs.collect();
    pairs.sort();
    or_none(&pairs.join(",")).to_owned()
}

/// A label selector as people write it.
fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return NONE.to_owned() };
    let mut all = Vec::new();
    let labels = labels(value.get("matchLabels"));
    if labels != NONE {
        all.push(labels);
    }
    for expression in object::list(value, &["matchExpressions"]) {
        let key = object::text(expression, &["key"]);
        let values: Vec<&str> =
            object::list(expression, &["values"]).iter().filter_map(Value::as_str).collect();
        let values = values.join(",");
        all.push(match object::text(expression, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    or_none(&all.join(",")).to_owned()
}

/// What some field of each container says.
fn containers(spec: Option<&Value>, field: &str) -> String {
    let all = spec.map_or(&[][..], |spec| object::list(spec, &["containers"]));
    let texts: Vec<&str> = all.iter().map(|it| object::text(it, &[field])).collect();
    texts.join(",")
}
