//! What the specification of a pod must be like, in a pod or in a template.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{affinity, container, resources, security, volume};
use crate::rules::{
    field::{Field, Report},
    metadata, text,
};

/// What containers need to know of their pod.
#[derive(Debug)]
pub(super) struct Context<'v> {
    /// A pod, not a template for some.
    pub(super) is_pod: bool,
    /// How long it may take to stop.
    pub(super) grace_s: Option<i64>,
    /// What happens when containers end.
    pub(super) restart_policy: &'v str,
    /// Whether users are those of the host.
    pub(super) host_users: bool,
    /// Volumes without faults, by name.
    pub(super) volumes: BTreeMap<&'v str, &'v Value>,
    /// Names of claims of devices.
    pub(super) claims: BTreeSet<&'v str>,
}

const DNS_SERVERS_MAX: usize = 3;
const DNS_SEARCHES_MAX: usize = 32;
const DNS_SEARCH_BYTES_MAX: usize = 2048;

/// All that is wrong with a specification. Of a pod, the name is known.
pub(in crate::rules) fn pod_spec(
    spec: &Field<'_, '_>,
    pod_name: Option<&str>,
    report: &mut Report,
) {
    let grace = spec.get("terminationGracePeriodSeconds");
    if grace.number().is_none() {
        report.required(&grace, "");
    }
    let volumes = volume::volumes(&spec.get("volumes"), pod_name, report);
    let claims = spec.get("resourceClaims");
    let context = Context {
        is_pod: pod_name.is_some(),
        grace_s: grace.number(),
        restart_policy: spec.text_at(&["restartPolicy"]),
        host_users: spec.get("hostUsers").flag() != Some(false),
        volumes,
        claims: claims.list().iter().filter_map(|claim| claim.get("name")?.as_str()).collect(),
    };
    resource_claims(&claims, report);
    container::containers(spec, &context, report);
    container::init_containers(spec, &context, report);
    container::ephemeral_containers(spec, &context, report);
    resources::of_pod(spec, &context, report);
    host_ports(spec, context.is_pod, report);
    policies(spec, report);
    metadata::labels(&spec.get("nodeSelector"), report);
    security::of_pod(spec, report);
    affinity::affinity(&spec.get("affinity"), report);
    dns(spec, report);
    gates(spec, report);
    affinity::spread(&spec.get("topologySpreadConstraints"), report);
    host_users(spec, &context, report);
    names(spec, report);
    affinity::tolerations(&spec.get("tolerations"), report);
    host_aliases(&spec.get("hostAliases"), report);
    if spec.get("overhead").is_set() {
        resources::overhead(&spec.get("overhead"), report);
    }
    security::os(spec, report);
}

fn resource_claims(claims: &Field<'_, '_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if name.text().is_empty() {
            report.required(&name, "");
        } else if names.insert(name.text()) {
            report.invalid_all(&name, &text::dns_label(name.text()));
        } else {
            report.duplicate(&name);
        }
        let (direct, template) =
            (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (direct.is_set(), template.is_set()) {
            (true, true) => report.invalid(
                &claim,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => report.invalid(
                &claim,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            (true, false) | (false, true) => {}
        }
        for name in [direct, template] {
            if name.is_set() {
                report.invalid_all(&name, &text::dns_subdomain(name.text()));
            }
        }
    }
}

fn host_ports(spec: &Field<'_, '_>, is_pod: bool, report: &mut Report) {
    if spec.get("hostNetwork").flag() != Some(true) {
        return;
    }
    let containers = spec.get("containers");
    for container in containers.items() {
        let ports = container.get("ports");
        for port in ports.items() {
            let host = port.get("hostPort");
            let (on_host, inside) =
                (host.number().unwrap_or(0), port.get("containerPort").number().unwrap_or(0));
            if (is_pod || on_host != 0) && on_host != inside {
                let why = "must match `containerPort` when `hostNetwork` is true";
                report.invalid_number(&host, why);
            }
        }
    }
}

fn policies(spec: &Field<'_, '_>, report: &mut Report) {
    report.required_one_of(&spec.get("restartPolicy"), &["Always", "OnFailure", "Never"]);
    report.required_one_of(
        &spec.get("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        report.required_one_of(&preemption, &["PreemptLowerPriority", "Never"]);
    }
    let secrets = spec.get("imagePullSecrets");
    for secret in secrets.items() {
        let is_plain = |map: &serde_json::Map<String, Value>| map.keys().all(|key| key == "name");
        if !secret.value().and_then(Value::as_object).is_some_and(is_plain) {
            report.invalid(&secret, "only name may be set");
        }
    }
}

fn dns(spec: &Field<'_, '_>, report: &mut Report) {
    let config = spec.get("dnsConfig");
    let servers = config.get("nameservers");
    if spec.text_at(&["dnsPolicy"]) == "None" {
        if !config.is_set() {
            report.required(&config, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers.list().is_empty() {
            let why = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            report.required(&servers, why);
            return;
        }
    }
    if servers.list().len() > DNS_SERVERS_MAX {
        let why = format!("must not have more than {DNS_SERVERS_MAX} nameservers");
        report.invalid(&servers, &why);
    }
    for server in servers.items() {
        report.invalid_all(&server, &text::address(server.text()));
    }
    let searches = config.get("searches");
    if searches.list().len() > DNS_SEARCHES_MAX {
        let why = format!("must not have more than {DNS_SEARCHES_MAX} search paths");
        report.invalid(&searches, &why);
    }
    let bytes = searches.texts().map(|search| search.len() + 1).sum::<usize>();
    if bytes > DNS_SEARCH_BYTES_MAX + 1 {
        let why = format!(
            "must not have more than {DNS_SEARCH_BYTES_MAX} characters (including spaces) in the search list"
        );
        report.invalid(&searches, &why);
    }
    for search in searches.items() {
        let name = search.text();
        if name != "." {
            let wrong = text::dns_search(name.strip_suffix('.').unwrap_or(name));
            report.invalid_all(&search, &wrong);
        }
    }
    let options = config.get("options");
    for option in options.items() {
        if option.text_at(&["name"]).is_empty() {
            report.required(&option, "must not be empty");
        }
    }
}

fn gates(spec: &Field<'_, '_>, report: &mut Report) {
    let readiness = spec.get("readinessGates");
    for gate in readiness.items() {
        metadata::key(&gate.get("conditionType"), report);
    }
    let mut names = BTreeSet::new();
    let scheduling = spec.get("schedulingGates");
    for gate in scheduling.items() {
        let name = gate.text_at(&["name"]);
        for why in text::label_key(name) {
            report.invalid_as(&gate, &json!(name), &why);
        }
        if !names.insert(name) {
            report.duplicate_as(&gate, &json!(name));
        }
    }
}

fn host_users(spec: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    if context.host_users {
        return;
    }
    // The names are upstream's, capitals and all.
    for (field, shown) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec.get(field).flag() == Some(true) {
            report.forbidden(&spec.get(shown), "when `pod.Spec.HostUsers` is false");
        }
    }
}

fn names(spec: &Field<'_, '_>, report: &mut Report) {
    for (field, check) in [
        ("serviceAccountName", text::dns_subdomain as fn(&str) -> Vec<String>),
        ("nodeName", text::dns_subdomain),
        ("hostname", text::dns_label),
        ("subdomain", text::dns_label),
        ("priorityClassName", text::dns_subdomain),
    ] {
        let name = spec.get(field);
        if !name.text().is_empty() {
            report.invalid_all(&name, &check(name.text()));
        }
    }
    let class = spec.get("runtimeClassName");
    if class.is_set() {
        report.invalid_all(&class, &text::dns_subdomain(class.text()));
    }
    let deadline = spec.get("activeDeadlineSeconds");
    let max = i64::from(i32::MAX);
    if deadline.number().is_some_and(|number| !(1..=max).contains(&number)) {
        report.invalid(&deadline, &text::between(1, max));
    }
}

fn host_aliases(aliases: &Field<'_, '_>, report: &mut Report) {
    for alias in aliases.items() {
        let address = alias.get("ip");
        report.invalid_all(&address, &text::address(address.text()));
        let names = alias.get("hostnames");
        for name in names.items() {
            report.invalid_all(&name, &text::dns_subdomain(name.text()));
        }
    }
}

/// All that is wrong with a template for pods.
pub(in crate::rules) fn template(template: &Field<'_, '_>, report: &mut Report) {
    let own = template.get("metadata");
    // Upstream leaves `metadata` out of these paths.
    let (labels, annotations) = (own.get("labels"), own.get("annotations"));
    metadata::labels(&template.get("labels").with(labels.value()), report);
    metadata::annotations(&template.get("annotations").with(annotations.value()), report);
    let spec = template.get("spec");
    pod_spec(&spec, None, report);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.list().is_empty() {
        report.forbidden(&ephemeral, "ephemeral containers not allowed in pod template");
    }
}
