//! Fields of an object with their paths, and the list of what is wrong with them.

use std::fmt;

use serde_json::{Value, json};

use crate::{api::status::Cause, object};

/// One step of a path.
#[derive(Clone, Copy, Debug)]
enum Step<'p> {
    Name(&'p str),
    Index(usize),
    Key(&'p str),
}

/// What is in a place of an object, if anything, and the path of the place. The path is written out
/// only when there is something to complain about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'p, 'v> {
    parent: Option<&'p Field<'p, 'v>>,
    step: Step<'p>,
    value: Option<&'v Value>,
}

impl<'p, 'v> Field<'p, 'v> {
    /// The object itself.
    pub(super) fn root(object: &'v Value) -> Self {
        Self { parent: None, step: Step::Name(""), value: Some(object) }
    }

    /// A field of it.
    pub(super) fn get<'s>(&'s self, name: &'s str) -> Field<'s, 'v> {
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        Field { parent: Some(self), step: Step::Name(name), value }
    }

    /// An item of the list in it, also if there is none.
    pub(super) fn item(&self, index: usize) -> Field<'_, 'v> {
        let value = self.value.and_then(|value| value.get(index));
        Field { parent: Some(self), step: Step::Index(index), value }
    }

    /// An entry of the map in it, also if there is none.
    pub(super) fn entry<'s>(&'s self, key: &'s str) -> Field<'s, 'v> {
        let value = self.value.and_then(|value| value.get(key)).filter(|value| !value.is_null());
        Field { parent: Some(self), step: Step::Key(key), value }
    }

    /// The same place with something else in it.
    pub(super) fn with(&self, value: Option<&'v Value>) -> Self {
        Self { value, ..*self }
    }

    /// The items of the list in it.
    pub(super) fn items(&self) -> impl Iterator<Item = Field<'_, 'v>> {
        (0..self.list().len()).map(|index| self.item(index))
    }

    /// The entries of the map in it, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = Field<'_, 'v>> {
        let map = self.value.and_then(Value::as_object).into_iter().flatten();
        map.map(|(key, value)| Field {
            parent: Some(self),
            step: Step::Key(key),
            value: Some(value),
        })
    }

    /// The key of an entry, or the name of a field.
    pub(super) fn key(&self) -> &'p str {
        match self.step {
            Step::Name(name) | Step::Key(name) => name,
            Step::Index(_) => "",
        }
    }

    /// What is there.
    pub(super) fn value(&self) -> Option<&'v Value> {
        self.value
    }

    /// Whether something is there.
    pub(super) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    /// The text in it; empty if there is none.
    pub(super) fn text(&self) -> &'v str {
        self.value.and_then(Value::as_str).unwrap_or_default()
    }

    /// The whole number in it.
    pub(super) fn number(&self) -> Option<i64> {
        self.value.and_then(Value::as_i64)
    }

    /// Yes or no.
    pub(super) fn flag(&self) -> Option<bool> {
        self.value.and_then(Value::as_bool)
    }

    /// The list in it; empty if there is none.
    pub(super) fn list(&self) -> &'v [Value] {
        self.value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// How many entries the map in it has.
    pub(super) fn len(&self) -> usize {
        self.value.and_then(Value::as_object).map_or(0, serde_json::Map::len)
    }

    /// The texts of the list in it.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'v str> {
        self.list().iter().map(|value| value.as_str().unwrap_or_default())
    }

    /// What is further down.
    pub(super) fn at(&self, path: &[&str]) -> Option<&'v Value> {
        self.value.and_then(|value| object::at(value, path))
    }

    /// The text further down.
    pub(super) fn text_at(&self, path: &[&str]) -> &'v str {
        self.at(path).and_then(Value::as_str).unwrap_or_default()
    }
}

/// Its path: `spec.containers[0].resources.limits[cpu]`.
impl fmt::Display for Field<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Name("") => Ok(()),
            Step::Name(name) => {
                let is_first = self.parent.is_none_or(|parent| parent.parent.is_none());
                write!(f, "{}{name}", if is_first { "" } else { "." })
            }
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

/// What is wrong, in the order of its discovery.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Cause>);

impl Report {
    /// All of it; what is said twice counts once.
    pub(super) fn causes(self) -> Vec<Cause> {
        let mut causes: Vec<Cause> = Vec::with_capacity(self.0.len());
        for cause in self.0 {
            if !causes.contains(&cause) {
                causes.push(cause);
            }
        }
        causes
    }

    /// How much is wrong so far.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// It must be there.
    pub(super) fn required(&mut self, at: &Field<'_, '_>, why: &str) {
        self.0.push(Cause::required(at.to_string(), why));
    }

    /// It must not be what it is; a text that is not there counts as empty.
    pub(super) fn invalid(&mut self, at: &Field<'_, '_>, why: &str) {
        match at.value() {
            Some(value) => self.0.push(Cause::invalid(at.to_string(), value, why)),
            None => self.invalid_as(at, &json!(""), why),
        }
    }

    /// It must not be what it is; a number that is not there counts as 0.
    pub(super) fn invalid_number(&mut self, at: &Field<'_, '_>, why: &str) {
        self.invalid_as(at, &json!(at.number().unwrap_or(0)), why);
    }

    /// Something about it must not be this.
    pub(super) fn invalid_as(&mut self, at: &Field<'_, '_>, value: &Value, why: &str) {
        self.0.push(Cause::invalid(at.to_string(), value, why));
    }

    /// It must not be this, which is written without quotes.
    pub(super) fn invalid_plain(&mut self, at: &Field<'_, '_>, why: &str) {
        let value = at.value().cloned().unwrap_or(Value::Null);
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let message = format!("Invalid value: {text}: {why}");
        self.0.push(Cause { reason: "FieldValueInvalid", message, field: at.to_string() });
    }

    /// Each of these is wrong with it.
    pub(super) fn invalid_all(&mut self, at: &Field<'_, '_>, whys: &[String]) {
        for why in whys {
            self.invalid(at, why);
        }
    }

    /// It must be one of these.
    pub(super) fn not_supported(&mut self, at: &Field<'_, '_>, known: &[&str]) {
        let value = at.value().cloned().unwrap_or_else(|| json!(""));
        self.0.push(Cause::not_supported(at.to_string(), &value, known));
    }

    /// One of these, if it is there; `false` if it is not there.
    pub(super) fn one_of(&mut self, at: &Field<'_, '_>, known: &[&str]) -> bool {
        if at.is_set() && !known.contains(&at.text()) {
            self.not_supported(at, known);
        }
        at.is_set()
    }

    /// It must be there, and one of these.
    pub(super) fn required_one_of(&mut self, at: &Field<'_, '_>, known: &[&str]) {
        if at.text().is_empty() {
            self.required(at, "");
        } else {
            self.one_of(at, known);
        }
    }

    /// Another one has it already.
    pub(super) fn duplicate(&mut self, at: &Field<'_, '_>) {
        let value = at.value().cloned().unwrap_or_else(|| json!(""));
        self.duplicate_as(at, &value);
    }

    /// Another one is this already.
    pub(super) fn duplicate_as(&mut self, at: &Field<'_, '_>, value: &Value) {
        self.0.push(Cause::duplicate(at.to_string(), value));
    }

    /// It must not be there, or not change.
    pub(super) fn forbidden(&mut self, at: &Field<'_, '_>, why: &str) {
        self.0.push(Cause::forbidden(at.to_string(), why));
    }

    /// It names something that is not there.
    pub(super) fn not_found(&mut self, at: &Field<'_, '_>) {
        let value = at.value().cloned().unwrap_or_else(|| json!(""));
        let message = format!("Not found: {value}");
        self.0.push(Cause { reason: "FieldValueNotFound", message, field: at.to_string() });
    }

    /// It has too many bytes.
    pub(super) fn too_long(&mut self, at: &Field<'_, '_>, max: usize) {
        let message = format!("Too long: may not be more than {max} bytes");
        self.0.push(Cause { reason: "FieldValueTooLong", message, field: at.to_string() });
    }

    /// It has too many items.
    pub(super) fn too_many(&mut self, at: &Field<'_, '_>, actual: usize, max: usize) {
        let message = format!("Too many: {actual}: must have at most {max} items");
        self.0.push(Cause { reason: "FieldValueTooMany", message, field: at.to_string() });
    }

    /// It must not be negative.
    pub(super) fn not_negative(&mut self, at: &Field<'_, '_>) {
        if at.number().is_some_and(|number| number < 0) {
            self.invalid(at, "must be greater than or equal to 0");
        }
    }

    /// It must be what it was.
    pub(super) fn immutable(&mut self, at: &Field<'_, '_>, before: Option<&Value>) {
        if at.value() != before {
            let value = at.value().cloned().unwrap_or(Value::Null);
            self.invalid_as(at, &value, "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let object = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1"}}}]}});
        let root = Field::root(&object);
        let spec = root.get("spec");
        let containers = spec.get("containers");
        let first = containers.item(0);
        let resources = first.get("resources");
        let limits = resources.get("limits");
        assert_eq!(limits.entry("cpu").to_string(), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(
            limits.entries().next().map(|cpu| cpu.to_string()),
            Some(limits.entry("cpu").to_string())
        );
        assert_eq!(spec.to_string(), "spec");
        assert_eq!(root.to_string(), "");
        assert_eq!(root.get("subsets").item(1).to_string(), "subsets[1]");
    }

    #[test]
    fn messages_are_those_of_upstream() {
        let object = json!({"a": "x", "n": -1});
        let root = Field::root(&object);
        let mut report = Report::default();
        report.required(&root.get("b"), "");
        report.invalid(&root.get("a"), "must be y");
        report.invalid(&root.get("b"), "must be y");
        report.not_negative(&root.get("n"));
        report.not_supported(&root.get("a"), &["y", "z"]);
        report.immutable(&root.get("a"), None);
        report.too_long(&root.get("a"), 3);
        report.too_many(&root.get("a"), 5, 3);
        report.not_found(&root.get("a"));
        report.duplicate(&root.get("a"));
        report.duplicate(&root.get("a"));
        let causes = report.causes();
        let text: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        assert_eq!(
            text,
            [
                "b: Required value",
                "a: Invalid value: \"x\": must be y",
                "b: Invalid value: \"\": must be y",
                "n: Invalid value: -1: must be greater than or equal to 0",
                "a: Unsupported value: \"x\": supported values: \"y\", \"z\"",
                "a: Invalid value: \"x\": field is immutable",
                "a: Too long: may not be more than 3 bytes",
                "a: Too many: 5: must have at most 3 items",
                "a: Not found: \"x\"",
                "a: Duplicate value: \"x\"",
            ]
        );
    }
}
