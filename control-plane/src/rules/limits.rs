//! Rules of `LimitRange` objects.

use serde_json::{Map, Value};

use super::{
    Rules,
    field::{Field, Report},
    metadata, text,
};
use crate::{api::status::Cause, object::map, quantity::Quantity};

/// Rules of `LimitRange` objects.
pub const LIMIT_RANGE: Rules = Rules { default, validate, ..super::NONE };

/// Containers without a default get the most, or the least, that they may have.
fn default(range: &mut Value) {
    let spec = map(range, &["spec"]);
    for item in spec.get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten() {
        if item.get("type").and_then(Value::as_str) != Some("Container") {
            continue;
        }
        for (from, to) in
            [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")]
        {
            let source = item.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
            if source.is_empty() {
                continue;
            }
            let target = map(item, &[to]);
            for (resource, amount) in source {
                target.entry(resource).or_insert(amount);
            }
        }
    }
}

fn validate(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let (spec, mut kinds) = (root.get("spec"), Vec::new());
    for item in spec.get("limits").items() {
        let kind = item.get("type");
        if kinds.contains(&kind.text()) {
            report.duplicate(&kind);
        }
        kinds.push(kind.text());
        if kind.text().is_empty() {
            report.required(&kind, "");
        }
        for (low, high) in [
            ("min", "max"),
            ("min", "default"),
            ("min", "defaultRequest"),
            ("default", "max"),
            ("defaultRequest", "max"),
            ("defaultRequest", "default"),
        ] {
            in_order(&mut report, &item, low, high);
        }
        if kind.text() == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item.get(field).len() > 0 {
                    report.forbidden(&item.get(field), "may not be specified when `type` is 'Pod'");
                }
            }
        }
    }
    report.causes()
}

/// No amount of `low` is more than that of `high`.
fn in_order(report: &mut Report, item: &Field<'_, '_>, low: &str, high: &str) {
    let (below, above) = (item.get(low), item.get(high));
    for entry in below.entries() {
        let (Some(least), Some(most)) = (entry.value(), above.entry(entry.key()).value()) else {
            continue;
        };
        if let (Ok(lower), Ok(upper)) = (Quantity::of(least), Quantity::of(most))
            && lower > upper
        {
            let (low, high) = (word(low), word(high));
            let why = format!("{low} value {lower} is greater than {high} value {upper}");
            report.invalid(&entry, &why);
        }
    }
}

fn word(field: &str) -> &str {
    match field {
        "defaultRequest" => "default request",
        other => other,
    }
}

/// The amounts of a map of resources; those that are none are left out.
pub(crate) fn amounts(map: Option<&Value>) -> Map<String, Value> {
    map.and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(item: &Value) -> Value {
        json!({"metadata": {"namespace": "a", "name": "x"}, "spec": {"limits": [item]}})
    }

    #[test]
    fn what_is_not_said_follows_from_the_most_and_the_least() {
        let mut object = range(&json!({
            "type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"},
        }));
        default(&mut object);
        let item = &object["spec"]["limits"][0];
        assert_eq!(item["default"], json!({"cpu": "2"}));
        assert_eq!(item["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        let mut object = range(&json!({"type": "Pod", "max": {"cpu": "2"}}));
        default(&mut object);
        assert!(object["spec"]["limits"][0].get("default").is_none());
    }

    #[test]
    fn the_least_is_not_more_than_the_most() {
        let bad = range(&json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "2"}}));
        let causes = validate(&bad, None);
        assert_eq!(causes.len(), 1, "{causes:?}");
        assert!(causes[0].message.contains("min value 2 is greater than max value 1"));
        assert_eq!(causes[0].field, "spec.limits[0].min[cpu]");
        let good = range(&json!({"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "500m"}}));
        assert!(validate(&good, None).is_empty());
    }
}
