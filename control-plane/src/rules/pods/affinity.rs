//! Where a pod may and would rather run.

use std::collections::BTreeSet;

use serde_json::json;

use crate::rules::{
    field::{Field, Report},
    metadata, text,
};

/// Weights of preferences.
const WEIGHTS: std::ops::RangeInclusive<i64> = 1..=100;

/// `affinity`.
pub(super) fn affinity(at: &Field<'_, '_>, report: &mut Report) {
    let nodes = at.get("nodeAffinity");
    let required = nodes.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        let terms = required.get("nodeSelectorTerms");
        if terms.list().is_empty() {
            report.required(&terms, "must have at least one node selector term");
        }
        for term in terms.items() {
            node_term(&term, report);
        }
    }
    let preferred = nodes.get("preferredDuringSchedulingIgnoredDuringExecution");
    for preference in preferred.items() {
        weight(&preference.get("weight"), report);
        node_term(&preference.get("preference"), report);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let pods = at.get(field);
        let required = pods.get("requiredDuringSchedulingIgnoredDuringExecution");
        for term in required.items() {
            pod_term(&term, report);
        }
        let preferred = pods.get("preferredDuringSchedulingIgnoredDuringExecution");
        for preference in preferred.items() {
            weight(&preference.get("weight"), report);
            pod_term(&preference.get("podAffinityTerm"), report);
        }
    }
}

fn weight(at: &Field<'_, '_>, report: &mut Report) {
    if !WEIGHTS.contains(&at.number().unwrap_or(0)) {
        report.invalid_number(at, "must be in the range 1-100");
    }
}

fn node_term(term: &Field<'_, '_>, report: &mut Report) {
    for (field, is_field) in [("matchExpressions", false), ("matchFields", true)] {
        let expressions = term.get(field);
        for expression in expressions.items() {
            let (key, values) = (expression.get("key"), expression.get("values"));
            let operator = expression.get("operator");
            let count = values.list().len();
            match operator.text() {
                "In" | "NotIn" if is_field && count != 1 => {
                    let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    report.required(&values, why);
                }
                "In" | "NotIn" if count == 0 => {
                    report
                        .required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                "Exists" | "DoesNotExist" if count > 0 => report.forbidden(
                    &values,
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ),
                "Gt" | "Lt" if count != 1 => report.required(
                    &values,
                    "must be specified single value when `operator` is 'Lt' or 'Gt'",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
                _ => report.invalid(&operator, "not a valid selector operator"),
            }
            if is_field {
                if key.text() != "metadata.name" {
                    report.invalid(&key, "not a valid field selector key");
                }
            } else {
                metadata::key(&key, report);
            }
        }
    }
}

fn pod_term(term: &Field<'_, '_>, report: &mut Report) {
    metadata::selector(&term.get("labelSelector"), report);
    metadata::selector(&term.get("namespaceSelector"), report);
    let namespaces = term.get("namespaces");
    for namespace in namespaces.items() {
        report.invalid_all(&namespace, &text::dns_label(namespace.text()));
    }
    let key = term.get("topologyKey");
    if key.text().is_empty() {
        report.required(&key, "can not be empty");
    } else {
        metadata::key(&key, report);
    }
}

/// `topologySpreadConstraints`.
pub(super) fn spread(at: &Field<'_, '_>, report: &mut Report) {
    let mut known = BTreeSet::new();
    for constraint in at.items() {
        let skew = constraint.get("maxSkew");
        if skew.number().unwrap_or(0) <= 0 {
            report.invalid_number(&skew, "must be greater than zero");
        }
        let key = constraint.get("topologyKey");
        if key.text().is_empty() {
            report.required(&key, "can not be empty");
        } else {
            metadata::key(&key, report);
        }
        let otherwise = constraint.get("whenUnsatisfiable");
        report.required_one_of(&otherwise, &["DoNotSchedule", "ScheduleAnyway"]);
        if !known.insert((key.text(), otherwise.text())) {
            let pair = json!(format!("{{{}, {}}}", key.text(), otherwise.text()));
            report.duplicate_as(&constraint, &pair);
        }
        let domains = constraint.get("minDomains");
        if domains.number().is_some_and(|number| number <= 0) {
            report.invalid(&domains, "must be greater than zero");
        }
        if domains.is_set() && otherwise.text() != "DoNotSchedule" {
            let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule";
            report.invalid(&domains, why);
        }
        metadata::selector(&constraint.get("labelSelector"), report);
    }
}

/// `tolerations`.
pub(super) fn tolerations(at: &Field<'_, '_>, report: &mut Report) {
    for toleration in at.items() {
        let (key, value) = (toleration.get("key"), toleration.get("value"));
        let (operator, effect) = (toleration.get("operator"), toleration.get("effect"));
        if !key.text().is_empty() {
            metadata::key(&key, report);
        }
        if key.text().is_empty() && operator.text() != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            report.invalid(&operator, why);
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            report.invalid(&effect, why);
        }
        match operator.text() {
            "" | "Equal" => report.invalid_all(&operator, &text::label_value(value.text())),
            "Exists" if !value.text().is_empty() => {
                report.invalid(&operator, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            _ => report.not_supported(&operator, &["Equal", "Exists"]),
        }
        if !effect.text().is_empty() {
            report.one_of(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        }
    }
}
