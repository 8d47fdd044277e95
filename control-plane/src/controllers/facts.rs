//! What controllers ask of objects: owners, conditions of pods, times, rounding.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    object::{self, at, list, number, text},
    runner::time,
};

/// The owner that controls an object.
pub fn controller(object: &Value) -> Option<&Value> {
    list(object, &["metadata", "ownerReferences"])
        .iter()
        .find(|owner| owner.get("controller").and_then(Value::as_bool) == Some(true))
}

/// Whether the owner with this uid controls an object.
pub fn is_controlled(object: &Value, uid: &str) -> bool {
    controller(object).is_some_and(|owner| text(owner, &["uid"]) == uid)
}

/// The reference that says that `owner` controls an object.
pub fn control(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": object::name(owner),
        "uid": object::uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// The object with this owner added.
pub fn adopt(object: &Value, owner: &Value) -> Value {
    let mut adopted = object.clone();
    let metadata = object::map(&mut adopted, &["metadata"]);
    let owners = metadata.entry("ownerReferences").or_insert_with(|| json!([]));
    if let Value::Array(owners) = owners {
        owners.push(control(owner));
    }
    adopted
}

/// The object without this owner.
pub fn release(object: &Value, uid: &str) -> Value {
    let mut released = object.clone();
    let metadata = object::map(&mut released, &["metadata"]);
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        owners.retain(|owner| text(owner, &["uid"]) != uid);
        if owners.is_empty() {
            metadata.remove("ownerReferences");
        }
    }
    released
}

/// A condition of an object's status.
pub fn condition<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|each| text(each, &["type"]) == name)
}

/// Whether a pod may still do something.
pub fn is_active(pod: &Value) -> bool {
    !object::is_terminating(pod) && !is_over(pod)
}

/// Whether a pod has come to its end.
pub fn is_over(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// Since when a pod is ready, if it is; the beginning of time if nobody says.
pub fn ready_since(pod: &Value) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| text(ready, &["status"]) == "True")?;
    Some(moment(ready, &["lastTransitionTime"]).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Whether a pod is ready, and if not yet long enough, when it will be.
pub fn availability(pod: &Value, min_ready_s: i64, now: Timestamp) -> Available {
    match ready_since(pod) {
        None => Available::No,
        Some(since) => {
            let at = later(since, min_ready_s);
            if min_ready_s <= 0 || at <= now { Available::Yes } else { Available::At(at) }
        }
    }
}

/// Whether a pod counts as available.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Available {
    /// It does.
    Yes,
    /// It will, if it stays ready.
    At(Timestamp),
    /// It is not ready.
    No,
}

/// The time at a path.
pub fn moment(object: &Value, path: &[&str]) -> Option<Timestamp> {
    at(object, path)?.as_str()?.parse().ok()
}

/// When an object was created.
pub fn created(object: &Value) -> Timestamp {
    moment(object, &["metadata", "creationTimestamp"]).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// So many seconds later, or the end of time.
pub fn later(at: Timestamp, seconds: i64) -> Timestamp {
    at.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// How long until a moment; nothing if it is past.
pub fn until(at: Timestamp, now: Timestamp) -> std::time::Duration {
    at.duration_since(now).try_into().unwrap_or_default()
}

/// An annotation.
pub fn annotation<'a>(object: &'a Value, name: &str) -> &'a str {
    text(object, &["metadata", "annotations", name])
}

/// A number or a percentage of `total`; percentages are rounded up or down.
pub fn scaled(value: Option<&Value>, total: i64, up: bool) -> i64 {
    match value {
        Some(Value::String(text)) => {
            let percent: i64 =
                text.strip_suffix('%').and_then(|number| number.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(total);
            if up { product.saturating_add(99).div_euclid(100) } else { product.div_euclid(100) }
        }
        Some(value) => value.as_i64().unwrap_or(0),
        None => 0,
    }
}

/// Puts a condition among others. `lastTransitionTime` stays if the status does; nothing changes
/// if status, reason and message stay.
pub fn set_condition(conditions: &mut Vec<Value>, mut wish: Value, now: Timestamp) {
    let name = text(&wish, &["type"]).to_owned();
    let old = conditions.iter_mut().find(|each| text(each, &["type"]) == name);
    let same = |a: &Value, b: &Value, field: &str| text(a, &[field]) == text(b, &[field]);
    wish["lastTransitionTime"] = time(now);
    let Some(old) = old else { return conditions.push(wish) };
    if same(old, &wish, "status") {
        if same(old, &wish, "reason") && same(old, &wish, "message") {
            return;
        }
        wish["lastTransitionTime"] = old["lastTransitionTime"].clone();
    }
    *old = wish;
}

/// `spec.replicas`; 1 if nobody says.
pub fn replicas(object: &Value) -> i64 {
    number(object, &["spec", "replicas"]).unwrap_or(1)
}

/// A count of the status.
pub fn count(object: &Value, field: &str) -> i64 {
    number(object, &["status", field]).unwrap_or(0)
}

/// An object in which nulls and empty maps are left out: they mean the same as nothing.
pub fn dense(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.iter().map(|(name, value)| (name.clone(), dense(value)));
            let fields = fields.filter(|(_, value)| {
                !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(dense).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_up_or_down() {
        for (value, total, up, expected) in [
            (json!("25%"), 10, true, 3),
            (json!("25%"), 10, false, 2),
            (json!("25%"), 1, true, 1),
            (json!("25%"), 1, false, 0),
            (json!("100%"), 7, true, 7),
            (json!("0%"), 7, true, 0),
            (json!(3), 7, true, 3),
            (json!("1%"), 1000, false, 10),
        ] {
            assert_eq!(scaled(Some(&value), total, up), expected, "{value} of {total}");
        }
    }

    #[test]
    fn conditions_keep_the_time_of_their_last_turn() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let wish = |status: &str, reason: &str| json!({"type": "Ready", "status": status, "reason": reason, "message": ""});
        let mut conditions = Vec::new();
        set_condition(&mut conditions, wish("True", "A"), at(1));
        set_condition(&mut conditions, wish("True", "B"), at(2));
        assert_eq!(conditions[0]["lastTransitionTime"], "1970-01-01T00:00:01Z");
        assert_eq!(conditions[0]["reason"], "B");
        set_condition(&mut conditions, wish("False", "B"), at(3));
        assert_eq!(conditions[0]["lastTransitionTime"], "1970-01-01T00:00:03Z");
        assert_eq!(conditions.len(), 1);
    }
}
