//! Where containers see their volumes.

use std::collections::{BTreeMap, BTreeSet};

use super::spec::Context;
use crate::rules::{
    field::{Field, Report},
    text,
};

/// `volumeMounts`.
pub(super) fn mounts(container: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let mounts = container.get("volumeMounts");
    let devices = paths(&container.get("volumeDevices"), "devicePath");
    let mut seen = BTreeSet::new();
    for mount in mounts.items() {
        let (name, path) = (mount.get("name"), mount.get("mountPath"));
        if name.text().is_empty() {
            report.required(&name, "");
        }
        if !context.volumes.contains_key(name.text()) {
            report.not_found(&name);
        }
        if path.text().is_empty() {
            report.required(&path, "");
        }
        if !seen.insert(path.text()) {
            report.invalid(&path, "must be unique");
        }
        if devices.contains_key(name.text()) {
            report.invalid(&name, "must not already exist in volumeDevices");
        }
        if devices.values().any(|device| *device == path.text()) {
            report.invalid(&path, "must not already exist as a path in volumeDevices");
        }
        sub_paths(&mounts, &mount, context, report);
        propagation(container, &mounts, &mount, report);
    }
}

/// Upstream reports most of this at the list.
fn sub_paths(
    mounts: &Field<'_, '_>,
    mount: &Field<'_, '_>,
    context: &Context<'_>,
    report: &mut Report,
) {
    let volume = context.volumes.get(mount.text_at(&["name"]));
    let is_image = volume.is_some_and(|volume| volume.get("image").is_some());
    let (path, expression) = (mount.get("subPath"), mount.get("subPathExpr"));
    for field in [&path, &expression] {
        if is_image && !field.text().is_empty() {
            report.invalid(field, "not allowed in image volume sources");
        }
    }
    if !expression.text().is_empty() && !path.text().is_empty() {
        report.invalid(&expression, "subPathExpr and subPath are mutually exclusive");
    }
    for name in ["subPath", "subPathExpr"] {
        let path = mount.get(name);
        if !path.text().is_empty() {
            let shown = mounts.get(name);
            report.invalid_all(&shown.with(path.value()), &text::descending_path(path.text()));
        }
    }
}

fn propagation(
    container: &Field<'_, '_>,
    mounts: &Field<'_, '_>,
    mount: &Field<'_, '_>,
    report: &mut Report,
) {
    let given = mount.get("mountPropagation");
    let shown = mounts.get("mountPropagation");
    let shown = shown.with(given.value());
    if given.is_set() {
        report.one_of(&shown, &["Bidirectional", "HostToContainer", "None"]);
        let privileged = container.at(&["securityContext", "privileged"]);
        let is_privileged = privileged.and_then(serde_json::Value::as_bool) == Some(true);
        if given.text() == "Bidirectional" && !is_privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            report.forbidden(&shown, why);
        }
    }
    let deep = mount.get("recursiveReadOnly");
    let shown = mounts.get("recursiveReadOnly");
    let shown = shown.with(deep.value());
    match deep.text() {
        "" | "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if mount.get("readOnly").flag() != Some(true) {
                report.forbidden(&shown, "may only be specified when readOnly is true");
            }
            if !["", "None"].contains(&given.text()) {
                let why = "may only be specified when mountPropagation is None or not specified";
                report.forbidden(&shown, why);
            }
        }
        _ => report.not_supported(&shown, &["Disabled", "Enabled", "IfPossible"]),
    }
}

/// `volumeDevices`.
pub(super) fn devices(container: &Field<'_, '_>, context: &Context<'_>, report: &mut Report) {
    let devices = container.get("volumeDevices");
    let mounts = paths(&container.get("volumeMounts"), "mountPath");
    let (mut names, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.items() {
        let (name, path) = (device.get("name"), device.get("devicePath"));
        if name.text().is_empty() {
            report.required(&name, "");
        }
        if names.contains(name.text()) {
            report.invalid(&name, "must be unique");
        }
        match context.volumes.get(name.text()) {
            None => report.not_found(&name),
            Some(volume)
                if ["persistentVolumeClaim", "ephemeral"]
                    .iter()
                    .all(|kind| volume.get(*kind).is_none()) =>
            {
                let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                report.invalid(&name, why);
            }
            Some(_) => {}
        }
        if path.text().is_empty() {
            report.required(&path, "");
        }
        if seen.contains(path.text()) {
            report.invalid(&path, "must be unique");
        }
        if text::no_backsteps(path.text()).is_empty() {
            seen.insert(path.text());
        } else {
            report.invalid(&path, "can not contain backsteps ('..')");
        }
        if mounts.contains_key(name.text()) {
            report.invalid(&name, "must not already exist in volumeMounts");
        }
        if mounts.values().any(|mount| *mount == path.text()) {
            report.invalid(&path, "must not already exist as a path in volumeMounts");
        }
        if !name.text().is_empty() {
            names.insert(name.text());
        }
    }
}

/// Paths by the name of the volume.
fn paths<'v>(list: &Field<'_, 'v>, field: &str) -> BTreeMap<&'v str, &'v str> {
    let text = |item: &'v serde_json::Value, field: &str| {
        item.get(field).and_then(serde_json::Value::as_str).unwrap_or_default()
    };
    list.list().iter().map(|item| (text(item, "name"), text(item, field))).collect()
}
