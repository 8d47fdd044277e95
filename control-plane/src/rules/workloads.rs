//! What keeps pods: their defaults, and that their selectors fit their templates.

use serde_json::{Value, json};

use super::{
    Rules,
    field::{Field, Report},
    fill::{child, set_text},
    metadata, pods, text,
};
use crate::{
    api::status::Cause,
    object::{self, map, set_default},
    selector::Selector,
};

/// Rules of deployments.
pub const DEPLOYMENT: Rules =
    Rules { default: default_deployment, validate: deployment, ..super::NONE };

/// Rules of replica sets.
pub const REPLICA_SET: Rules =
    Rules { default: default_replicas, validate: replica_set, ..super::NONE };

/// Rules of replication controllers.
pub const REPLICATION_CONTROLLER: Rules =
    Rules { default: default_controller, validate: controller, ..super::NONE };

/// Rules of disruption budgets.
pub const BUDGET: Rules = Rules { validate: budget, ..super::NONE };

fn default_replicas(object: &mut Value) {
    set_default(map(object, &["spec"]), "replicas", || json!(1));
    pods::default_spec(object, &["spec", "template", "spec"]);
}

fn default_deployment(object: &mut Value) {
    default_replicas(object);
    let spec = map(object, &["spec"]);
    set_default(spec, "revisionHistoryLimit", || json!(10));
    set_default(spec, "progressDeadlineSeconds", || json!(600));
    set_default(spec, "strategy", || json!({}));
    let Some(strategy) = child(spec, "strategy") else { return };
    set_text(strategy, "type", "RollingUpdate");
    if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
        set_default(strategy, "rollingUpdate", || json!({}));
        if let Some(rolling) = child(strategy, "rollingUpdate") {
            set_default(rolling, "maxUnavailable", || json!("25%"));
            set_default(rolling, "maxSurge", || json!("25%"));
        }
    }
}

fn default_controller(object: &mut Value) {
    default_replicas(object);
    let labels = object::at(object, &["spec", "template", "metadata", "labels"]).cloned();
    let Some(labels) = labels else { return };
    set_default(map(object, &["spec"]), "selector", || labels.clone());
    set_default(map(object, &["metadata"]), "labels", || labels);
}

fn counts(spec: &Field<'_, '_>, fields: &[&str], report: &mut Report) {
    for field in fields {
        report.not_negative(&spec.get(field));
    }
}

/// What a selector and a template say of each other.
fn fits(spec: &Field<'_, '_>, kind: &str, report: &mut Report) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        report.required(&selector, "");
    } else if metadata::is_empty(&selector) {
        report.invalid(&selector, &format!("empty selector is invalid for {kind}"));
    } else {
        metadata::selector(&selector, report);
    }
    labels_fit(&template, selector.value().map(Selector::of), report);
    pods::template(&template, report);
    always(&template, report);
}

fn labels_fit(template: &Field<'_, '_>, selector: Option<Selector>, report: &mut Report) {
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    let pod = json!({"metadata": {"labels": labels.value()}});
    if selector.is_some_and(|selector| !selector.is_empty() && !selector.selects(&pod)) {
        let value = labels.value().cloned().unwrap_or_else(|| json!({}));
        report.invalid_as(&labels, &value, "`selector` does not match template `labels`");
    }
}

fn always(template: &Field<'_, '_>, report: &mut Report) {
    let spec = template.get("spec");
    let policy = spec.get("restartPolicy");
    if ["OnFailure", "Never"].contains(&policy.text()) {
        report.not_supported(&policy, &["Always"]);
    }
}

/// A number or a share of something; whether it is zero.
fn share(at: &Field<'_, '_>, report: &mut Report) -> bool {
    match at.value() {
        Some(Value::String(share)) => {
            let wrong = text::percent(share);
            report.invalid_all(at, &wrong);
            wrong.is_empty() && share.trim_end_matches('%').parse() == Ok(0_u64)
        }
        Some(_) => {
            report.not_negative(at);
            at.number() == Some(0)
        }
        None => true,
    }
}

fn over_all(at: &Field<'_, '_>, report: &mut Report) {
    let percent = at.text().strip_suffix('%').and_then(|it| it.parse::<u64>().ok());
    if percent.is_some_and(|percent| percent > 100) {
        report.invalid(at, "must not be greater than 100%");
    }
}

fn deployment(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let spec = root.get("spec");
    let fields = ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
    counts(&spec, &fields, &mut report);
    fits(&spec, "deployment", &mut report);
    strategy(&spec.get("strategy"), &mut report);
    let deadline = spec.get("progressDeadlineSeconds");
    let ready = spec.get("minReadySeconds").number().unwrap_or(0);
    if deadline.number().is_some_and(|it| it <= ready) {
        report.invalid(&deadline, "must be greater than minReadySeconds");
    }
    unchanged_selector(&spec, old, &mut report);
    report.causes()
}

fn strategy(at: &Field<'_, '_>, report: &mut Report) {
    let rolling = at.get("rollingUpdate");
    match at.text_at(&["type"]) {
        "Recreate" if rolling.is_set() => {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            report.forbidden(&rolling, why);
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            let why = "this should be defaulted and never be nil";
            report.required(&rolling, why);
        }
        "RollingUpdate" => {
            let (surge, unavailable) = (rolling.get("maxSurge"), rolling.get("maxUnavailable"));
            let is_stuck = share(&unavailable, report) & share(&surge, report);
            if is_stuck {
                report.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            over_all(&unavailable, report);
        }
        _ => report.not_supported(&at.get("type"), &["Recreate", "RollingUpdate"]),
    }
}

fn unchanged_selector(spec: &Field<'_, '_>, old: Option<&Value>, report: &mut Report) {
    if let Some(old) = old {
        report.immutable(&spec.get("selector"), object::at(old, &["spec", "selector"]));
    }
}

fn replica_set(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let spec = root.get("spec");
    counts(&spec, &["replicas", "minReadySeconds"], &mut report);
    fits(&spec, "replica set", &mut report);
    unchanged_selector(&spec, old, &mut report);
    report.causes()
}

fn controller(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let spec = root.get("spec");
    counts(&spec, &["replicas", "minReadySeconds"], &mut report);
    let selector = spec.get("selector");
    if selector.len() == 0 {
        report.required(&selector, "");
    }
    metadata::labels(&selector, &mut report);
    let template = spec.get("template");
    if template.is_set() {
        let wanted = json!({"matchLabels": selector.value()});
        labels_fit(&template, Some(Selector::of(&wanted)), &mut report);
        pods::template(&template, &mut report);
        always(&template, &mut report);
    } else {
        report.required(&template, "");
    }
    report.causes()
}

fn budget(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let spec = root.get("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        report.invalid(&spec, "minAvailable and maxUnavailable cannot be both set");
    }
    for bound in [&least, &most] {
        share(bound, &mut report);
        over_all(bound, &mut report);
    }
    metadata::selector(&spec.get("selector"), &mut report);
    report.causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "web", "image": "web:1"}]},
                },
            },
        });
        (DEPLOYMENT.default)(&mut object);
        object
    }

    fn words(new: &Value, old: Option<&Value>) -> Vec<String> {
        let causes = (DEPLOYMENT.validate)(new, old);
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn a_deployment_rolls_by_quarters_by_default() {
        let object = sample();
        assert_eq!(object["spec"]["replicas"], 1);
        let rolling = json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}});
        assert_eq!(object["spec"]["strategy"], rolling);
        assert_eq!(words(&object, None), Vec::<String>::new());
        let mut again = object.clone();
        (DEPLOYMENT.default)(&mut again);
        assert_eq!(again, object);
    }

    #[test]
    fn each_rule_of_deployments_refuses_what_breaks_it() {
        let cases: [(&[&str], Value, &str); 8] = [
            (
                &["spec", "selector"],
                json!({"matchLabels": {"app": "other"}}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (
                &["spec", "selector"],
                json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                &["spec", "replicas"],
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                &["spec", "strategy", "type"],
                json!("Other"),
                "spec.strategy.type: Unsupported value: \"Other\": supported values: \"Recreate\", \"RollingUpdate\"",
            ),
            (
                &["spec", "strategy", "type"],
                json!("Recreate"),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                &["spec", "strategy", "rollingUpdate"],
                json!({"maxSurge": 0, "maxUnavailable": "0%"}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                &["spec", "minReadySeconds"],
                json!(600),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
            (
                &["spec", "template", "spec", "restartPolicy"],
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
        ];
        for (path, value, expected) in cases {
            let mut object = sample();
            let (last, around) = path.split_last().expect("a path");
            map(&mut object, around).insert((*last).to_owned(), value);
            assert_eq!(words(&object, None), [expected]);
        }
    }

    #[test]
    fn a_selector_never_changes() {
        let old = sample();
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["tier"] = json!("a");
        new["spec"]["template"]["metadata"]["labels"]["tier"] = json!("a");
        let said = words(&new, Some(&old));
        assert_eq!(said.len(), 1);
        assert!(said[0].ends_with("field is immutable"), "{said:?}");
    }
}
