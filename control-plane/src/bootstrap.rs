//! What every cluster has: its first namespaces, the `kubernetes` Service, roles.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::{
    api::status::{Failure, Reason},
    object,
    registry::{Delete, Networks, Part, Registry, Scope},
    resource::{self, Resource},
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The Service of cluster DNS, as upstream names it.
const DNS: &str = "kube-dns";
/// Where nodes answer; 53 may be taken on a node.
const DNS_PORT: u16 = 10_053;
const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Creates what is missing; what is there stays as people have changed it.
pub async fn run(registry: &Registry) -> Result<(), Failure> {
    for name in NAMESPACES {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        ensure(registry, namespace).await?;
    }
    for role in roles() {
        ensure(registry, role).await?;
    }
    for object in bindings() {
        ensure(registry, object).await?;
    }
    Ok(())
}

/// Keeps the `kubernetes` Service, behind which pods find this server.
pub async fn kubernetes(
    registry: &Registry,
    networks: &Networks,
    advertised: Option<SocketAddr>,
) -> Result<(), Failure> {
    let port = json!([{"name": "https", "port": 443, "protocol": "TCP", "targetPort": advertised.map_or(6443, |it| it.port())}]);
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": networks.first_address(), "sessionAffinity": "None",
            "ports": port,
        },
    });
    replace(registry, service, "spec", &["ports"]).await?;
    let Some(address) = advertised else { return Ok(()) };
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let ports = json!([{"name": "https", "port": address.port(), "protocol": "TCP"}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": [{"ip": address.ip()}], "ports": ports}],
    });
    replace(registry, endpoints, "", &["subsets"]).await?;
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        "ports": ports,
    });
    if let Err(failure) = replace(registry, slice.clone(), "", &["endpoints", "ports"]).await {
        // The type of a slice's addresses never changes: another family is another object.
        tracing::debug!(?failure, "the slice of the kubernetes Service is made anew");
        let scope = Scope::new(known(&slice)?, "default");
        registry.delete(&scope, "kubernetes", &Delete::default()).await?;
        ensure(registry, slice).await?;
    }
    Ok(())
}

/// Keeps the `kube-dns` Service, by which pods find names; each node answers for its own pods.
pub async fn names(registry: &Registry, addresses: &[IpAddr]) -> Result<(), Failure> {
    let Some(first) = addresses.first() else { return Ok(()) };
    let families: Vec<&str> =
        addresses.iter().map(|it| if it.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
    let port = |name: &str, protocol: &str, port: u16, target: u16| json!({"name": name, "protocol": protocol, "port": port, "targetPort": target});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": DNS, "namespace": "kube-system",
            "labels": {
                "k8s-app": DNS, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            },
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": first, "clusterIPs": addresses, "sessionAffinity": "None",
            "ipFamilies": families,
            "ipFamilyPolicy": if addresses.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "internalTrafficPolicy": "Local",
            "ports": [port("dns", "UDP", 53, DNS_PORT), port("dns-tcp", "TCP", 53, DNS_PORT)],
        },
    });
    ensure(registry, service).await
}

/// Creates an object, or gives the one of its name these fields.
async fn replace(
    registry: &Registry,
    object: Value,
    under: &str,
    fields: &[&str],
) -> Result<(), Failure> {
    let path: &[&str] = if under.is_empty() { &[] } else { &[under] };
    ensure(registry, object.clone()).await?;
    let namespace = object::namespace(&object).to_owned();
    let scope = Scope::new(known(&object)?, &namespace);
    let change = |old: &Value| {
        let mut new = old.clone();
        for field in fields {
            let value = object::at(&object, &[path, &[field]].concat()).cloned();
            object::map(&mut new, path).insert((*field).to_owned(), value.unwrap_or_default());
        }
        if object["addressType"] != old["addressType"] {
            new["addressType"] = object["addressType"].clone();
        }
        Ok(new)
    };
    registry.change(&scope, object::name(&object), Part::Object, &change).await.map(drop)
}

fn known(object: &Value) -> Result<&'static Resource, Failure> {
    let (version, kind) = (object::text(object, &["apiVersion"]), object::text(object, &["kind"]));
    let words = || format!("there is no kind {kind} in {version}");
    resource::by_kind(version, kind).ok_or_else(|| Failure::new(Reason::InternalError, words()))
}

/// Creates an object unless there is one of its name.
pub async fn ensure(registry: &Registry, object: Value) -> Result<(), Failure> {
    let resource = known(&object)?;
    let namespace = object::namespace(&object).to_owned();
    let scope = Scope::new(resource, &namespace);
    match registry.entry(&scope, object::name(&object)).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.reason() == Reason::NotFound => {
            match registry.create(&scope, object, true).await {
                Err(failure) if failure.reason() != Reason::AlreadyExists => Err(failure),
                Ok(_) | Err(_) => Ok(()),
            }
        }
        Err(failure) => Err(failure),
    }
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn role(name: &str, rules: &[Value]) -> Value {
    let labels = json!({"kubernetes.io/bootstrapping": "rbac-defaults"});
    json!({
        "apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": name, "labels": labels}, "rules": rules,
    })
}

fn roles() -> Vec<Value> {
    const READ: &[&str] = &["get", "list", "watch"];
    const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
    let core = [
        "configmaps",
        "endpoints",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "replicationcontrollers/scale",
        "serviceaccounts",
        "services",
    ];
    let apps = ["deployments", "deployments/scale", "replicasets", "replicasets/scale"];
    let extra =
        ["events", "limitranges", "namespaces", "pods/log", "pods/status", "services/status"];
    let parts =
        ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "services/proxy", "secrets"];
    let view = vec![
        rule(&[""], &core, READ),
        rule(&[""], &extra, READ),
        rule(&["apps"], &apps, READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["policy"], &["poddisruptionbudgets"], READ),
        rule(&["metrics.k8s.io"], &["pods"], READ),
    ];
    let mut edit = view.clone();
    edit.extend([
        rule(&[""], &core, WRITE),
        rule(
            &[""],
            &parts,
            &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
        ),
        rule(&[""], &["pods/eviction"], &["create"]),
        rule(&["apps"], &apps, WRITE),
        rule(&["policy"], &["poddisruptionbudgets"], WRITE),
        rule(
            &["coordination.k8s.io"],
            &["leases"],
            &["create", "delete", "get", "list", "patch", "update", "watch"],
        ),
    ]);
    let mut admin = edit.clone();
    admin.extend([
        rule(&["rbac.authorization.k8s.io"], &["roles", "rolebindings"], &["*"]),
        rule(&["authorization.k8s.io"], &["localsubjectaccessreviews"], &["create"]),
    ]);
    let paths = |paths: &[&str]| json!({"nonResourceURLs": paths, "verbs": ["get"]});
    vec![
        role(
            "cluster-admin",
            &[rule(&["*"], &["*"], &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})],
        ),
        role("admin", &admin),
        role("edit", &edit),
        role("view", &view),
        role(
            "system:discovery",
            &[paths(&[
                "/api",
                "/api/*",
                "/apis",
                "/apis/*",
                "/openapi",
                "/openapi/*",
                "/version",
                "/version/",
            ])],
        ),
        role(
            "system:public-info-viewer",
            &[paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])],
        ),
        role(
            "system:basic-user",
            &[
                rule(
                    &["authorization.k8s.io"],
                    &["selfsubjectaccessreviews", "selfsubjectrulesreviews"],
                    &["create"],
                ),
                rule(&["authentication.k8s.io"], &["selfsubjectreviews"], &["create"]),
            ],
        ),
        role(
            "system:node",
            &[
                rule(
                    &[""],
                    &[
                        "services",
                        "endpoints",
                        "configmaps",
                        "secrets",
                        "nodes",
                        "pods",
                        "namespaces",
                    ],
                    READ,
                ),
                rule(&["discovery.k8s.io"], &["endpointslices"], READ),
                rule(&[""], &["nodes", "nodes/status"], &["create", "patch", "update"]),
                rule(&[""], &["pods"], &["create", "delete"]),
                rule(&[""], &["pods/status"], &["patch", "update"]),
                rule(&[""], &["pods/eviction"], &["create"]),
                rule(&[""], &["services/status"], &["patch", "update"]),
                rule(&["", "events.k8s.io"], &["events"], &["create", "patch", "update"]),
                rule(
                    &["coordination.k8s.io"],
                    &["leases"],
                    &["create", "delete", "get", "patch", "update"],
                ),
                rule(&[""], &["serviceaccounts/token"], &["create"]),
                rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
                rule(&["authorization.k8s.io"], &["subjectaccessreviews"], &["create"]),
            ],
        ),
        // Beyond what nodes do upstream: each serves cluster DNS, and says so itself.
        role(
            "hashplane:node",
            &[
                rule(
                    &["discovery.k8s.io"],
                    &["endpointslices"],
                    &["create", "delete", "patch", "update"],
                ),
                rule(&[""], &["services/status"], &["patch", "update"]),
            ],
        ),
    ]
}

fn bindings() -> Vec<Value> {
    let of = |role: &str, group: &str| {
        json!({
            "apiVersion": RBAC, "kind": "ClusterRoleBinding",
            "metadata": {"name": role, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        })
    };
    vec![
        of("cluster-admin", "system:masters"),
        of("system:discovery", "system:authenticated"),
        of("system:basic-user", "system:authenticated"),
        of("system:public-info-viewer", "system:authenticated"),
        of("system:node", "system:nodes"),
        of("hashplane:node", "system:nodes"),
    ]
}
