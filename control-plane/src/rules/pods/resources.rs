//! What containers and pods ask for and may have at most.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::spec::Context;
use crate::{
    pod,
    quantity::Quantity,
    rules::{
        field::{Field, Report},
        text,
    },
};

const STANDARD: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];
/// What else has a name without a domain.
const COUNTED: [&str; 21] = [
    "configmaps",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
    "storage",
    "count/pods",
    "count/services",
    "count/secrets",
    "count/configmaps",
];
/// What comes in pieces.
const WHOLE: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const PAGES: &str = "hugepages-";

/// Whether Kubernetes itself knows the resource.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether less than the limit may be asked for.
pub(in crate::rules) fn may_overcommit(name: &str) -> bool {
    is_native(name) && !name.starts_with(PAGES)
}

/// The name of any resource.
pub(in crate::rules) fn resource_name(at: &Field<'_, '_>, name: &str, report: &mut Report) -> bool {
    let wrong = text::label_key(name);
    for why in &wrong {
        report.invalid_as(at, &json!(name), why);
    }
    if !wrong.is_empty() {
        return false;
    }
    let is_known = STANDARD.contains(&name) || COUNTED.contains(&name) || name.starts_with(PAGES);
    if !name.contains('/') && !is_known {
        let why = "must be a standard resource type or fully qualified";
        report.invalid_as(at, &json!(name), why);
        return false;
    }
    true
}

/// The name of a resource that containers have.
pub(in crate::rules) fn container_resource_name(
    at: &Field<'_, '_>,
    name: &str,
    report: &mut Report,
) {
    resource_name(at, name, report);
    if !name.contains('/') {
        if !STANDARD.contains(&name) && !name.starts_with(PAGES) {
            report.invalid_as(at, &json!(name), "must be a standard resource for containers");
        }
    } else if !is_native(name) && name.starts_with("requests.") {
        report.invalid_as(at, &json!(name), "doesn't follow extended resource name standard");
    }
}

/// An amount of a resource: none is negative, and what comes in pieces is whole.
pub(in crate::rules) fn amount(
    at: &Field<'_, '_>,
    name: &str,
    report: &mut Report,
) -> Option<Quantity> {
    let amount = match Quantity::of(at.value()?) {
        Ok(amount) => amount,
        Err(error) => {
            report.invalid(at, &error.to_string());
            return None;
        }
    };
    if amount.is_negative() {
        let why = "must be greater than or equal to 0";
        report.invalid_as(at, &json!(amount.to_string()), why);
    }
    let is_piece = WHOLE.contains(&name) || (!is_native(name) && !name.starts_with("requests."));
    if is_piece && !amount.is_whole() {
        report.invalid_plain(at, "must be an integer");
    }
    Some(amount)
}

fn whole_pages(at: &Field<'_, '_>, name: &str, amount: Quantity, report: &mut Report) {
    let Some(size) = name.strip_prefix(PAGES) else { return };
    let size = size.parse::<Quantity>().map_or(0, Quantity::value);
    let is_divisible = size > 0 && amount.is_whole() && amount.value() % size == 0;
    if !is_divisible {
        let why = format!("{amount} is not positive integer multiple of {name}");
        report.invalid_as(at, &json!(amount.to_string()), &why);
    }
}

/// Limits and requests of a container.
pub(super) fn of_container(resources: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    requirements(resources, container_resource_name, report);
    claims(&resources.get("claims"), context, report);
}

/// What the machinery around a pod takes.
pub(super) fn overhead(overhead: &Field<'_, '_>, report: &mut Report) {
    for entry in overhead.entries() {
        container_resource_name(&entry, entry.key(), report);
        amount(&entry, entry.key(), report);
    }
}

fn requirements(
    resources: &Field<'_, '_>,
    check_name: fn(&Field<'_, '_>, &str, &mut Report),
    report: &mut Report,
) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    let (mut has_pages, mut has_others) = (false, false);
    for list in [&limits, &requests] {
        for entry in list.entries() {
            let name = entry.key();
            check_name(&entry, name, report);
            let amount = amount(&entry, name, report);
            if list.key() == "requests"
                && let Some(amount) = amount
            {
                within_limit(&limits, &requests, name, amount, report);
            }
            if let Some(amount) = amount {
                whole_pages(&entry, name, amount, report);
            }
            has_pages |= name.starts_with(PAGES);
            has_others |= name == "cpu" || name == "memory";
        }
    }
    if has_pages && !has_others {
        report.forbidden(resources, "HugePages require cpu or memory");
    }
}

fn within_limit(
    limits: &Field<'_, '_>,
    requests: &Field<'_, '_>,
    name: &str,
    asked: Quantity,
    report: &mut Report,
) {
    let limit = limits.entry(name);
    let Some(limit) = limit.value().map(Quantity::of) else {
        if !may_overcommit(name) {
            report.required(limits, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let Ok(limit) = limit else { return };
    if asked != limit && !may_overcommit(name) {
        let why = format!("must be equal to {name} limit of {limit}");
        report.invalid_as(requests, &json!(asked.to_string()), &why);
    } else if asked > limit {
        let why = format!("must be less than or equal to {name} limit of {limit}");
        report.invalid_as(requests, &json!(asked.to_string()), &why);
    }
}

fn claims(claims: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for claim in claims.items() {
        let (name, request) = (claim.text_at(&["name"]), claim.get("request"));
        if name.is_empty() {
            report.required(&claim, "");
            continue;
        }
        if !request.text().is_empty() {
            report.invalid_all(&request, &text::dns_label(request.text()));
        }
        let overlaps = seen.iter().any(|(other, part)| {
            *other == name
                && (part.is_empty() || request.text().is_empty() || *part == request.text())
        });
        if overlaps {
            report.duplicate_as(&claim, &json!(name));
        }
        seen.insert((name, request.text()));
        if !context.claims.contains(name) {
            report.not_found(&claim.with(claim.at(&["name"])));
        }
    }
}

/// Limits and requests of the pod as a whole.
pub(super) fn of_pod(spec: &Field<'_, '_>, _context: &Context<'_>, report: &mut Report) {
    let resources = spec.get("resources");
    if !resources.is_set() {
        return;
    }
    if resources.get("claims").is_set() {
        let why = "claims cannot be set for Resources at pod-level";
        report.forbidden(&resources.get("claims"), why);
    }
    requirements(&resources, pod_resource_name, report);
    let pod = json!({"spec": spec.value()});
    let requests = resources.get("requests");
    for (name, sum) in pod::container_requests(&pod) {
        let request = requests.entry(&name);
        let given = request.value().and_then(|value| Quantity::of(value).ok());
        let given = given.unwrap_or(Quantity::ZERO);
        if sum > given {
            let why =
                format!("must be greater than or equal to aggregate container requests of {sum}");
            report.invalid_as(&request, &json!(given.to_string()), &why);
        }
    }
    let limits = pod::amounts(resources.at(&["limits"]));
    let containers = resources.get("containers");
    for (index, container) in spec.get("containers").list().iter().enumerate() {
        let resources = container.get("resources").and_then(|resources| resources.get("limits"));
        for (name, limit) in pod::amounts(resources) {
            if let Some(most) = limits.get(&name).filter(|most| limit > **most) {
                let why = format!("must be less than or equal to pod limits of {most}");
                let item = containers.item(index);
                let entry = item.entry(&name);
                report.invalid_as(&entry.get("limits"), &json!(limit.to_string()), &why);
            }
        }
    }
}

fn pod_resource_name(at: &Field<'_, '_>, name: &str, report: &mut Report) {
    let is_supported = name == "cpu" || name == "memory" || name.starts_with(PAGES);
    if resource_name(at, name, report) && !is_supported {
        let value = Value::String(name.to_owned());
        report.not_supported(&at.with(Some(&value)), &["cpu", "hugepages-", "memory"]);
    }
}
