//! What the server adds to new objects, and when it takes none: admission.

use serde_json::{Value, json};

use super::{Registry, Scope, encoded};
use crate::{
    api::status::{About, Cause, Failure, Reason},
    client::Kind,
    object::{self, at, map, set_default},
    resource,
};

const NAMESPACES: Kind = Kind { group: "", plural: "namespaces" };
const ACCOUNTS: Kind = Kind { group: "", plural: "serviceaccounts" };
const CLASSES: Kind = Kind { group: "scheduling.k8s.io", plural: "priorityclasses" };
/// Seconds a pod stays on a node that does not answer.
const TOLERATION_S: i64 = 300;

impl Registry {
    /// Looks at a new object after its defaults and before it is validated.
    pub(super) async fn admit(&self, scope: &Scope<'_>, object: &mut Value) -> Result<(), Failure> {
        if scope.resource.namespaced && scope.resource.verbs == resource::Verbs::All {
            self.namespace_takes(scope, object).await?;
        }
        match (scope.resource.group, scope.resource.plural) {
            ("", "pods") => self.pod(scope, object).await,
            ("", "namespaces") => {
                let finalizers = map(object, &["spec"]);
                set_default(finalizers, "finalizers", || json!(["kubernetes"]));
                map(object, &["status"]).insert("phase".into(), json!("Active"));
                let name = object::name(object).to_owned();
                map(object, &["metadata", "labels"])
                    .insert("kubernetes.io/metadata.name".into(), json!(name));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn other(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Value>, Failure> {
        let Some(resource) = resource::by_id(kind) else { return Ok(None) };
        let key = Scope::new(resource, namespace).key(name);
        Ok(self.store.get(&key).await?.map(|entry| encoded::decoded(&entry)))
    }

    async fn namespace_takes(&self, scope: &Scope<'_>, object: &Value) -> Result<(), Failure> {
        let namespace = self.other(NAMESPACES, "", scope.namespace).await?;
        let Some(namespace) = namespace else {
            let words = format!("namespaces {:?} not found", scope.namespace);
            let about = About {
                group: String::new(),
                kind: "namespaces".into(),
                name: scope.namespace.into(),
            };
            return Err(Failure::new(Reason::NotFound, words).about(about));
        };
        if object::is_terminating(&namespace) {
            let name = object::name(object);
            let words = format!(
                "{} {name:?} is forbidden: unable to create new content in namespace {} because it is \
                 being terminated",
                scope.resource.full_name(),
                scope.namespace
            );
            let why = format!("namespace {} is being terminated", scope.namespace);
            let cause = Cause {
                reason: "NamespaceTerminating",
                message: why,
                field: "metadata.namespace".into(),
            };
            let failure = Failure::new(Reason::Forbidden, words);
            return Err(failure.about(scope.about(name)).because(vec![cause]));
        }
        Ok(())
    }

    async fn pod(&self, scope: &Scope<'_>, pod: &mut Value) -> Result<(), Failure> {
        tolerate(pod);
        self.priority(scope, pod).await?;
        self.account(scope, pod).await?;
        self.limit(scope, pod).await?;
        let status = map(pod, &["status"]);
        set_default(status, "phase", || json!("Pending"));
        Ok(())
    }

    async fn priority(&self, scope: &Scope<'_>, pod: &mut Value) -> Result<(), Failure> {
        let name = object::text(pod, &["spec", "priorityClassName"]).to_owned();
        let built_in = match name.as_str() {
            "system-node-critical" => Some(2_000_001_000),
            "system-cluster-critical" => Some(2_000_000_000),
            _ => None,
        };
        let (value, policy) = if let Some(value) = built_in {
            (value, "PreemptLowerPriority".to_owned())
        } else if name.is_empty() {
            (0, "PreemptLowerPriority".to_owned())
        } else {
            let Some(class) = self.other(CLASSES, "", &name).await? else {
                let words = format!(
                    "pods {:?} is forbidden: no PriorityClass with name {name} was found",
                    object::name(pod)
                );
                return Err(
                    Failure::new(Reason::Forbidden, words).about(scope.about(object::name(pod)))
                );
            };
            let policy = object::text(&class, &["preemptionPolicy"]);
            let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
            (object::number(&class, &["value"]).unwrap_or(0), policy.to_owned())
        };
        let spec = map(pod, &["spec"]);
        spec.insert("priority".into(), json!(value));
        set_default(spec, "preemptionPolicy", || json!(policy));
        Ok(())
    }

    async fn account(&self, scope: &Scope<'_>, pod: &mut Value) -> Result<(), Failure> {
        let spec = map(pod, &["spec"]);
        set_default(spec, "serviceAccountName", || json!("default"));
        let name = spec["serviceAccountName"].as_str().unwrap_or_default().to_owned();
        spec.insert("serviceAccount".into(), json!(name));
        let account = self.other(ACCOUNTS, scope.namespace, &name).await?;
        let Some(account) = account else {
            let pod = object::name(pod);
            let words = format!(
                "pods {pod:?} is forbidden: error looking up service account {}/{name}: serviceaccount \
                 {name:?} not found",
                scope.namespace
            );
            return Err(Failure::new(Reason::Forbidden, words).about(scope.about(pod)));
        };
        let wants = |object: &Value, path: &[&str]| at(object, path).and_then(Value::as_bool);
        let mount = wants(pod, &["spec", "automountServiceAccountToken"])
            .or_else(|| wants(&account, &["automountServiceAccountToken"]))
            .unwrap_or(true);
        if mount {
            mount_token(pod);
        }
        Ok(())
    }
}

fn tolerate(pod: &mut Value) {
    let spec = map(pod, &["spec"]);
    let mut tolerations =
        spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let is_covered = |it: &Value| {
            let its_key = object::text(it, &["key"]);
            let effect = object::text(it, &["effect"]);
            (its_key == key || its_key.is_empty()) && (effect == "NoExecute" || effect.is_empty())
        };
        if !tolerations.iter().any(is_covered) {
            tolerations.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION_S,
            }));
        }
    }
    spec.insert("tolerations".into(), json!(tolerations));
}

/// Where containers find their token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn mount_token(pod: &mut Value) {
    let spec = map(pod, &["spec"]);
    let name = super::names::generated("kube-api-access-");
    let mut is_used = false;
    for field in ["initContainers", "containers"] {
        for container in spec.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
            let container = map(container, &[]);
            let mut mounts = container
                .get("volumeMounts")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            if !mounts.iter().any(|mount| object::text(mount, &["mountPath"]) == TOKEN_PATH) {
                mounts.push(json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH}));
                container.insert("volumeMounts".into(), json!(mounts));
                is_used = true;
            }
        }
    }
    if is_used {
        let mut volumes =
            spec.get("volumes").and_then(Value::as_array).cloned().unwrap_or_default();
        volumes.push(json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{
                "path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
            }]}},
        ]}}));
        spec.insert("volumes".into(), json!(volumes));
    }
}
