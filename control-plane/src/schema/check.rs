//! Whether an object consists of what its kind consists of.

use serde_json::Value;

use super::{Field, Many, Message, Type, message};

/// A value of a type that its field does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("json: cannot unmarshal {found} into Go struct field {place} of type {wanted}")]
pub struct Mismatch {
    found: &'static str,
    place: String,
    wanted: String,
}

/// Takes out of an object what its kind does not have; the paths of that.
pub fn prune(
    object: &mut Value,
    kind: &'static Message,
    name: &str,
) -> Result<Vec<String>, Mismatch> {
    let mut unknown = Vec::new();
    each(object, kind, &Path { name, parent: None }, &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

/// Where we are in an object.
struct Path<'p> {
    name: &'p str,
    parent: Option<&'p Self>,
}

impl Path<'_> {
    fn then(&self, name: &str) -> String {
        let mut text = name.to_owned();
        let mut at = Some(self);
        while let Some(path) = at
            && path.parent.is_some()
        {
            let dot = if text.starts_with('[') { "" } else { "." };
            text = format!("{}{dot}{text}", path.name);
            at = path.parent;
        }
        text
    }

    /// The kind at the top.
    fn kind(&self) -> &str {
        self.parent.map_or(self.name, Path::kind)
    }
}

fn each(
    object: &mut Value,
    kind: &'static Message,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), Mismatch> {
    let Value::Object(map) = object else { return Ok(()) };
    let is_top = path.parent.is_none();
    let mut gone = Vec::new();
    for (name, value) in map.iter_mut() {
        if is_top && (name == "apiVersion" || name == "kind") {
            continue;
        }
        let Some(field) = kind.field(name) else {
            unknown.push(path.then(name));
            gone.push(name.clone());
            continue;
        };
        held(value, field, &Path { name, parent: Some(path) }, unknown)?;
    }
    for name in gone {
        map.remove(&name);
    }
    Ok(())
}

fn held(
    value: &mut Value,
    field: &Field,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), Mismatch> {
    match (field.many, value) {
        (_, Value::Null) => Ok(()),
        (Many::One, value) => one(value, &field.kind, path, unknown),
        (Many::List, Value::Array(items)) => {
            for (index, item) in items.iter_mut().enumerate() {
                let name = format!("[{index}]");
                one(item, &field.kind, &Path { name: &name, parent: Some(path) }, unknown)?;
            }
            Ok(())
        }
        (Many::Map, Value::Object(map)) => {
            for (key, value) in map {
                one(value, &field.kind, &Path { name: key, parent: Some(path) }, unknown)?;
            }
            Ok(())
        }
        (Many::List, other) => Err(mismatch(other, path, format!("[]{}", go(&field.kind)))),
        (Many::Map, other) => Err(mismatch(other, path, format!("map[string]{}", go(&field.kind)))),
    }
}

fn one(
    value: &mut Value,
    kind: &Type,
    path: &Path<'_>,
    unknown: &mut Vec<String>,
) -> Result<(), Mismatch> {
    let fits = match (kind, &*value) {
        (_, Value::Null)
        | (
            Type::Text | Type::Bytes | Type::Time | Type::MicroTime | Type::Duration,
            Value::String(_),
        )
        | (Type::Bool, Value::Bool(_))
        | (Type::Double, Value::Number(_))
        | (Type::Quantity | Type::IntOrString, Value::String(_) | Value::Number(_))
        | (Type::Json | Type::Object, _)
        | (Type::Texts, Value::Array(_))
        | (Type::Message(_), Value::Object(_)) => true,
        (Type::Integer, Value::Number(number)) => number.as_i64().is_some(),
        _ => false,
    };
    if !fits {
        return Err(mismatch(value, path, go(kind)));
    }
    match kind {
        Type::Message(name) => {
            message(name).map_or(Ok(()), |kind| each(value, kind, path, unknown))
        }
        _ => Ok(()),
    }
}

/// The name of a type as Go's messages have it.
fn go(kind: &Type) -> String {
    match kind {
        Type::Text => "string",
        Type::Bool => "bool",
        Type::Integer => "int32",
        Type::Double => "float64",
        Type::Bytes => "[]uint8",
        Type::Time => "v1.Time",
        Type::MicroTime => "v1.MicroTime",
        Type::Duration => "v1.Duration",
        Type::Quantity => "resource.Quantity",
        Type::IntOrString => "intstr.IntOrString",
        Type::Json => "v1.FieldsV1",
        Type::Object => "runtime.RawExtension",
        Type::Texts => "[]string",
        Type::Message(name) => name.split_once('.').map_or(*name, |(_, name)| name),
    }
    .to_owned()
}

fn mismatch(found: &Value, path: &Path<'_>, wanted: String) -> Mismatch {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let whole = path.parent.map_or_else(String::new, |parent| parent.then(path.name));
    Mismatch { found, place: format!("{}.{whole}", path.kind()), wanted }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn pruned(object: &Value) -> Result<(Value, Vec<String>), Mismatch> {
        let mut object = object.clone();
        let kind = schema::of("apps/v1", "Deployment").expect("deployments");
        let unknown = prune(&mut object, kind, "Deployment")?;
        Ok((object, unknown))
    }

    #[test]
    fn what_a_kind_does_not_have_is_named_and_taken_out() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "label": {}},
            "spec": {"replicaz": 1, "template": {"metadata": {"labels": {"any": "x"}}, "spec": {"containers": [
                {"name": "a", "imagee": "b", "livenessProbe": {"httpGet": {"port": "x"}, "tries": 3}},
            ]}}},
            "extra": true,
        });
        let (clean, unknown) = pruned(&object).expect("types fit");
        assert_eq!(
            unknown,
            [
                "extra",
                "metadata.label",
                "spec.replicaz",
                "spec.template.spec.containers[0].imagee",
                "spec.template.spec.containers[0].livenessProbe.tries",
            ]
        );
        assert_eq!(clean["spec"]["template"]["metadata"]["labels"], json!({"any": "x"}));
        assert_eq!(pruned(&clean), Ok((clean.clone(), Vec::new())));
    }

    #[test]
    fn a_value_of_another_type_is_refused_in_the_words_of_go() {
        let cases = [
            (
                json!({"spec": {"replicas": "3"}}),
                "cannot unmarshal string into Go struct field Deployment.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": {}}}}}),
                "cannot unmarshal object into Go struct field Deployment.spec.template.spec.containers of type []v1.Container",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "cannot unmarshal number into Go struct field Deployment.metadata.labels.a of type string",
            ),
        ];
        for (object, words) in cases {
            let said = pruned(&object).expect_err("it does not fit").to_string();
            assert!(said.contains(words), "{said}");
        }
    }
}
