//! Defaults of pods and of templates for pods.

use serde_json::{Map, Value, json};

use crate::{
    object::{self, map, set_default},
    pod,
    rules::fill::{
        canonical, canonical_resources, child, children, copy_missing, set_number, set_text,
    },
};

type Fields = Map<String, Value>;

const CONTAINERS: [&str; 2] = ["containers", "initContainers"];
/// Permissions of files that pods see.
const FILE_MODE: i64 = 0o644;

/// Defaults of a pod. Some of them are a pod's alone, so that a template stays as it was written.
pub(in crate::rules) fn pod(pod: &mut Value) {
    pod_spec(pod, &["spec"]);
    let spec = map(pod, &["spec"]);
    for field in CONTAINERS {
        for container in children(spec, field) {
            if let Some(resources) = child(container, "resources") {
                copy_missing(resources, "limits", "requests");
            }
        }
    }
    pod_resources(pod);
    let spec = map(pod, &["spec"]);
    set_default(spec, "enableServiceLinks", || json!(true));
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        for field in CONTAINERS {
            for container in children(spec, field) {
                for port in children(container, "ports") {
                    let number = port.get("containerPort").and_then(Value::as_i64).unwrap_or(0);
                    set_number(port, "hostPort", number);
                }
            }
        }
    }
    let class = pod::qos_class(pod);
    let status = map(pod, &["status"]);
    set_text(status, "phase", "Pending");
    set_text(status, "qosClass", class);
}

/// Requests of the pod as a whole follow from those of its containers, and from its limits.
fn pod_resources(pod: &mut Value) {
    let has_limits = object::at(pod, &["spec", "resources", "limits"])
        .and_then(Value::as_object)
        .is_some_and(|limits| !limits.is_empty());
    if !has_limits {
        return;
    }
    let asked = pod::container_requests(pod);
    let requests = map(pod, &["spec", "resources", "requests"]);
    for (name, amount) in asked {
        if name == "cpu" || name == "memory" {
            requests.entry(name).or_insert_with(|| json!(amount.to_string()));
        }
    }
    copy_missing(map(pod, &["spec", "resources"]), "limits", "requests");
}

/// Defaults of the specification of a pod.
pub(in crate::rules) fn pod_spec(object: &mut Value, path: &[&str]) {
    let spec = map(object, path);
    set_text(spec, "dnsPolicy", "ClusterFirst");
    set_text(spec, "restartPolicy", "Always");
    set_default(spec, "securityContext", || json!({}));
    set_default(spec, "terminationGracePeriodSeconds", || json!(30));
    set_text(spec, "schedulerName", "default-scheduler");
    same_account(spec);
    canonical_resources(spec, "overhead");
    if let Some(resources) = child(spec, "resources") {
        canonical_resources(resources, "limits");
        canonical_resources(resources, "requests");
    }
    for volume in children(spec, "volumes") {
        self::volume(volume);
    }
    for field in ["containers", "initContainers", "ephemeralContainers"] {
        for container in children(spec, field) {
            self::container(container);
        }
    }
}

/// The account has a field of an older name.
fn same_account(spec: &mut Fields) {
    let text = |field: &str| spec.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = match text("serviceAccountName") {
        name if name.is_empty() => text("serviceAccount"),
        name => name,
    };
    if !name.is_empty() {
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
    }
}

fn container(container: &mut Fields) {
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = pull_policy(image);
    set_text(container, "imagePullPolicy", policy);
    set_text(container, "terminationMessagePath", "/dev/termination-log");
    set_text(container, "terminationMessagePolicy", "File");
    for port in children(container, "ports") {
        set_text(port, "protocol", "TCP");
    }
    set_default(container, "resources", || json!({}));
    if let Some(resources) = child(container, "resources") {
        canonical_resources(resources, "limits");
        canonical_resources(resources, "requests");
    }
    for variable in children(container, "env") {
        if let Some(source) = child(variable, "valueFrom") {
            references(source);
        }
    }
    for field in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = child(container, field) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = child(container, "lifecycle") {
        for field in ["postStart", "preStop"] {
            if let Some(handler) = child(lifecycle, field) {
                self::handler(handler);
            }
        }
    }
}

/// Always for what may change under the same name, else when it is not there yet.
pub(in crate::rules) fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, None), |(name, it)| (name, Some(it)));
    let last = name.rsplit('/').next().unwrap_or_default();
    let tag = last.split_once(':').map(|(_, tag)| tag);
    let is_latest = tag == Some("latest") || (tag.is_none() && digest.is_none());
    if is_latest && !image.is_empty() { "Always" } else { "IfNotPresent" }
}

fn probe(probe: &mut Fields) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        set_number(probe, field, value);
    }
    handler(probe);
    if let Some(grpc) = child(probe, "grpc") {
        set_default(grpc, "service", || json!(""));
    }
}

fn handler(handler: &mut Fields) {
    if let Some(get) = child(handler, "httpGet") {
        set_text(get, "path", "/");
        set_text(get, "scheme", "HTTP");
    }
}

/// What a variable or a file takes its value from.
fn references(source: &mut Fields) {
    if let Some(field) = child(source, "fieldRef") {
        set_text(field, "apiVersion", "v1");
    }
    if let Some(resource) = child(source, "resourceFieldRef") {
        set_default(resource, "divisor", || json!("0"));
        canonical(resource, "divisor");
    }
}

fn volume(volume: &mut Fields) {
    if !volume.iter().any(|(field, value)| field != "name" && !value.is_null()) {
        volume.insert("emptyDir".into(), json!({}));
    }
    if let Some(folder) = child(volume, "emptyDir") {
        canonical(folder, "sizeLimit");
    }
    if let Some(host) = child(volume, "hostPath") {
        set_default(host, "type", || json!(""));
    }
    for field in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = child(volume, field) {
            set_default(source, "defaultMode", || json!(FILE_MODE));
        }
    }
    if let Some(source) = child(volume, "downwardAPI") {
        children(source, "items").for_each(references);
    }
    if let Some(projected) = child(volume, "projected") {
        for source in children(projected, "sources") {
            if let Some(token) = child(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", || json!(3600));
            }
            if let Some(source) = child(source, "downwardAPI") {
                children(source, "items").for_each(references);
            }
        }
    }
    if let Some(image) = child(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = pull_policy(reference);
        set_text(image, "pullPolicy", policy);
    }
    if let Some(disk) = child(volume, "iscsi") {
        set_text(disk, "iscsiInterface", "default");
    }
    if let Some(disk) = child(volume, "rbd") {
        set_text(disk, "pool", "rbd");
        set_text(disk, "user", "admin");
        set_text(disk, "keyring", "/etc/ceph/keyring");
    }
    if let Some(claim) = child(volume, "ephemeral")
        .and_then(|source| child(source, "volumeClaimTemplate"))
        .and_then(|template| child(template, "spec"))
    {
        set_text(claim, "volumeMode", "Filesystem");
    }
}
