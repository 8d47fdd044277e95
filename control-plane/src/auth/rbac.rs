//! Roles and bindings: who may do what.

use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use super::{MASTERS, User};
use crate::{
    api::status::Failure,
    object::{self, at, list, text},
    registry::{Registry, Scope, encoded},
    resource,
    store::Revision,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What somebody wants to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Act {
    /// `get`, `list`, …
    pub verb: String,
    /// Group of the resource.
    pub group: String,
    /// The resource with its subresource, such as `pods/log`; empty for a path.
    pub resource: String,
    /// Namespace; empty for objects of the cluster.
    pub namespace: String,
    /// Name of the object; empty for all.
    pub name: String,
    /// A path that is no resource.
    pub path: String,
}

#[derive(Debug, Default)]
struct Binding {
    /// Empty for the whole cluster.
    namespace: String,
    subjects: Vec<Value>,
    rules: Arc<Vec<Value>>,
}

/// What all bindings say together.
#[derive(Debug, Default)]
struct Policy {
    bindings: Vec<Binding>,
}

/// Who may do what, as the objects say.
#[derive(Debug, Default)]
pub struct Authorizer {
    policy: RwLock<Arc<Policy>>,
}

impl Authorizer {
    /// Whether somebody may.
    pub fn allows(&self, user: &User, act: &Act) -> bool {
        if user.groups.iter().any(|it| it == MASTERS) {
            return true;
        }
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner).clone();
        policy.bindings.iter().any(|binding| {
            let is_there = binding.namespace.is_empty() || binding.namespace == act.namespace;
            is_there
                && binding.subjects.iter().any(|it| is_meant(it, &binding.namespace, user))
                && binding.rules.iter().any(|rule| covers(rule, act))
        })
    }

    /// All rules that hold for somebody in a namespace.
    pub fn rules(&self, user: &User, namespace: &str) -> Vec<Value> {
        let policy = self.policy.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut rules = Vec::new();
        if user.groups.iter().any(|it| it == MASTERS) {
            rules.push(serde_json::json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
            rules.push(serde_json::json!({"verbs": ["*"], "nonResourceURLs": ["*"]}));
        }
        for binding in &policy.bindings {
            let is_there = binding.namespace.is_empty() || binding.namespace == namespace;
            if is_there && binding.subjects.iter().any(|it| is_meant(it, &binding.namespace, user))
            {
                rules.extend(binding.rules.iter().cloned());
            }
        }
        rules
    }

    /// Reads the objects anew; gives the revision that they had.
    pub async fn load(&self, registry: &Registry) -> Result<Revision, Failure> {
        let revision = registry.store().revision().await?;
        let roles = objects(registry, "roles").await?;
        let cluster_roles = objects(registry, "clusterroles").await?;
        let mut bindings = Vec::new();
        for plural in ["clusterrolebindings", "rolebindings"] {
            for object in objects(registry, plural).await? {
                let namespace = object::namespace(&object);
                let name = text(&object, &["roleRef", "name"]);
                let is_role = |it: &&Value| object::name(it) == name;
                let role = match text(&object, &["roleRef", "kind"]) {
                    "Role" => {
                        roles.iter().find(|it| is_role(it) && object::namespace(it) == namespace)
                    }
                    _ => cluster_roles.iter().find(is_role),
                };
                let rules = role.map(|role| list(role, &["rules"]).to_vec()).unwrap_or_default();
                bindings.push(Binding {
                    namespace: namespace.to_owned(),
                    subjects: list(&object, &["subjects"]).to_vec(),
                    rules: Arc::new(rules),
                });
            }
        }
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) =
            Arc::new(Policy { bindings });
        Ok(revision)
    }

    /// Follows the objects until the store closes.
    pub async fn follow(self: Arc<Self>, registry: Arc<Registry>) {
        while let Ok(revision) = self.load(&registry).await {
            let prefix = format!("/{GROUP}/");
            let Ok(mut watch) = registry.store().watch(&prefix, revision).await else { continue };
            if watch.next().await.is_none() {
                return;
            }
        }
    }
}

async fn objects(registry: &Registry, plural: &str) -> Result<Vec<Value>, Failure> {
    let Some(resource) = resource::by_path(GROUP, "v1", plural) else { return Ok(Vec::new()) };
    let listing = registry.list(&Scope::new(resource, ""), None, 0, None).await?;
    Ok(listing.entries.iter().map(encoded::decoded).collect())
}

fn is_meant(subject: &Value, namespace: &str, user: &User) -> bool {
    let name = text(subject, &["name"]);
    match text(subject, &["kind"]) {
        "User" => name == user.name,
        "Group" => user.groups.iter().any(|it| it == name),
        "ServiceAccount" => {
            let own = text(subject, &["namespace"]);
            let own = if own.is_empty() { namespace } else { own };
            user.name == format!("system:serviceaccount:{own}:{name}")
        }
        _ => false,
    }
}

fn has(rule: &Value, field: &str, wanted: &str) -> bool {
    list(rule, &[field]).iter().any(|it| it == wanted || it == "*")
}

fn covers(rule: &Value, act: &Act) -> bool {
    if !has(rule, "verbs", &act.verb) {
        return false;
    }
    if act.resource.is_empty() {
        return list(rule, &["nonResourceURLs"]).iter().filter_map(Value::as_str).any(|it| {
            it == act.path || it.strip_suffix('*').is_some_and(|start| act.path.starts_with(start))
        });
    }
    let of_all = act.resource.split_once('/').map(|(_, part)| format!("*/{part}"));
    let is_resource = has(rule, "resources", &act.resource)
        || of_all.is_some_and(|it| has(rule, "resources", &it));
    let names = at(rule, &["resourceNames"]).and_then(Value::as_array);
    let is_name = names.is_none_or(|it| it.is_empty() || it.iter().any(|name| name == &act.name));
    is_resource && is_name && has(rule, "apiGroups", &act.group)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn act(verb: &str, resource: &str, namespace: &str, name: &str) -> Act {
        let text = str::to_owned;
        let (verb, resource) = (text(verb), text(resource));
        Act { verb, resource, namespace: text(namespace), name: text(name), ..Act::default() }
    }

    fn authorizer(namespace: &str, subject: Value, rule: Value) -> Authorizer {
        let bindings = vec![Binding {
            namespace: namespace.into(),
            subjects: vec![subject],
            rules: Arc::new(vec![rule]),
        }];
        Authorizer { policy: RwLock::new(Arc::new(Policy { bindings })) }
    }

    #[test]
    fn a_rule_holds_for_its_subjects_verbs_resources_names_and_namespace() {
        let ann = User::known("ann".into(), String::new(), vec![]);
        let rule = json!({"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get"], "resourceNames": ["a"]});
        let subject = json!({"kind": "User", "name": "ann"});
        let rbac = authorizer("n", subject, rule);
        assert!(rbac.allows(&ann, &act("get", "pods", "n", "a")));
        assert!(rbac.allows(&ann, &act("get", "x/scale", "n", "a")));
        assert!(!rbac.allows(&ann, &act("list", "pods", "n", "a")));
        assert!(!rbac.allows(&ann, &act("get", "pods", "n", "b")));
        assert!(!rbac.allows(&ann, &act("get", "pods", "m", "a")));
        assert!(!rbac.allows(&ann, &act("get", "secrets", "n", "a")));
        assert!(!rbac.allows(&User::anonymous(), &act("get", "pods", "n", "a")));
    }

    #[test]
    fn accounts_groups_and_paths() {
        let account = json!({"kind": "ServiceAccount", "name": "bot"});
        let rule = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        let bot = User::known("system:serviceaccount:n:bot".into(), String::new(), vec![]);
        assert!(authorizer("n", account, rule).allows(&bot, &act("get", "pods", "n", "")));
        let group = json!({"kind": "Group", "name": "system:authenticated"});
        let rule = json!({"nonResourceURLs": ["/api/*", "/version"], "verbs": ["get"]});
        let rbac = authorizer("", group, rule);
        let path = |path: &str| Act { verb: "get".into(), path: path.into(), ..Act::default() };
        assert!(rbac.allows(&bot, &path("/api/v1")) && rbac.allows(&bot, &path("/version")));
        assert!(!rbac.allows(&bot, &path("/metrics")));
    }
}
