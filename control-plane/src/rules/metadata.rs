//! What holds for the metadata of every object, and for labels and selectors wherever they stand.

use serde_json::{Value, json};

use super::{
    field::{Field, Report},
    text::{self, NameRule},
};

/// Bytes that the annotations of an object may have together.
const ANNOTATIONS_MAX: usize = 256 << 10;
/// Bytes that the name of who changed an object may have.
const WRITER_MAX: usize = 128;
/// Finalizers without a domain.
const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
/// What an object is and stays.
const FOREVER: [&str; 6] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
];

/// What is wrong with the metadata of an object, or with changing `old` into it. That nobody adds
/// finalizers to what is being deleted is seen to where objects are changed.
pub(super) fn check(
    root: &Field<'_, '_>,
    old: Option<&Value>,
    namespaced: bool,
    name_rule: NameRule,
    report: &mut Report,
) {
    let metadata = root.get("metadata");
    match old {
        Some(old) => same(&metadata, &Field::root(old).get("metadata"), report),
        None => names(&metadata, namespaced, name_rule, report),
    }
    labels(&metadata.get("labels"), report);
    annotations(&metadata.get("annotations"), report);
    owners(&metadata.get("ownerReferences"), report);
    finalizers(&metadata.get("finalizers"), report);
    managers(&metadata.get("managedFields"), report);
}

fn names(metadata: &Field<'_, '_>, namespaced: bool, name_rule: NameRule, report: &mut Report) {
    let base = metadata.get("generateName");
    if !base.text().is_empty() {
        report.invalid_all(&base, &name_rule(base.text(), true));
    }
    let name = metadata.get("name");
    if name.text().is_empty() {
        report.required(&name, "name or generateName is required");
    } else {
        report.invalid_all(&name, &name_rule(name.text(), false));
    }
    let namespace = metadata.get("namespace");
    match (namespaced, namespace.text()) {
        (true, "") => report.required(&namespace, ""),
        (true, text) => report.invalid_all(&namespace, &text::dns_label(text)),
        (false, "") => {}
        (false, _) => report.forbidden(&namespace, "not allowed on this type"),
    }
}

fn same(metadata: &Field<'_, '_>, before: &Field<'_, '_>, report: &mut Report) {
    for field in FOREVER {
        report.immutable(&metadata.get(field), before.get(field).value());
    }
    let generation = metadata.get("generation");
    if generation.number().unwrap_or(0) < before.get("generation").number().unwrap_or(0) {
        report.invalid_number(&generation, "must not be decremented");
    }
}

/// A map of labels.
pub(super) fn labels(at: &Field<'_, '_>, report: &mut Report) {
    for label in at.entries() {
        label_key(at, label.key(), report);
        for why in text::label_value(label.text()) {
            report.invalid_as(at, &json!(label.text()), &why);
        }
    }
}

fn label_key(at: &Field<'_, '_>, key: &str, report: &mut Report) {
    for why in text::label_key(key) {
        report.invalid_as(at, &json!(key), &why);
    }
}

/// The key of a label in a field of its own.
pub(super) fn key(at: &Field<'_, '_>, report: &mut Report) {
    report.invalid_all(at, &text::label_key(at.text()));
}

/// A map of annotations.
pub(super) fn annotations(at: &Field<'_, '_>, report: &mut Report) {
    let mut size = 0;
    for annotation in at.entries() {
        let name = annotation.key();
        for why in text::label_key(&name.to_lowercase()) {
            report.invalid_as(at, &json!(name), &why);
        }
        size += name.len() + annotation.text().len();
    }
    if size > ANNOTATIONS_MAX {
        report.too_long(at, ANNOTATIONS_MAX);
    }
}

fn owners(at: &Field<'_, '_>, report: &mut Report) {
    let mut controller = String::new();
    for owner in at.items() {
        let version = owner.text_at(&["apiVersion"]);
        let kind = owner.text_at(&["kind"]);
        if version.is_empty() || version.ends_with('/') {
            report.invalid_as(&at.get("apiVersion"), &json!(version), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text_at(&[field]).is_empty() {
                report.invalid_as(&at.get(field), &json!(""), "must not be empty");
            }
        }
        if (version, kind) == ("v1", "Event") {
            let value = owner.value().cloned().unwrap_or_default();
            report.invalid_as(at, &value, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").flag() != Some(true) {
            continue;
        }
        let this = format!("{kind}/{}", owner.text_at(&["name"]));
        if controller.is_empty() {
            controller = this;
        } else {
            let why = format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for \
                 {controller} and {this}"
            );
            report.invalid(at, &why);
        }
    }
}

fn finalizers(at: &Field<'_, '_>, report: &mut Report) {
    for finalizer in at.items() {
        finalizer_name(at, finalizer.text(), report);
        if !finalizer.text().contains('/') && !FINALIZERS.contains(&finalizer.text()) {
            let why = "name is neither a standard finalizer name nor is it fully qualified";
            report.invalid(&finalizer, why);
        }
    }
    let has = |name: &str| at.texts().any(|finalizer| finalizer == name);
    if has("orphan") && has("foregroundDeletion") {
        report.invalid(at, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// The name of a finalizer.
pub(super) fn finalizer_name(at: &Field<'_, '_>, name: &str, report: &mut Report) {
    label_key(at, name, report);
}

fn managers(at: &Field<'_, '_>, report: &mut Report) {
    for entry in at.items() {
        let operation = entry.get("operation");
        if !["Apply", "Update"].contains(&operation.text()) {
            report.invalid(&operation, "must be `Apply` or `Update`");
        }
        let form = entry.get("fieldsType");
        if !["", "FieldsV1"].contains(&form.text()) {
            report.invalid(&form, "must be `FieldsV1`");
        }
        let manager = entry.get("manager");
        if manager.text().len() > WRITER_MAX {
            report.too_long(&manager, WRITER_MAX);
        }
    }
}

/// A selector of labels: `matchLabels` and `matchExpressions`.
pub(super) fn selector(at: &Field<'_, '_>, report: &mut Report) {
    labels(&at.get("matchLabels"), report);
    let expressions = at.get("matchExpressions");
    for expression in expressions.items() {
        let values = expression.get("values");
        match expression.text_at(&["operator"]) {
            "In" | "NotIn" if values.list().is_empty() => {
                let why = "must be specified when `operator` is 'In' or 'NotIn'";
                report.required(&values, why);
            }
            "Exists" | "DoesNotExist" if !values.list().is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                report.forbidden(&values, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => report.invalid(&expression.get("operator"), "not a valid selector operator"),
        }
        key(&expression.get("key"), report);
        for value in values.items() {
            report.invalid_all(&value, &text::label_value(value.text()));
        }
    }
}

/// Whether a selector asks for nothing.
pub(super) fn is_empty(selector: &Field<'_, '_>) -> bool {
    selector.get("matchLabels").len() == 0 && selector.get("matchExpressions").list().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Cause;

    fn causes_of(new: &Value, old: Option<&Value>, namespaced: bool, rule: NameRule) -> Vec<Cause> {
        let mut report = Report::default();
        check(&Field::root(new), old, namespaced, rule, &mut report);
        report.causes()
    }

    fn pod(metadata: &Value) -> Value {
        json!({"metadata": metadata})
    }

    fn wrong(metadata: &Value, old: Option<&Value>) -> Vec<String> {
        let (new, old) = (pod(metadata), old.map(pod));
        let causes = causes_of(&new, old.as_ref(), true, text::subdomain_name);
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        let found = wrong(
            &json!({
                "name": "A", "generateName": "web-", "namespace": "a.b",
                "labels": {"a b": "-"}, "annotations": {"UPPER/Is.Fine": "x", "/": "x"},
                "finalizers": ["mine", "example.com/yours", "orphan", "foregroundDeletion"],
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Event", "name": "a", "uid": "1", "controller": true},
                    {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "b", "controller": true},
                ],
            }),
            None,
        );
        let fields: Vec<&str> = found.iter().filter_map(|text| text.split(": ").next()).collect();
        assert_eq!(
            fields,
            [
                "metadata.name",
                "metadata.namespace",
                "metadata.labels",
                "metadata.labels",
                "metadata.annotations",
                "metadata.annotations",
                "metadata.annotations",
                "metadata.ownerReferences",
                "metadata.ownerReferences.uid",
                "metadata.ownerReferences",
                "metadata.finalizers[0]",
                "metadata.finalizers",
            ],
            "{found:#?}"
        );
        assert_eq!(found[1], "metadata.namespace: Invalid value: \"a.b\": must not contain dots");
    }

    #[test]
    fn names_are_needed_and_stay() {
        assert_eq!(
            wrong(&json!({"namespace": "default"}), None),
            ["metadata.name: Required value: name or generateName is required"]
        );
        assert_eq!(wrong(&json!({"name": "a"}), None), ["metadata.namespace: Required value"]);
        let old = json!({"name": "a", "namespace": "default", "uid": "1", "generation": 2});
        assert!(wrong(&old, Some(&old)).is_empty());
        assert_eq!(
            wrong(
                &json!({"name": "b", "namespace": "default", "uid": "1", "generation": 1}),
                Some(&old)
            ),
            [
                "metadata.name: Invalid value: \"b\": field is immutable",
                "metadata.generation: Invalid value: 1: must not be decremented",
            ]
        );
        let causes = causes_of(&pod(&old), None, false, text::subdomain_name);
        assert_eq!(causes[0].message, "Forbidden: not allowed on this type");
    }

    #[test]
    fn annotations_have_a_limit_together() {
        let half = "x".repeat(ANNOTATIONS_MAX / 2);
        let both = json!({"a": half, "b": half});
        let found = wrong(&json!({"name": "a", "namespace": "b", "annotations": both}), None);
        assert_eq!(found, ["metadata.annotations: Too long: may not be more than 262144 bytes"]);
    }

    #[test]
    fn selectors_are_checked_field_by_field() {
        let selector = json!({
            "matchLabels": {"app": "a b"},
            "matchExpressions": [
                {"key": "a", "operator": "In"},
                {"key": "b", "operator": "Exists", "values": ["x"]},
                {"key": "", "operator": "Near", "values": ["-"]},
            ],
        });
        let object = json!({"selector": selector});
        let mut report = Report::default();
        super::selector(&Field::root(&object).get("selector"), &mut report);
        let fields: Vec<String> = report.causes().into_iter().map(|cause| cause.field).collect();
        assert_eq!(
            fields,
            [
                "selector.matchLabels",
                "selector.matchExpressions[0].values",
                "selector.matchExpressions[1].values",
                "selector.matchExpressions[2].operator",
                "selector.matchExpressions[2].key",
                "selector.matchExpressions[2].key",
                "selector.matchExpressions[2].values[0]",
            ]
        );
    }
}
