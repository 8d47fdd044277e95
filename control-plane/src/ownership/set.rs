//! Sets of fields, as `metadata.managedFields` writes them (`FieldsV1`).

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Map, Value, json};

/// Some fields of an object: a tree of what stands in each other. A step is `f:name`, `k:{…}` for the
/// item of a list with these keys, `v:…` for a value of a list, `i:…` for an item by its index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// Whether the field itself is in the set, and not only some in it.
    pub(super) own: bool,
    /// What is in it, by step.
    pub(super) children: BTreeMap<String, Self>,
}

impl Set {
    /// The field itself, and nothing in it.
    pub(super) fn leaf() -> Self {
        Self { own: true, children: BTreeMap::new() }
    }

    /// From `fieldsV1`; what is none counts as nothing.
    pub(super) fn parse(value: &Value) -> Self {
        let mut set = Self::default();
        for (step, inner) in value.as_object().into_iter().flatten() {
            if step == "." {
                set.own = true;
                continue;
            }
            let mut child = Self::parse(inner);
            child.own |= inner.as_object().is_none_or(Map::is_empty);
            set.children.insert(step.clone(), child);
        }
        set
    }

    /// As `fieldsV1`.
    pub(super) fn write(&self) -> Value {
        let mut map = Map::new();
        if self.own && !self.children.is_empty() {
            map.insert(".".into(), json!({}));
        }
        for (step, child) in &self.children {
            map.insert(step.clone(), child.write());
        }
        Value::Object(map)
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        !self.own && self.children.values().all(Self::is_empty)
    }

    /// Adds what is in another.
    pub(super) fn add(&mut self, other: &Self) {
        self.own |= other.own;
        for (step, child) in &other.children {
            self.children.entry(step.clone()).or_default().add(child);
        }
    }

    /// Takes out what is in another.
    pub(super) fn subtract(&mut self, other: &Self) {
        self.own &= !other.own;
        for (step, child) in &other.children {
            if let Some(mine) = self.children.get_mut(step) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.children.remove(step);
                }
            }
        }
    }

    /// What is in both.
    pub(super) fn both(&self, other: &Self) -> Self {
        let mut set = Self { own: self.own && other.own, children: BTreeMap::new() };
        for (step, child) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = child.both(theirs);
                if !both.is_empty() {
                    set.children.insert(step.clone(), both);
                }
            }
        }
        set
    }

    /// Each field as people write it: `.spec.containers[name="web"].image`.
    pub(super) fn paths(&self) -> Vec<String> {
        let mut all = Vec::new();
        self.each("", &mut all);
        all
    }

    fn each(&self, path: &str, all: &mut Vec<String>) {
        if self.own {
            all.push(path.to_owned());
        }
        for (step, child) in &self.children {
            child.each(&format!("{path}{}", shown(step)), all);
        }
    }
}

fn shown(step: &str) -> String {
    match step.split_at_checked(2) {
        Some(("f:", name)) => format!(".{name}"),
        Some(("k:", keys)) => {
            let keys: Value = serde_json::from_str(keys).unwrap_or_default();
            let mut text = String::from("[");
            for (index, (key, value)) in keys.as_object().into_iter().flatten().enumerate() {
                let comma = if index > 0 { "," } else { "" };
                // Writing to a string cannot fail.
                let _ = write!(text, "{comma}{key}={value}");
            }
            text + "]"
        }
        Some(("v:", value)) => format!("[={value}]"),
        Some((_, rest)) => format!("[{rest}]"),
        None => step.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_as_it_was_read_and_shown_as_paths() {
        let text = json!({
            "f:metadata": {"f:finalizers": {".": {}, "v:\"a\"": {}}},
            "f:spec": {"f:replicas": {}, "f:containers": {
                "k:{\"name\":\"web\"}": {".": {}, "f:image": {}},
            }},
        });
        let set = Set::parse(&text);
        assert_eq!(set.write(), text);
        assert_eq!(
            set.paths(),
            [
                ".metadata.finalizers",
                ".metadata.finalizers[=\"a\"]",
                ".spec.containers[name=\"web\"]",
                ".spec.containers[name=\"web\"].image",
                ".spec.replicas",
            ]
        );
    }

    #[test]
    fn sets_are_added_subtracted_and_met() {
        let a = Set::parse(&json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}));
        let b = Set::parse(&json!({"f:b": {"f:d": {}, "f:e": {}}}));
        let mut sum = a.clone();
        sum.add(&b);
        assert_eq!(sum.write(), json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}, "f:e": {}}}));
        assert_eq!(a.both(&b).write(), json!({"f:b": {"f:d": {}}}));
        let mut rest = a.clone();
        rest.subtract(&b);
        assert_eq!(rest.write(), json!({"f:a": {}, "f:b": {"f:c": {}}}));
        rest.subtract(&a);
        assert!(rest.is_empty());
    }
}
