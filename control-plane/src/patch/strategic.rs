//! Strategic merge patch: maps are merged, and lists by the key of their maps, with directives.
//!
//! `$patch: replace | delete | merge`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>` and `$retainKeys` mean what they mean at upstream.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    Error,
    keys::{Merge, Place, merge_of},
};

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// What the object of this kind becomes.
pub fn apply(kind: &str, object: &mut Value, patch: Value) -> Result<(), Error> {
    let Value::Object(patch) = patch else {
        return Err(Error::Malformed("a strategic merge patch is a map".into()));
    };
    let mut result = object.clone();
    merge_map(kind, "", &mut result, patch)?;
    *object = result;
    Ok(())
}

fn merge_map(
    kind: &str,
    around: &str,
    object: &mut Value,
    mut patch: Map<String, Value>,
) -> Result<(), Error> {
    match directive(&mut patch)? {
        Some(Directive::Replace) => {
            *object = Value::Object(patch);
            return Ok(());
        }
        Some(Directive::Delete) => {
            *object = Value::Object(Map::new());
            return Ok(());
        }
        Some(Directive::Merge) | None => {}
    }
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let Value::Object(object) = object else { return Ok(()) };
    if let Some(retain) = patch.remove(RETAIN) {
        let keep = texts(RETAIN, &retain)?;
        object.retain(|field, _| keep.contains(field.as_str()));
    }
    for (field, gone) in take_prefixed(&mut patch, DELETE_FROM) {
        let gone = list(DELETE_FROM, gone)?;
        if let Some(Value::Array(values)) = object.get_mut(&field) {
            values.retain(|value| !gone.contains(value));
        }
    }
    let orders = take_prefixed(&mut patch, ORDER);
    for (field, value) in patch {
        let place = Place { kind, around, field: &field };
        match value {
            Value::Null => drop(object.remove(&field)),
            Value::Object(map) => {
                let entry = object.entry(field.clone()).or_insert(Value::Null);
                merge_map(kind, &field, entry, map)?;
            }
            Value::Array(values) => {
                let entry = object.entry(field.clone()).or_insert_with(|| Value::Array(Vec::new()));
                merge_list(place, entry, values)?;
            }
            other => drop(object.insert(field, other)),
        }
    }
    for (field, order) in orders {
        let place = Place { kind, around, field: &field };
        let order = list(ORDER, order)?;
        if let Some(Value::Array(values)) = object.get_mut(&field) {
            sort(place, values, &order);
        }
    }
    Ok(())
}

/// What a map in a patch says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Replace,
    Delete,
    Merge,
}

fn directive(patch: &mut Map<String, Value>) -> Result<Option<Directive>, Error> {
    let Some(value) = patch.remove(DIRECTIVE) else { return Ok(None) };
    match value.as_str() {
        Some("replace") => Ok(Some(Directive::Replace)),
        Some("delete") => Ok(Some(Directive::Delete)),
        Some("merge") => Ok(Some(Directive::Merge)),
        _ => Err(Error::Malformed(format!("there is no directive {DIRECTIVE}: {value}"))),
    }
}

fn take_prefixed(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let names: Vec<String> =
        patch.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    names
        .into_iter()
        .filter_map(|name| Some((name[prefix.len()..].to_owned(), patch.remove(&name)?)))
        .collect()
}

fn list(directive: &str, value: Value) -> Result<Vec<Value>, Error> {
    match value {
        Value::Array(values) => Ok(values),
        other => Err(Error::Malformed(format!("{directive} takes a list, not {other}"))),
    }
}

fn texts<'a>(directive: &str, value: &'a Value) -> Result<BTreeSet<&'a str>, Error> {
    let values = value.as_array().map(|values| values.iter().filter_map(Value::as_str).collect());
    values.ok_or_else(|| Error::Malformed(format!("{directive} takes a list, not {value}")))
}

fn merge_list(place: Place<'_>, object: &mut Value, patch: Vec<Value>) -> Result<(), Error> {
    let Value::Array(values) = object else {
        *object = Value::Array(Vec::new());
        return merge_list(place, object, patch);
    };
    match merge_of(place) {
        Merge::Atomic => {
            *values = patch;
            Ok(())
        }
        Merge::Set => {
            for value in patch {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            Ok(())
        }
        Merge::ByKey(key) => merge_maps(place, key, values, patch),
    }
}

fn merge_maps(
    place: Place<'_>,
    key: &str,
    values: &mut Vec<Value>,
    patch: Vec<Value>,
) -> Result<(), Error> {
    let replaces = patch.iter().any(|value| {
        value.get(DIRECTIVE).and_then(Value::as_str) == Some("replace") && value.get(key).is_none()
    });
    if replaces {
        values.clear();
    }
    for value in patch {
        let Value::Object(mut map) = value else {
            let field = place.field;
            return Err(Error::Malformed(format!("{field} is a list of maps, not of {value}")));
        };
        let what = directive(&mut map)?;
        let Some(id) = map.get(key).cloned() else {
            if what == Some(Directive::Replace) {
                continue;
            }
            let field = place.field;
            return Err(Error::DoesNotFit(format!(
                "map: {} does not contain declared merge key: {key} (in {field})",
                Value::Object(map)
            )));
        };
        let found = values.iter().position(|value| value.get(key) == Some(&id));
        match (what, found) {
            (Some(Directive::Delete), Some(at)) => drop(values.remove(at)),
            (Some(Directive::Delete), None) => {}
            (Some(Directive::Replace), Some(at)) => values[at] = Value::Object(map),
            (_, Some(at)) => merge_map(place.kind, place.field, &mut values[at], map)?,
            (_, None) => {
                let mut fresh = Value::Object(Map::new());
                merge_map(place.kind, place.field, &mut fresh, map)?;
                values.push(fresh);
            }
        }
    }
    Ok(())
}

/// Puts values in the order that the patch gives. Those it does not name stay where they are: behind
/// the one that they followed.
fn sort(place: Place<'_>, values: &mut Vec<Value>, order: &[Value]) {
    let rank = |value: &Value| {
        let is = |of: &Value| match merge_of(place) {
            Merge::ByKey(key) => of.get(key).is_some() && of.get(key) == value.get(key),
            Merge::Set | Merge::Atomic => of == value,
        };
        order.iter().position(is)
    };
    let mut ranked: Vec<(usize, Value)> = Vec::with_capacity(values.len());
    let mut last = 0;
    for value in values.drain(..) {
        last = rank(&value).map_or(last, |at| at + 1);
        ranked.push((last, value));
    }
    ranked.sort_by_key(|(at, _)| *at);
    values.extend(ranked.into_iter().map(|(_, value)| value));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(kind: &str, object: &Value, patch: Value) -> Value {
        let mut result = object.clone();
        apply(kind, &mut result, patch).unwrap();
        result
    }

    #[test]
    fn containers_are_merged_by_name_and_ports_by_number() {
        let object = json!({"spec": {"containers": [
            {"name": "a", "image": "x:1", "ports": [{"containerPort": 80}], "args": ["1", "2"]},
            {"name": "b", "image": "y:1"},
        ]}});
        let patch = json!({"spec": {"containers": [
            {"name": "a", "image": "x:2", "ports": [{"containerPort": 81}], "args": ["3"]},
            {"name": "c", "image": "z:1"},
        ]}});
        let expected = json!({"spec": {"containers": [
            {"name": "a", "image": "x:2", "ports": [{"containerPort": 80}, {"containerPort": 81}], "args": ["3"]},
            {"name": "b", "image": "y:1"},
            {"name": "c", "image": "z:1"},
        ]}});
        assert_eq!(patched("Pod", &object, patch), expected);
    }

    #[test]
    fn directives_delete_replace_and_keep() {
        let object = json!({
            "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}},
            "spec": {"containers": [{"name": "a"}, {"name": "b"}], "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}},
        });
        let patch = json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}});
        assert_eq!(patched("Pod", &object, patch)["spec"]["containers"], json!([{"name": "b"}]));
        let patch = json!({"spec": {"containers": [{"$patch": "replace"}, {"name": "n"}]}});
        assert_eq!(patched("Pod", &object, patch)["spec"]["containers"], json!([{"name": "n"}]));
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            patched("Deployment", &object, patch)["spec"]["strategy"],
            json!({"type": "Recreate"})
        );
        let patch = json!({"metadata": {"labels": {"$patch": "replace", "y": "2"}}});
        assert_eq!(patched("Pod", &object, patch)["metadata"]["labels"], json!({"y": "2"}));
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}});
        assert_eq!(patched("Pod", &object, patch)["metadata"]["finalizers"], json!(["b", "c"]));
        let patch = json!({"metadata": {"labels": null}});
        assert_eq!(patched("Pod", &object, patch)["metadata"].get("labels"), None);
    }

    #[test]
    fn the_order_that_a_patch_sets_holds() {
        let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}});
        let patch = json!({"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "n"}, {"name": "a"}],
            "containers": [{"name": "n"}],
        }});
        let names: Vec<Value> = patched("Pod", &object, patch)["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|container| container["name"].clone())
            .collect();
        assert_eq!(names, ["c", "n", "a", "b"]);
    }

    #[test]
    fn a_map_without_its_merge_key_is_an_error_and_nothing_changes() {
        let mut object = json!({"spec": {"containers": [{"name": "a"}]}});
        let before = object.clone();
        let patch =
            json!({"metadata": {"labels": {"x": "1"}}, "spec": {"containers": [{"image": "x"}]}});
        let error = apply("Pod", &mut object, patch).unwrap_err();
        assert!(error.to_string().contains("merge key: name"), "{error}");
        assert_eq!(object, before);
    }
}
