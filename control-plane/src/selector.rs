//! Label and field selectors, as clients write them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::object::{self, at};

/// What a label or field must be like.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Demand {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Missing,
    Above(i64),
    Below(i64),
}

/// Demands that all have to be met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<(String, Demand)>);

/// A selector that does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct Error(String);

impl Selector {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A label selector in text: `a=b,c!=d,e in (f,g),h,!i`.
    pub fn labels(text: &str) -> Result<Self, Error> {
        let mut demands = Vec::new();
        for part in split(text) {
            let demand = requirement(part.trim())?;
            let name = demand.0.rsplit('/').next().unwrap_or_default();
            let is_name = !name.is_empty() && name.len() <= 63;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !is_name || !name.chars().all(is_plain) {
                return Err(Error(format!("{part:?}: {:?} is no name of a label", demand.0)));
            }
            demands.push(demand);
        }
        Ok(Self(demands))
    }

    /// A field selector in text: `metadata.name=a,status.phase!=Running`. `known` are the fields that
    /// the resource can be selected by.
    pub fn fields(text: &str, known: &[&str]) -> Result<Self, Error> {
        let mut demands = Vec::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (name, value, negative) = if let Some((name, value)) = part.split_once("!=") {
                (name, value, true)
            } else if let Some((name, value)) = part.split_once("==") {
                (name, value, false)
            } else if let Some((name, value)) = part.split_once('=') {
                (name, value, false)
            } else {
                let words = format!("invalid selector: {text:?}; can't understand {part:?}");
                return Err(Error(words));
            };
            if !known.contains(&name) {
                return Err(Error(format!("field label not supported: {name}")));
            }
            let values = BTreeSet::from([value.to_owned()]);
            let demand = if negative { Demand::NotIn(values) } else { Demand::In(values) };
            demands.push((name.to_owned(), demand));
        }
        Ok(Self(demands))
    }

    /// From an object: `matchLabels` and `matchExpressions`, or a plain map of labels.
    pub fn of(selector: &Value) -> Self {
        let is_plain =
            selector.get("matchLabels").is_none() && selector.get("matchExpressions").is_none();
        let labels = if is_plain { Some(selector) } else { selector.get("matchLabels") };
        let mut demands = Vec::new();
        for (name, value) in labels.and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            demands.push((name.clone(), Demand::In(BTreeSet::from([value]))));
        }
        for expression in object::list(selector, &["matchExpressions"]) {
            let name = object::text(expression, &["key"]).to_owned();
            let values = object::list(expression, &["values"]);
            let values: BTreeSet<String> =
                values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            let number = || values.first().and_then(|value| value.parse().ok()).unwrap_or(0);
            let demand = match object::text(expression, &["operator"]) {
                "In" => Demand::In(values),
                "NotIn" => Demand::NotIn(values),
                "Exists" => Demand::Exists,
                "Gt" => Demand::Above(number()),
                "Lt" => Demand::Below(number()),
                _ => Demand::Missing,
            };
            demands.push((name, demand));
        }
        Self(demands)
    }

    /// Whether labels meet it.
    pub fn selects_labels(&self, labels: Option<&Value>) -> bool {
        self.0.iter().all(|(name, demand)| {
            demand.is_met(labels.and_then(|labels| labels.get(name)).and_then(Value::as_str))
        })
    }

    /// Whether an object's labels meet it.
    pub fn selects(&self, object: &Value) -> bool {
        self.is_empty() || self.selects_labels(at(object, &["metadata", "labels"]))
    }

    /// Whether an object's fields meet it; a field that is not there counts as empty.
    pub fn selects_fields(&self, object: &Value) -> bool {
        self.0.iter().all(|(name, demand)| {
            let path: Vec<&str> = name.split('.').collect();
            let value = at(object, &path);
            let text = match value {
                Some(Value::String(text)) => text.clone(),
                Some(other) => other.to_string(),
                None if name == "spec.unschedulable" => "false".to_owned(),
                None => String::new(),
            };
            demand.is_met(Some(&text))
        })
    }

    /// The value that a field must have, if there is one.
    pub fn exactly(&self, field: &str) -> Option<&str> {
        self.0.iter().find_map(|(name, demand)| match demand {
            Demand::In(values) if name == field && values.len() == 1 => {
                values.first().map(String::as_str)
            }
            _ => None,
        })
    }
}

impl Demand {
    fn is_met(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|value| values.contains(value)),
            Self::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Self::Exists => value.is_some(),
            Self::Missing => value.is_none(),
            Self::Above(bound) => number().is_some_and(|number| number > *bound),
            Self::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// The parts of a selector: commas inside brackets do not part.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[begin..at]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[begin..]);
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn requirement(part: &str) -> Result<(String, Demand), Error> {
    let one = |value: &str| BTreeSet::from([value.trim().to_owned()]);
    if let Some(name) = part.strip_prefix('!') {
        return Ok((name.trim().to_owned(), Demand::Missing));
    }
    if let Some((name, set)) = part.split_once('(') {
        let set = set.strip_suffix(')').ok_or_else(|| Error(format!("{part:?}: no `)`")))?;
        let values: BTreeSet<String> =
            set.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = name.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(name), Some("in"), None) => Ok((name.to_owned(), Demand::In(values))),
            (Some(name), Some("notin"), None) => Ok((name.to_owned(), Demand::NotIn(values))),
            _ => Err(Error(format!("{part:?}: expected `in` or `notin` before `(`"))),
        };
    }
    for (sign, negative) in [("!=", true), ("==", false), ("=", false)] {
        if let Some((name, value)) = part.split_once(sign) {
            let values = one(value);
            let demand = if negative { Demand::NotIn(values) } else { Demand::In(values) };
            return Ok((name.trim().to_owned(), demand));
        }
    }
    for (sign, above) in [('>', true), ('<', false)] {
        if let Some((name, value)) = part.split_once(sign) {
            let number =
                value.trim().parse().map_err(|_no| Error(format!("{part:?}: no number")))?;
            let demand = if above { Demand::Above(number) } else { Demand::Below(number) };
            return Ok((name.trim().to_owned(), demand));
        }
    }
    if part.contains(char::is_whitespace) {
        return Err(Error(format!("{part:?}: found a space, expected an operator")));
    }
    Ok((part.to_owned(), Demand::Exists))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_are_selected_as_kubectl_writes_it() {
        let object = json!({"metadata": {"labels": {"app": "web", "tier": "front", "n": "5"}}});
        for (text, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web,tier!=back", true),
            ("app=db", false),
            ("app in (db, web),tier", true),
            ("app notin (db,web)", false),
            ("missing notin (x)", true),
            ("missing!=x", true),
            ("!missing", true),
            ("!app", false),
            ("n>4,n<6", true),
            ("n>5", false),
        ] {
            assert_eq!(Selector::labels(text).unwrap().selects(&object), expected, "{text}");
        }
        for text in ["a b", "a in b", "a in (b", "=x", "a>b", "a/b/c(d)"] {
            assert!(Selector::labels(text).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_selected_if_the_resource_has_them() {
        let known = ["metadata.name", "status.phase", "spec.unschedulable"];
        let object = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        let select = |text: &str| Selector::fields(text, &known).unwrap().selects_fields(&object);
        assert!(select("metadata.name=a,status.phase!=Failed"));
        assert!(!select("status.phase=Failed"));
        assert!(select("spec.unschedulable=false"));
        assert!(Selector::fields("spec.x=1", &known).is_err());
        assert!(Selector::fields("metadata.name", &known).is_err());
    }

    #[test]
    fn selectors_of_objects_have_labels_and_expressions() {
        let selector = json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["back"]}],
        });
        let labels = |tier: &str| json!({"app": "web", "tier": tier});
        assert!(Selector::of(&selector).selects_labels(Some(&labels("front"))));
        assert!(!Selector::of(&selector).selects_labels(Some(&labels("back"))));
        assert!(Selector::of(&json!({"app": "web"})).selects_labels(Some(&labels("x"))));
    }
}
