//! Filling in what clients leave out.

use serde_json::{Map, Value, json};

use crate::{object::set_default, quantity::Quantity};

/// The object in a field, if there is one.
pub(super) fn child<'m>(
    map: &'m mut Map<String, Value>,
    field: &str,
) -> Option<&'m mut Map<String, Value>> {
    map.get_mut(field).and_then(Value::as_object_mut)
}

/// The objects in the list in a field.
pub(super) fn children<'m>(
    map: &'m mut Map<String, Value>,
    field: &str,
) -> impl Iterator<Item = &'m mut Map<String, Value>> {
    let items = map.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
    items.filter_map(Value::as_object_mut)
}

/// Sets a text that is not there, or empty.
pub(super) fn set_text(map: &mut Map<String, Value>, field: &str, value: &str) {
    if map.get(field).and_then(Value::as_str).unwrap_or_default().is_empty() {
        // What is no text is refused elsewhere, and must be seen there.
        if map.get(field).is_none_or(|value| value.is_null() || value.is_string()) {
            map.insert(field.to_owned(), json!(value));
        }
    }
}

/// Sets a number that is not there, or 0.
pub(super) fn set_number(map: &mut Map<String, Value>, field: &str, value: i64) {
    if map.get(field).is_none_or(|value| value.is_null() || value.as_i64() == Some(0)) {
        map.insert(field.to_owned(), json!(value));
    }
}

/// Writes the amount in a field as upstream stores it.
pub(super) fn canonical(map: &mut Map<String, Value>, field: &str) {
    if let Some(amount) = map.get(field).and_then(|value| Quantity::of(value).ok()) {
        map.insert(field.to_owned(), json!(amount.to_string()));
    }
}

/// Writes the amounts of resources in a field as upstream stores them: none is finer than a thousandth.
pub(super) fn canonical_resources(map: &mut Map<String, Value>, field: &str) {
    for (_, value) in child(map, field).into_iter().flatten() {
        if let Ok(amount) = Quantity::of(value) {
            *value = json!(amount.up_to_milli().to_string());
        }
    }
}

/// Gives one map what it lacks and another has.
pub(super) fn copy_missing(map: &mut Map<String, Value>, from: &str, to: &str) {
    let Some(source) = child(map, from).cloned() else { return };
    set_default(map, to, || json!({}));
    let Some(target) = child(map, to) else { return };
    for (key, value) in source {
        target.entry(key).or_insert(value);
    }
}
