//! Walks through objects by their shape: which fields there are, what differs, merging and removing.

use serde_json::{Map, Value, json};

use super::{
    set::Set,
    shape::{self, Shape, step_to},
};
use crate::schema::Message;

/// The shape of a field of a message; of what is not known, a whole.
fn inside(name: &str, message: &'static Message, field: &str) -> Shape {
    message.field(field).map_or(Shape::Whole, |it| shape::of(name, it))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn item<'v>(list: &'v [Value], keys: &[&str], step: &str) -> Option<&'v Value> {
    list.iter().find(|it| step_to(it, keys) == step)
}

/// All fields that are there.
pub(super) fn fields(value: &Value, shape: Shape) -> Set {
    differing(None, value, shape)
}

/// The fields that `after` has and `before` has not, or in another way.
pub(super) fn differing(before: Option<&Value>, after: &Value, shape: Shape) -> Set {
    let mut set = Set::default();
    let before = before.filter(|it| !it.is_null());
    if matches!(shape, Shape::Whole) || is_empty(after) {
        set.own = before != Some(after);
        return set;
    }
    let mut put = |step: String, child: Set| {
        if !child.is_empty() {
            set.children.insert(step, child);
        }
    };
    match shape {
        Shape::Fields(name, message) => {
            for (field, value) in after.as_object().into_iter().flatten() {
                if !value.is_null() {
                    let known = before.and_then(|it| it.get(field));
                    let shape = inside(name, message, field);
                    put(format!("f:{field}"), differing(known, value, shape));
                }
            }
        }
        Shape::Entries => {
            for (key, value) in after.as_object().into_iter().flatten() {
                let known = before.and_then(|it| it.get(key));
                put(format!("f:{key}"), differing(known, value, Shape::Whole));
            }
        }
        Shape::Items(keys, name, message) => {
            let known = items(before);
            for value in items(Some(after)) {
                let step = step_to(value, keys);
                let before = item(known, keys, &step);
                let mut child = differing(before, value, Shape::Fields(name, message));
                child.own = before.is_none();
                put(step, child);
            }
        }
        Shape::Values => {
            for value in items(Some(after)) {
                if !items(before).contains(value) {
                    put(format!("v:{value}"), Set::leaf());
                }
            }
        }
        Shape::Whole => {}
    }
    set
}

/// An object with the fields of another put in.
pub(super) fn merged(live: Option<&Value>, applied: &Value, shape: Shape) -> Value {
    match (shape, applied) {
        (Shape::Fields(..) | Shape::Entries, Value::Object(wished)) => {
            let mut map = live.and_then(Value::as_object).cloned().unwrap_or_default();
            for (field, value) in wished.iter().filter(|(_, value)| !value.is_null()) {
                let shape = match shape {
                    Shape::Fields(name, message) => inside(name, message, field),
                    Shape::Whole | Shape::Entries | Shape::Items(..) | Shape::Values => {
                        Shape::Whole
                    }
                };
                let merged = merged(map.get(field), value, shape);
                map.insert(field.clone(), merged);
            }
            Value::Object(map)
        }
        (Shape::Items(keys, name, message), Value::Array(wished)) => {
            // The configuration's order; what it does not name keeps its place before what follows it.
            let shape = Shape::Fields(name, message);
            let mut known = items(live).iter().peekable();
            let mut all = Vec::new();
            let is_named = |it: &Value| item(wished, keys, &step_to(it, keys)).is_some();
            for value in wished {
                while let Some(other) = known.next_if(|it| !is_named(it)) {
                    all.push(other.clone());
                }
                let step = step_to(value, keys);
                all.push(merged(item(items(live), keys, &step), value, shape));
                known.next_if(|it| is_named(it));
            }
            all.extend(known.filter(|it| !is_named(it)).cloned());
            all.into()
        }
        (Shape::Values, Value::Array(wished)) => {
            let mut all = items(live).to_vec();
            for value in wished {
                if !all.contains(value) {
                    all.push(value.clone());
                }
            }
            all.into()
        }
        (_, applied) => applied.clone(),
    }
}

/// Takes fields out of an object; what becomes empty by that goes too.
pub(super) fn remove(value: &mut Value, set: &Set, shape: Shape) {
    match (shape, value) {
        (Shape::Fields(..) | Shape::Entries, Value::Object(map)) => {
            for (step, child) in &set.children {
                let Some(field) = step.strip_prefix("f:") else { continue };
                let inner = match shape {
                    Shape::Fields(name, message) => inside(name, message, field),
                    Shape::Whole | Shape::Entries | Shape::Items(..) | Shape::Values => {
                        Shape::Whole
                    }
                };
                remove_field(map, field, child, inner);
            }
        }
        (Shape::Items(keys, name, message), Value::Array(all)) => {
            all.retain(|it| !set.children.get(&step_to(it, keys)).is_some_and(|it| it.own));
            for value in all {
                if let Some(child) = set.children.get(&step_to(value, keys)) {
                    remove(value, child, Shape::Fields(name, message));
                }
            }
        }
        (Shape::Values, Value::Array(all)) => {
            all.retain(|it| !set.children.contains_key(&format!("v:{it}")));
        }
        _ => {}
    }
}

fn remove_field(map: &mut Map<String, Value>, field: &str, set: &Set, shape: Shape) {
    if set.own && set.children.is_empty() {
        // A field that others have filled meanwhile is not ours to take away.
        let is_filled =
            !matches!(shape, Shape::Whole) && map.get(field).is_some_and(|it| !is_empty(it));
        if !is_filled {
            map.remove(field);
        }
        return;
    }
    let Some(value) = map.get_mut(field) else { return };
    remove(value, set, shape);
    if *value == json!({}) || *value == json!([]) {
        map.remove(field);
    }
}
