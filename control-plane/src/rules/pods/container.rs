//! Containers of a pod: those that serve, those that prepare, those for a look inside.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{env, mount, probe, resources, security, spec::Context};
use crate::rules::{
    field::{Field, Report},
    text,
};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
/// What a container for a look inside may not have.
const NOT_EPHEMERAL: [&str; 7] = [
    "ports",
    "resources",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "resizePolicy",
];
const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// `containers`.
pub(super) fn containers(spec: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let containers = spec.get("containers");
    if containers.list().is_empty() {
        report.required(&containers, "");
        return;
    }
    let mut names = BTreeSet::new();
    for container in containers.items() {
        common(&container, context, report);
        let name = container.get("name");
        if !names.insert(name.text()) {
            report.duplicate(&name);
        }
        probe::lifecycle(&container.get("lifecycle"), context, report);
        for field in PROBES {
            probe::probe(&container.get(field), report);
        }
        let policy = container.get("restartPolicy");
        if policy.is_set() {
            report.forbidden(&policy, "may not be set for non-init containers");
        }
    }
    let mut taken = BTreeSet::new();
    for container in containers.items() {
        host_ports(&container, &mut taken, report);
    }
}

/// `initContainers`.
pub(super) fn init_containers(spec: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let containers = spec.get("containers");
    let mut names: BTreeSet<&str> = names(&containers).collect();
    let init = spec.get("initContainers");
    for container in init.items() {
        common(&container, context, report);
        let policy = container.get("restartPolicy");
        report.one_of(&policy, &["Always"]);
        let name = container.get("name");
        if names.contains(name.text()) {
            report.duplicate(&name);
        } else if !name.text().is_empty() {
            names.insert(name.text());
        }
        // They run one after another, so each may take the same port.
        host_ports(&container, &mut BTreeSet::new(), report);
        if policy.text() == "Always" {
            probe::lifecycle(&container.get("lifecycle"), context, report);
            for field in PROBES {
                probe::probe(&container.get(field), report);
            }
            continue;
        }
        for field in ["lifecycle"].into_iter().chain(PROBES) {
            let field = container.get(field);
            if field.is_set() {
                let why = "may not be set for init containers without restartPolicy=Always";
                report.forbidden(&field, why);
            }
        }
    }
}

/// `ephemeralContainers`.
pub(super) fn ephemeral_containers(
    spec: &Field<'_, '_>,
    context: &Context<'_>,
    report: &mut Report,
) {
    const WHY: &str = "cannot be set for an Ephemeral Container";
    let (containers, init) = (spec.get("containers"), spec.get("initContainers"));
    let others: BTreeSet<&str> = names(&containers).chain(names(&init)).collect();
    let mut all = others.clone();
    let ephemeral = spec.get("ephemeralContainers");
    for container in ephemeral.items() {
        common(&container, context, report);
        spaces(&container, report);
        let name = container.get("name");
        if !all.insert(name.text()) {
            report.duplicate(&name);
        }
        let target = container.get("targetContainerName");
        if !target.text().is_empty() && !others.contains(target.text()) {
            report.not_found(&target);
        }
        for field in NOT_EPHEMERAL {
            let field = container.get(field);
            let is_empty = |value: &Value| *value == json!({}) || *value == json!([]);
            if field.value().is_some_and(|value| !is_empty(value)) {
                report.forbidden(&field, WHY);
            }
        }
        let mounts = container.get("volumeMounts");
        for mount in mounts.items() {
            for field in ["subPath", "subPathExpr"] {
                let path = mount.get(field);
                if !path.text().is_empty() {
                    report.forbidden(&path, WHY);
                }
            }
        }
    }
}

fn names<'v>(containers: &Field<'_, 'v>) -> impl Iterator<Item = &'v str> {
    let names = |container: &'v Value| container.get("name").and_then(Value::as_str);
    containers.list().iter().map(move |container| names(container).unwrap_or_default())
}

/// What holds for all of them.
fn common(container: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let name = container.get("name");
    if name.text().is_empty() {
        report.required(&name, "");
    } else {
        report.invalid_all(&name, &text::dns_label(name.text()));
    }
    if container.text_at(&["image"]).is_empty() {
        report.required(&container.get("image"), "");
    }
    report.required_one_of(
        &container.get("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    ports(&container.get("ports"), report);
    env::variables(&container.get("env"), report);
    env::sources(&container.get("envFrom"), report);
    mount::mounts(container, context, report);
    mount::devices(container, context, report);
    let policies = ["Always", "IfNotPresent", "Never"];
    report.required_one_of(&container.get("imagePullPolicy"), &policies);
    resources::of_container(&container.get("resources"), context, report);
    resize_policies(&container.get("resizePolicy"), context, report);
    security::of_container(&container.get("securityContext"), context, report);
}

/// Names of images of pods begin and end with something.
pub(super) fn spaces(container: &Field<'_, '_>, report: &mut Report) {
    let image = container.get("image");
    if image.text().trim() != image.text() {
        report.invalid(&image, "must not have leading or trailing whitespace");
    }
}

fn ports(ports: &Field<'_, '_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        if !name.text().is_empty() {
            let wrong = text::port_name(name.text());
            report.invalid_all(&name, &wrong);
            if wrong.is_empty() && !names.insert(name.text()) {
                report.duplicate(&name);
            }
        }
        let number = port.get("containerPort");
        match number.number().unwrap_or(0) {
            0 => report.required(&number, ""),
            inside => report.invalid_all(&number, &text::port_number(inside)),
        }
        let host = port.get("hostPort");
        if let Some(outside) = host.number().filter(|number| *number != 0) {
            report.invalid_all(&host, &text::port_number(outside));
        }
        report.required_one_of(&port.get("protocol"), &PROTOCOLS);
    }
}

/// Two containers cannot take the same port of the host.
fn host_ports(container: &Field<'_, '_>, taken: &mut BTreeSet<String>, report: &mut Report) {
    let ports = container.get("ports");
    for port in ports.items() {
        let host = port.get("hostPort");
        let Some(number) = host.number().filter(|number| *number != 0) else { continue };
        let key = format!("{}/{}/{number}", port.text_at(&["protocol"]), port.text_at(&["hostIP"]));
        if !taken.insert(key.clone()) {
            report.duplicate_as(&host, &json!(key));
        }
    }
}

fn resize_policies(policies: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let mut names = BTreeSet::new();
    for policy in policies.items() {
        let (name, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if !names.insert(name.text()) {
            report.duplicate_as(&policy, &json!(name.text()));
        }
        for (field, known) in
            [(&name, ["cpu", "memory"]), (&restart, ["NotRequired", "RestartContainer"])]
        {
            // Upstream reports these at the list.
            if field.text().is_empty() {
                report.required(policies, "");
            } else {
                report.one_of(&policies.with(field.value()), &known);
            }
        }
        if context.restart_policy == "Never" && restart.text() != "NotRequired" {
            let why = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            report.invalid_as(policies, &json!(restart.text()), why);
        }
    }
}
