//! Objects as the store holds them: JSON that begins with the metadata, without `resourceVersion`,
//! which is the revision of the write, so that it can be put in its place without reading the rest.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::store::{Entry, Revision};

/// What every stored object begins with.
const BEGIN: &[u8] = br#"{"metadata":{"#;

/// For the store.
pub(super) fn encode(object: &Value) -> Bytes {
    let mut metadata = object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    if let Value::Object(map) = &mut metadata {
        map.remove("resourceVersion");
    }
    let mut text = br#"{"metadata":"#.to_vec();
    text.extend_from_slice(metadata.to_string().as_bytes());
    for (name, value) in object.as_object().into_iter().flatten() {
        if name != "metadata" && !value.is_null() {
            text.push(b',');
            text.extend_from_slice(Value::from(name.as_str()).to_string().as_bytes());
            text.push(b':');
            text.extend_from_slice(value.to_string().as_bytes());
        }
    }
    text.push(b'}');
    Bytes::from(text)
}

/// An object with its version, as clients get it, appended to `text`.
pub fn write_versioned(text: &mut Vec<u8>, value: &[u8], version: Revision) {
    let rest = value.strip_prefix(BEGIN).unwrap_or_default();
    text.extend_from_slice(BEGIN);
    text.extend_from_slice(format!(r#""resourceVersion":"{version}""#).as_bytes());
    if rest.first() != Some(&b'}') {
        text.push(b',');
    }
    text.extend_from_slice(rest);
}

/// An object with its version, as JSON.
pub fn versioned(value: &[u8], version: Revision) -> Bytes {
    let mut text = Vec::with_capacity(value.len() + 40);
    write_versioned(&mut text, value, version);
    Bytes::from(text)
}

/// An object with its version. Null if the store holds something else, which it was not given.
pub fn decode(value: &[u8], version: Revision) -> Value {
    let mut object: Value = serde_json::from_slice(value).unwrap_or_default();
    set_version(&mut object, version);
    object
}

/// The entry's object.
pub fn decoded(entry: &Entry) -> Value {
    decode(&entry.value, entry.modified)
}

/// Sets `metadata.resourceVersion`.
pub fn set_version(object: &mut Value, version: Revision) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), Value::from(version.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_stored_comes_back_with_its_version() {
        for object in [
            json!({"apiVersion": "v1", "data": {"metadata": "{\"metadata\":{"}, "metadata": {"name": "a", "resourceVersion": "4"}}),
            json!({"metadata": {}, "kind": "X"}),
        ] {
            let text = versioned(&encode(&object), Revision(7));
            let back: Value = serde_json::from_slice(&text).expect("JSON");
            let mut expected = object.clone();
            set_version(&mut expected, Revision(7));
            assert_eq!(back, expected);
            assert_eq!(decode(&encode(&object), Revision(7)), expected);
        }
    }
}
