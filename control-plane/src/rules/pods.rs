//! Pods: what they are by default, what they must be like, and what of them may change.

mod affinity;
mod container;
mod default;
mod env;
mod mount;
mod probe;
mod resources;
mod security;
mod spec;
mod volume;

use serde_json::Value;

use super::{
    Rules,
    field::{Field, Report},
    metadata, text,
};
use crate::{api::status::Cause, object};

pub(super) use self::{
    default::pod_spec as default_spec,
    spec::{pod_spec, template},
};

/// Rules of pods.
pub const POD: Rules = Rules { default: default::pod, validate, validate_status };

/// Rules of templates for pods.
pub const TEMPLATE: Rules = Rules {
    default: |object| default_spec(object, &["template", "spec"]),
    validate: |new, old| {
        let mut report = Report::default();
        let root = Field::root(new);
        metadata::check(&root, old, true, text::subdomain_name, &mut report);
        template(&root.get("template"), &mut report);
        report.causes()
    },
    ..super::NONE
};

const MAY_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn validate(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    metadata::check(&root, old, true, text::subdomain_name, &mut report);
    let spec = root.get("spec");
    match old {
        None => pod_spec(&spec, Some(object::name(new)), &mut report),
        Some(old) => change(&spec, old, &mut report),
    }
    report.causes()
}

/// What may change of a pod's specification.
fn change(spec: &Field<'_, '_>, old: &Value, report: &mut Report) {
    let (Some(new), Some(before)) = (spec.value(), object::at(old, &["spec"])) else { return };
    let known = object::list(before, &["tolerations"]);
    let tolerations = object::list(new, &["tolerations"]);
    if !known.iter().all(|toleration| tolerations.contains(toleration)) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        report.forbidden(&spec.get("tolerations"), why);
    }
    for field in ["containers", "initContainers"] {
        let containers = spec.get(field);
        for container in containers.items() {
            let image = container.get("image");
            if image.text().is_empty() {
                report.required(&image, "");
            }
            container::spaces(&container, report);
        }
    }
    let mut same = new.clone();
    for field in ["activeDeadlineSeconds", "tolerations"] {
        same_as(&mut same, before, field);
    }
    let grace = |spec: &Value| object::number(spec, &["terminationGracePeriodSeconds"]);
    if grace(before).is_some_and(|it| it < 0) && grace(new) == Some(1) {
        same_as(&mut same, before, "terminationGracePeriodSeconds");
    }
    for field in ["containers", "initContainers"] {
        let known = object::list(before, &[field]);
        let all = same.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, known) in all.zip(known) {
            same_as(container, known, "image");
        }
    }
    if same != *before {
        report.forbidden(spec, MAY_CHANGE);
    }
}

fn same_as(object: &mut Value, other: &Value, field: &str) {
    let map = object::map(object, &[]);
    match other.get(field) {
        Some(value) => drop(map.insert(field.to_owned(), value.clone())),
        None => drop(map.remove(field)),
    }
}

fn validate_status(new: &Value, _old: &Value) -> Vec<Cause> {
    let mut report = Report::default();
    let root = Field::root(new);
    let status = root.get("status");
    let phase = status.get("phase");
    report.one_of(&phase, &["Pending", "Running", "Succeeded", "Failed", "Unknown"]);
    let addresses = status.get("podIPs");
    for address in addresses.items() {
        let ip = address.get("ip");
        report.invalid_all(&ip, &text::address(ip.text()));
    }
    report.causes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod() -> Value {
        let mut pod = json!({
            "metadata": {"name": "a", "namespace": "b"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
        });
        (POD.default)(&mut pod);
        pod
    }

    fn words(new: &Value, old: Option<&Value>) -> Vec<String> {
        let causes = (POD.validate)(new, old);
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    #[test]
    fn defaults_are_those_of_upstream_and_stay_as_they_are() {
        let once = pod();
        let mut twice = once.clone();
        (POD.default)(&mut twice);
        assert_eq!(once, twice);
        let spec = &once["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["dnsPolicy"], "ClusterFirst");
        assert_eq!(spec["terminationGracePeriodSeconds"], 30);
        let container = &spec["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(once["status"]["qosClass"], "BestEffort");
        assert_eq!(words(&once, None), Vec::<String>::new());
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let mut wrong = pod();
        wrong["metadata"]["name"] = json!("A_b");
        wrong["spec"]["restartPolicy"] = json!("Sometimes");
        wrong["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(70_000);
        wrong["spec"]["containers"][0]["image"] = json!("");
        let said = words(&wrong, None);
        let has =
            |text: &str| assert!(said.iter().any(|it| it.starts_with(text)), "{text}: {said:#?}");
        has("metadata.name: Invalid value: \"A_b\"");
        has("spec.restartPolicy: Unsupported value: \"Sometimes\"");
        has("spec.containers[0].ports[0].containerPort: Invalid value: 70000");
        has("spec.containers[0].image: Required value");
    }

    #[test]
    fn of_a_pod_that_is_there_images_may_change_and_little_else() {
        let old = pod();
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("other");
        new["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
        assert_eq!(words(&new, Some(&old)), Vec::<String>::new());
        new["spec"]["containers"][0]["command"] = json!(["a"]);
        let said = words(&new, Some(&old));
        assert!(said[0].starts_with("spec: Forbidden: pod updates may not change"), "{said:?}");
    }
}
