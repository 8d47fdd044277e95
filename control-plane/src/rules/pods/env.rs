//! Variables of containers, and where their values come from.

use serde_json::json;

use crate::{
    quantity::Quantity,
    rules::{
        field::{Field, Report},
        text,
    },
};

/// Fields of a pod that variables can show.
const FIELDS_OF_VARIABLES: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that files can show.
pub(super) const FIELDS_OF_FILES: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Fields that have a name at all.
const FIELDS: [&str; 14] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTES: [&str; 13] =
    ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// `env`.
pub(super) fn variables(variables: &Field<'_, '_>, report: &mut Report) {
    for variable in variables.items() {
        let name = variable.get("name");
        if name.text().is_empty() {
            report.required(&name, "");
        } else {
            report.invalid_all(&name, &text::variable_name(name.text()));
        }
        let source = variable.get("valueFrom");
        if source.is_set() {
            value_from(&source, !variable.text_at(&["value"]).is_empty(), report);
        }
    }
}

fn value_from(source: &Field<'_, '_>, has_value: bool, report: &mut Report) {
    let (field, resource) = (source.get("fieldRef"), source.get("resourceFieldRef"));
    let mut sources = 0;
    if field.is_set() {
        sources += 1;
        field_reference(&field, &FIELDS_OF_VARIABLES, report);
    }
    if resource.is_set() {
        sources += 1;
        resource_reference(&resource, false, report);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let reference = source.get(kind);
        if !reference.is_set() {
            continue;
        }
        sources += 1;
        let name = reference.get("name");
        report.invalid_all(&name, &text::dns_subdomain(name.text()));
        let key = reference.get("key");
        if key.text().is_empty() {
            report.required(&key, "");
        } else {
            report.invalid_all(&key, &text::config_key(key.text()));
        }
    }
    let empty = json!("");
    if sources == 0 {
        let why = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
        report.invalid_as(source, &empty, why);
    } else if has_value {
        report.invalid_as(source, &empty, "may not be specified when `value` is not empty");
    } else if sources > 1 {
        report.invalid_as(source, &empty, "may not have more than one field specified at a time");
    }
}

/// A field of the pod, of those that may stand here.
pub(super) fn field_reference(reference: &Field<'_, '_>, known: &[&str], report: &mut Report) {
    let (version, path) = (reference.get("apiVersion"), reference.get("fieldPath"));
    for needed in [&version, &path] {
        if needed.text().is_empty() {
            report.required(needed, "");
            return;
        }
    }
    let subscript = subscript(path.text());
    let name = subscript.map_or_else(|| path.text(), |(name, _)| name);
    let is_map = name == "metadata.annotations" || name == "metadata.labels";
    let unreadable = if version.text() != "v1" {
        Some(format!("unsupported pod version: {}", version.text()))
    } else if subscript.is_some() && !is_map {
        Some(format!("field label does not support subscript: {}", path.text()))
    } else if subscript.is_none() && !FIELDS.contains(&name) && name != "spec.host" {
        Some(format!("field label not supported: {name}"))
    } else {
        None
    };
    if let Some(why) = unreadable {
        report.invalid(&path, &format!("error converting fieldPath: {why}"));
        return;
    }
    match subscript {
        Some((name, key)) => {
            // Keys of annotations may have capitals in their prefix.
            let is_label = name == "metadata.labels";
            let key = if is_label { key.to_owned() } else { key.to_lowercase() };
            for why in text::label_key(&key) {
                report.invalid_as(reference, &json!(key), &why);
            }
        }
        None if known.contains(&name) || name == "spec.host" => {}
        None => report.not_supported(&path, known),
    }
}

/// `metadata.labels['a']` in its parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (name, key) = path.strip_suffix("']")?.split_once("['")?;
    (!name.is_empty()).then_some((name, key))
}

/// An amount of a container's resources.
pub(super) fn resource_reference(reference: &Field<'_, '_>, is_file: bool, report: &mut Report) {
    let (container, resource) = (reference.get("containerName"), reference.get("resource"));
    let name = resource.text();
    let is_pages = name.starts_with("requests.hugepages-") || name.starts_with("limits.hugepages-");
    if is_file && container.text().is_empty() {
        report.required(&container, "");
    } else if name.is_empty() {
        report.required(&resource, "");
    } else if !RESOURCES.contains(&name) && !is_pages {
        report.not_supported(&resource, &RESOURCES);
    }
    let divisor = reference.get("divisor");
    let Some(Ok(amount)) = divisor.value().map(Quantity::of) else { return };
    if amount.is_zero() {
        return;
    }
    let written = amount.to_string();
    let bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (is_known, values, kind) = match name.split_once('.').map_or("", |(_, kind)| kind) {
        "cpu" => (["1m", "1"].contains(&written.as_str()), "1m and 1", "cpu"),
        "memory" => (BYTES.contains(&written.as_str()), bytes, "memory"),
        "ephemeral-storage" => {
            (BYTES.contains(&written.as_str()), bytes, "local ephemeral storage")
        }
        _ if is_pages => (BYTES.contains(&written.as_str()), bytes, "hugepages"),
        _ => return,
    };
    if !is_known {
        let why = format!("only divisor's values {values} are supported with the {kind} resource");
        report.invalid_as(&divisor, &json!(name), &why);
    }
}

/// `envFrom`.
pub(super) fn sources(sources: &Field<'_, '_>, report: &mut Report) {
    for source in sources.items() {
        let prefix = source.get("prefix");
        if !prefix.text().is_empty() {
            report.invalid_all(&prefix, &text::variable_name(prefix.text()));
        }
        let mut given = 0;
        for kind in ["configMapRef", "secretRef"] {
            let reference = source.get(kind);
            if !reference.is_set() {
                continue;
            }
            given += 1;
            let name = reference.get("name");
            if name.text().is_empty() {
                report.required(&name, "");
            } else {
                report.invalid_all(&name, &text::subdomain_name(name.text(), true));
            }
        }
        let empty = json!("");
        if given == 0 {
            let why = "must specify one of: `configMapRef` or `secretRef`";
            report.invalid_as(sources, &empty, why);
        } else if given > 1 {
            let why = "may not have more than one field specified at a time";
            report.invalid_as(sources, &empty, why);
        }
    }
}
