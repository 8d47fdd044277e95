//! What containers may do, and as whom they run.

use serde_json::json;

use super::spec::Context;
use crate::rules::field::{Field, Report};

const ID_MAX: i64 = i32::MAX as i64;

fn id(at: &Field<'_, '_>, report: &mut Report) {
    if at.number().is_some_and(|number| !(0..=ID_MAX).contains(&number)) {
        report.invalid(at, &crate::rules::text::between(0, ID_MAX));
    }
}

fn profile(at: &Field<'_, '_>, report: &mut Report) {
    if !at.is_set() {
        return;
    }
    let (kind, file) = (at.get("type"), at.get("localhostProfile"));
    report.required_one_of(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
    if kind.text() == "Localhost" && file.text().is_empty() {
        report.required(&file, "must be set when seccomp type is Localhost");
    }
    if kind.text() != "Localhost" && file.is_set() {
        report.invalid(&file, "can only be set when seccomp type is Localhost");
    }
}

/// `securityContext` of a pod, and what it shares with the host.
pub(super) fn of_pod(spec: &Field<'_, '_>, report: &mut Report) {
    let context = spec.get("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context.get(field), report);
    }
    let groups = context.get("supplementalGroups");
    for group in groups.items() {
        id(&group, report);
    }
    let policy = context.get("fsGroupChangePolicy");
    report.one_of(&policy, &["Always", "OnRootMismatch"]);
    profile(&context.get("seccompProfile"), report);
    let shared = spec.get("shareProcessNamespace");
    if shared.flag() == Some(true) && spec.get("hostPID").flag() == Some(true) {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        report.invalid(&context.get("shareProcessNamespace").with(shared.value()), why);
    }
}

/// `securityContext` of a container.
pub(super) fn of_container(at: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&at.get(field), report);
    }
    report.one_of(&at.get("procMount"), &["Default", "Unmasked"]);
    profile(&at.get("seccompProfile"), report);
    let escalation = at.get("allowPrivilegeEscalation");
    if escalation.flag() == Some(false) {
        if at.get("privileged").flag() == Some(true) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            report.invalid(at, why);
        }
        let capabilities = at.get("capabilities");
        let added = capabilities.get("add");
        if added.texts().any(|it| it == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            report.invalid(at, why);
        }
    }
    let mount = at.get("procMount");
    if mount.text() == "Unmasked" && context.host_users {
        report.invalid(&mount, "`hostUsers` must be false to use `Unmasked`");
    }
}

/// The system that a pod is for.
pub(super) fn os(spec: &Field<'_, '_>, report: &mut Report) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    let name = os.get("name");
    if name.text().is_empty() {
        report.required(&name, "");
    } else if !["linux", "windows"].contains(&name.text()) {
        report.invalid_as(&name, &json!(name.text()), "must be `linux` or `windows`");
    }
}
