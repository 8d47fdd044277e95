//! JSON patch (RFC 6902): a list of operations, all or none.

use serde_json::Value;

use super::Error;

/// Operations in one patch, as upstream allows.
const OPERATIONS_MAX: usize = 10_000;

/// What the object becomes.
pub fn apply(object: &mut Value, patch: &Value) -> Result<(), Error> {
    let operations = patch
        .as_array()
        .ok_or_else(|| Error::Malformed("a JSON patch is a list of operations".into()))?;
    if operations.len() > OPERATIONS_MAX {
        let count = operations.len();
        let message = format!("{count} operations in a JSON patch, {OPERATIONS_MAX} are allowed");
        return Err(Error::Malformed(message));
    }
    let mut result = object.clone();
    for (number, operation) in operations.iter().enumerate() {
        one(&mut result, operation).map_err(|why| {
            Error::DoesNotFit(format!("operation {number} of the JSON patch: {why}"))
        })?;
    }
    *object = result;
    Ok(())
}

fn one(object: &mut Value, operation: &Value) -> Result<(), String> {
    let field = |name: &str| operation.get(name).and_then(Value::as_str);
    let path = field("path").ok_or("it has no path")?;
    let from = || field("from").ok_or("it has no `from`");
    let value = || operation.get("value").cloned().ok_or("it has no value");
    match field("op").ok_or("it has no op")? {
        "add" => add(object, path, value()?),
        "remove" => remove(object, path).map(drop),
        "replace" => {
            let value = value()?;
            let place = object.pointer_mut(path).ok_or_else(|| missing(path))?;
            *place = value;
            Ok(())
        }
        "move" => {
            let from = from()?;
            if path.strip_prefix(from).is_some_and(|rest| rest.starts_with('/')) {
                return Err(format!("{from} cannot be moved into itself"));
            }
            let value = remove(object, from)?;
            add(object, path, value)
        }
        "copy" => {
            let from = from()?;
            let value = object.pointer(from).cloned().ok_or_else(|| missing(from))?;
            add(object, path, value)
        }
        "test" => {
            let value = value()?;
            let found = object.pointer(path).ok_or_else(|| missing(path))?;
            if *found == value { Ok(()) } else { Err(format!("{path} is {found}, not {value}")) }
        }
        other => Err(format!("there is no op {other:?}")),
    }
}

fn missing(path: &str) -> String {
    format!("there is nothing at {path}")
}

/// The value around what the path names, and the last part of the path.
fn parent<'a>(object: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (around, last) =
        path.rsplit_once('/').ok_or_else(|| format!("{path:?} is no JSON pointer"))?;
    let place = object.pointer_mut(around).ok_or_else(|| missing(around))?;
    Ok((place, last.replace("~1", "/").replace("~0", "~")))
}

fn index(text: &str, path: &str, len: usize) -> Result<usize, String> {
    let is_plain = text == "0" || !text.starts_with(['0', '+']);
    let index = text.parse::<usize>().ok().filter(|at| is_plain && *at <= len);
    index.ok_or_else(|| format!("{path} is no place in a list of {len}"))
}

fn add(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *object = value;
        return Ok(());
    }
    let (around, last) = parent(object, path)?;
    match around {
        Value::Object(map) => {
            map.insert(last, value);
            Ok(())
        }
        Value::Array(list) => {
            let at = if last == "-" { list.len() } else { index(&last, path, list.len())? };
            list.insert(at, value);
            Ok(())
        }
        _ => Err(missing(path)),
    }
}

fn remove(object: &mut Value, path: &str) -> Result<Value, String> {
    if path.is_empty() {
        return Ok(object.take());
    }
    let (around, last) = parent(object, path)?;
    match around {
        Value::Object(map) => map.remove(&last).ok_or_else(|| missing(path)),
        Value::Array(list) => {
            let at = index(&last, path, list.len())?;
            if at == list.len() {
                return Err(missing(path));
            }
            Ok(list.remove(at))
        }
        _ => Err(missing(path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn patched(object: &Value, patch: &Value) -> Result<Value, Error> {
        let mut result = object.clone();
        apply(&mut result, patch).map(|()| result)
    }

    #[test]
    fn every_operation_does_what_the_rfc_says() {
        let object = json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 1}});
        for (patch, expected) in [
            (
                json!([{"op": "add", "path": "/a/b/1", "value": 9}]),
                json!({"a": {"b": [1, 9, 2, 3]}, "x/y": {"~": 1}}),
            ),
            (
                json!([{"op": "add", "path": "/a/b/-", "value": 9}]),
                json!({"a": {"b": [1, 2, 3, 9]}, "x/y": {"~": 1}}),
            ),
            (
                json!([{"op": "remove", "path": "/a/b/0"}]),
                json!({"a": {"b": [2, 3]}, "x/y": {"~": 1}}),
            ),
            (
                json!([{"op": "replace", "path": "/x~1y/~0", "value": 2}]),
                json!({"a": {"b": [1, 2, 3]}, "x/y": {"~": 2}}),
            ),
            (
                json!([{"op": "move", "from": "/a/b", "path": "/c"}]),
                json!({"a": {}, "c": [1, 2, 3], "x/y": {"~": 1}}),
            ),
            (
                json!([{"op": "copy", "from": "/a/b/2", "path": "/c"}]),
                json!({"a": {"b": [1, 2, 3]}, "c": 3, "x/y": {"~": 1}}),
            ),
            (json!([{"op": "test", "path": "/a/b/0", "value": 1}]), object.clone()),
        ] {
            assert_eq!(patched(&object, &patch), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn a_patch_that_does_not_fit_changes_nothing_and_names_its_operation() {
        let object = json!({"a": [1]});
        for patch in [
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "remove", "path": "/c"}]),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "test", "path": "/a/0", "value": 2}]),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "add", "path": "/a/2", "value": 2}]),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "replace", "path": "/a/01", "value": 2}]),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "move", "from": "/a", "path": "/a/0"}]),
            json!([{"op": "add", "path": "/b", "value": 1}, {"op": "nonsense", "path": "/a"}]),
        ] {
            let mut result = object.clone();
            let error = apply(&mut result, &patch).unwrap_err();
            assert_eq!(result, object, "{patch}");
            assert!(error.to_string().contains("operation 1"), "{error}");
        }
    }
}
