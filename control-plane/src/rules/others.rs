//! Namespaces, nodes, what pods are given, roles, leases: names, and a few rules each.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{
    Rules,
    field::{Field, Report},
    fill::{children, set_text},
    metadata,
    text::{self, NameRule},
};
use crate::{
    api::status::Cause,
    object::{self, map, set_default},
};

/// Bytes that a ConfigMap or a Secret may hold.
const DATA_MAX: usize = 1 << 20;
/// The highest priority that is not the system's own.
const PRIORITY_MAX: i64 = 1_000_000_000;
const RBAC: &str = "rbac.authorization.k8s.io";

/// Metadata alone.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident, $namespaced:literal, $rule:expr) => {
        $(#[$doc])*
        pub const $name: Rules = Rules {
            validate: |new, old| check(new, old, $namespaced, $rule).causes(),
            ..super::NONE
        };
    };
}

named! {
    /// Rules of namespaces.
    NAMESPACE, false, text::label_name
}
named! {
    /// Rules of nodes.
    NODE, false, text::subdomain_name
}
named! {
    /// Rules of service accounts.
    ACCOUNT, true, text::subdomain_name
}
named! {
    /// Rules of objects in namespaces without rules of their own.
    NAMED, true, text::subdomain_name
}
named! {
    /// Rules of roles in namespaces.
    ROLE, true, text::path_name
}
named! {
    /// Rules of roles of the cluster.
    CLUSTER_ROLE, false, text::path_name
}

/// Rules of ConfigMaps.
pub const CONFIG_MAP: Rules = Rules { validate: config_map, ..super::NONE };
/// Rules of Secrets.
pub const SECRET: Rules = Rules { default: default_secret, validate: secret, ..super::NONE };
/// Rules of Leases.
pub const LEASE: Rules = Rules { validate: lease, ..super::NONE };
/// Rules of priority classes.
pub const PRIORITY: Rules = Rules { default: default_priority, validate: priority, ..super::NONE };
/// Rules of bindings of roles in namespaces.
pub const ROLE_BINDING: Rules =
    Rules { default: default_binding, validate: |new, old| binding(new, old, true), ..super::NONE };
/// Rules of bindings of roles in the cluster.
pub const CLUSTER_ROLE_BINDING: Rules = Rules {
    default: default_binding,
    validate: |new, old| binding(new, old, false),
    ..super::NONE
};

fn check(new: &Value, old: Option<&Value>, namespaced: bool, rule: NameRule) -> Report {
    let mut report = Report::default();
    metadata::check(&Field::root(new), old, namespaced, rule, &mut report);
    report
}

/// Keys and sizes; what is immutable stays.
fn data(root: &Field<'_, '_>, fields: &[&str], old: Option<&Value>, report: &mut Report) {
    let mut bytes = 0;
    for field in fields {
        let entries = root.get(field);
        for entry in entries.entries() {
            for why in text::config_key(entry.key()) {
                report.invalid_as(&entry, &json!(entry.key()), &why);
            }
            bytes += entry.text().len();
        }
    }
    if bytes > DATA_MAX {
        report.too_long(&root.get(fields[0]), DATA_MAX);
    }
    let Some(old) = old.filter(|old| old.get("immutable") == Some(&json!(true))) else { return };
    let immutable = root.get("immutable");
    if immutable.flag() != Some(true) {
        report.forbidden(&immutable, "field is immutable when `immutable` is set");
    }
    for field in fields {
        let entries = root.get(field);
        if entries.value() != old.get(*field).filter(|it| !it.is_null()) {
            report.forbidden(&entries, "field is immutable when `immutable` is set");
        }
    }
}

fn config_map(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = check(new, old, true, text::subdomain_name);
    let root = Field::root(new);
    data(&root, &["data", "binaryData"], old, &mut report);
    let (texts, binary) = (root.get("data"), root.get("binaryData"));
    for entry in texts.entries() {
        if binary.entry(entry.key()).is_set() {
            let why = "duplicate of key present in data";
            report.invalid_as(&binary.entry(entry.key()), &json!(entry.key()), why);
        }
    }
    report.causes()
}

/// What is written as text is kept as base64 like the rest.
fn default_secret(secret: &mut Value) {
    let top = map(secret, &[]);
    set_text(top, "type", "Opaque");
    if let Some(Value::Object(texts)) = top.remove("stringData") {
        let data = map(secret, &["data"]);
        for (key, text) in texts {
            data.insert(key, json!(STANDARD.encode(text.as_str().unwrap_or_default())));
        }
    }
}

fn secret(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = check(new, old, true, text::subdomain_name);
    let root = Field::root(new);
    data(&root, &["data"], old, &mut report);
    let entries = root.get("data");
    for entry in entries.entries() {
        let text = entry.value().and_then(Value::as_str);
        if text.is_none_or(|text| STANDARD.decode(text).is_err()) {
            report.invalid(&entry, "must be base64");
        }
    }
    let kind = root.get("type");
    if let Some(old) = old {
        report.immutable(&kind, old.get("type"));
    }
    let needed: &[&str] = match kind.text() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for key in needed {
        if !entries.entry(key).is_set() {
            report.required(&entries.entry(key), "");
        }
    }
    report.causes()
}

fn lease(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = check(new, old, true, text::subdomain_name);
    let root = Field::root(new);
    let spec = root.get("spec");
    let duration = spec.get("leaseDurationSeconds");
    if duration.number().is_some_and(|it| it <= 0) {
        report.invalid(&duration, "must be greater than 0");
    }
    report.not_negative(&spec.get("leaseTransitions"));
    report.causes()
}

fn default_priority(class: &mut Value) {
    set_text(map(class, &[]), "preemptionPolicy", "PreemptLowerPriority");
}

fn priority(new: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut report = check(new, old, false, text::subdomain_name);
    let root = Field::root(new);
    let value = root.get("value");
    if value.number().unwrap_or(0) > PRIORITY_MAX && !object::name(new).starts_with("system-") {
        let why = format!("maximum allowed value of a user defined priority is {PRIORITY_MAX}");
        report.forbidden(&value, &why);
    }
    let policy = root.get("preemptionPolicy");
    report.required_one_of(&policy, &["Never", "PreemptLowerPriority"]);
    if let Some(old) = old {
        if value.number().unwrap_or(0) != object::number(old, &["value"]).unwrap_or(0) {
            report.forbidden(&value, "may not be changed in an update.");
        }
        report.immutable(&policy, old.get("preemptionPolicy"));
    }
    report.causes()
}

fn default_binding(binding: &mut Value) {
    let role = map(binding, &["roleRef"]);
    set_text(role, "apiGroup", RBAC);
    let namespace = object::namespace(binding).to_owned();
    for subject in children(map(binding, &[]), "subjects") {
        match subject.get("kind").and_then(Value::as_str) {
            Some("ServiceAccount") => {
                if !namespace.is_empty() {
                    set_default(subject, "namespace", || json!(namespace));
                }
            }
            _ => set_text(subject, "apiGroup", RBAC),
        }
    }
}

fn binding(new: &Value, old: Option<&Value>, namespaced: bool) -> Vec<Cause> {
    let mut report = check(new, old, namespaced, text::path_name);
    let root = Field::root(new);
    let role = root.get("roleRef");
    let (kind, name) = (role.get("kind"), role.get("name"));
    let known: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    report.required_one_of(&kind, known);
    if name.text().is_empty() {
        report.required(&name, "");
    }
    if let Some(old) = old
        && role.value() != old.get("roleRef")
    {
        report.invalid(&role, "cannot change roleRef");
    }
    let subjects = root.get("subjects");
    for subject in subjects.items() {
        let name = subject.get("name");
        if name.text().is_empty() {
            report.required(&name, "");
        }
        let kind = subject.get("kind");
        report.required_one_of(&kind, &["Group", "ServiceAccount", "User"]);
        if kind.text() == "ServiceAccount" && subject.get("namespace").text().is_empty() {
            report.required(&subject.get("namespace"), "");
        }
    }
    report.causes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(rules: &Rules, new: &Value, old: Option<&Value>) -> Vec<String> {
        let causes = (rules.validate)(new, old);
        causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn named(more: &Value) -> Value {
        let mut object = json!({"metadata": {"name": "a", "namespace": "b"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            object[key] = value.clone();
        }
        object
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = named(&json!({"data": {"k": "v"}, "immutable": true}));
        assert_eq!(words(&CONFIG_MAP, &old, Some(&old)), Vec::<String>::new());
        let new = named(&json!({"data": {"k": "w"}, "immutable": true}));
        let expected = "data: Forbidden: field is immutable when `immutable` is set";
        assert_eq!(words(&CONFIG_MAP, &new, Some(&old)), [expected]);
        let free = named(&json!({"data": {"k": "v"}}));
        let expected = "immutable: Forbidden: field is immutable when `immutable` is set";
        assert_eq!(words(&CONFIG_MAP, &free, Some(&old)), [expected]);
    }

    #[test]
    fn secrets_hold_base64_and_what_their_type_needs() {
        let mut secret = named(&json!({"stringData": {"k": "value"}}));
        (SECRET.default)(&mut secret);
        assert_eq!(secret["data"], json!({"k": "dmFsdWU="}));
        assert_eq!((&secret["type"], secret.get("stringData")), (&json!("Opaque"), None));
        assert_eq!(words(&SECRET, &secret, None), Vec::<String>::new());
        let tls = named(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}}));
        assert_eq!(words(&SECRET, &tls, None), ["data[tls.key]: Required value"]);
    }

    #[test]
    fn a_binding_keeps_its_role() {
        let mut old = named(&json!({"roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "bot"}, {"kind": "User", "name": "u"}]}));
        (ROLE_BINDING.default)(&mut old);
        assert_eq!(old["subjects"][0]["namespace"], "b");
        assert_eq!(words(&ROLE_BINDING, &old, Some(&old)), Vec::<String>::new());
        let mut new = old.clone();
        new["roleRef"]["name"] = json!("other");
        assert!(words(&ROLE_BINDING, &new, Some(&old))[0].ends_with("cannot change roleRef"));
    }
}
