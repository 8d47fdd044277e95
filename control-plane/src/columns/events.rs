//! Events: what happened last, to what.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Columns, age, column, wide};
use crate::object::{self, at, number, text};

/// Columns of Events.
pub const EVENT: Columns = Columns {
    definitions: &[
        column("Last Seen", "string", "Time since it happened last."),
        column("Type", "string", "Whether it is bad."),
        column("Reason", "string", "What happened, in a word."),
        column("Object", "string", "To what."),
        wide("Subobject", "string", "To what part of it."),
        wide("Source", "string", "Who says so."),
        column("Message", "string", "What happened."),
        wide("First Seen", "string", "Time since it happened first."),
        wide("Count", "string", "How often it happened."),
        Column { priority: 1, ..super::NAME },
    ],
    row: event,
};

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let since = |fields: &[&str]| {
        let known = fields.iter().map(|field| text(event, &[field])).find(|it| !it.is_empty());
        age::since(known.unwrap_or_default(), now)
    };
    let first = since(&["firstTimestamp", "eventTime"]);
    let series = at(event, &["series"]);
    let last = match series {
        Some(series) => age::since(text(series, &["lastObservedTime"]), now),
        None => since(&["lastTimestamp", "eventTime", "firstTimestamp"]),
    };
    let count = series.and_then(|it| number(it, &["count"])).or_else(|| number(event, &["count"]));
    // The core group and `events.k8s.io` name these fields differently.
    let either = |a: &[&str], b: &[&str]| match text(event, a) {
        "" => text(event, b).to_owned(),
        found => found.to_owned(),
    };
    let kind = either(&["involvedObject", "kind"], &["regarding", "kind"]).to_lowercase();
    let name = either(&["involvedObject", "name"], &["regarding", "name"]);
    let source = either(&["source", "component"], &["reportingComponent"]);
    let host = text(event, &["source", "host"]);
    vec![
        json!(last),
        json!(text(event, &["type"])),
        json!(text(event, &["reason"])),
        json!(format!("{kind}/{name}")),
        json!(either(&["involvedObject", "fieldPath"], &["regarding", "fieldPath"])),
        json!(if host.is_empty() { source } else { format!("{source}, {host}") }),
        json!(either(&["message"], &["note"]).trim()),
        json!(first),
        json!(count.filter(|it| *it > 0).unwrap_or(1).to_string()),
        json!(object::name(event)),
    ]
}
