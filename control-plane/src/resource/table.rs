//! The table of kinds.

use super::{Part, Resource, Verbs};
use crate::{columns, rules};

const ITEM: &[&str] = &["get", "patch", "update"];

const fn part(name: &'static str, verbs: &'static [&'static str]) -> Part {
    Part { name, group: "", version: "", kind: "", verbs }
}

const fn part_of(
    name: &'static str,
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
) -> Part {
    Part { name, group, version, kind, verbs }
}

const STATUS: Part = part("status", ITEM);
const SCALE: Part = part_of("scale", "autoscaling", "v1", "Scale", ITEM);
const CONNECT: &[&str] = &["create", "get"];
const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// An entry with what most kinds have.
const fn of(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource {
        group,
        version,
        kind,
        plural,
        singular,
        short: &[],
        categories: &[],
        namespaced: true,
        verbs: Verbs::All,
        parts: &[],
        fields: &[],
        has_generation: false,
        rules: rules::NONE,
        columns: columns::NAME_AND_AGE,
    }
}

const CORE: &str = "";
const APPS: &str = "apps";
const RBAC: &str = "rbac.authorization.k8s.io";
const ALL: &[&str] = &["all"];

const fn review(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
) -> Resource {
    Resource {
        namespaced: false,
        verbs: Verbs::CreateOnly,
        ..of(group, "v1", kind, plural, singular)
    }
}

/// Every kind that the server knows.
pub static RESOURCES: &[Resource] = &[
    Resource {
        namespaced: false,
        parts: &[STATUS, part("finalize", &["update"])],
        short: &["ns"],
        fields: &["status.phase"],
        columns: columns::cluster::NAMESPACE,
        rules: rules::others::NAMESPACE,
        ..of(CORE, "v1", "Namespace", "namespaces", "namespace")
    },
    Resource {
        namespaced: false,
        short: &["no"],
        parts: &[STATUS, part_of("proxy", "", "", "NodeProxyOptions", PROXY)],
        fields: &["spec.unschedulable"],
        columns: columns::cluster::NODE,
        rules: rules::others::NODE,
        ..of(CORE, "v1", "Node", "nodes", "node")
    },
    Resource {
        short: &["po"],
        categories: ALL,
        parts: &[
            STATUS,
            part_of("binding", "", "v1", "Binding", &["create"]),
            part_of("eviction", "policy", "v1", "Eviction", &["create"]),
            part("ephemeralcontainers", ITEM),
            part("resize", ITEM),
            part("log", &["get"]),
            part_of("exec", "", "", "PodExecOptions", CONNECT),
            part_of("attach", "", "", "PodAttachOptions", CONNECT),
            part_of("portforward", "", "", "PodPortForwardOptions", CONNECT),
            part_of("proxy", "", "", "PodProxyOptions", PROXY),
        ],
        fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ],
        has_generation: true,
        columns: columns::pods::POD,
        rules: rules::pods::POD,
        ..of(CORE, "v1", "Pod", "pods", "pod")
    },
    Resource {
        short: &["svc"],
        categories: ALL,
        parts: &[STATUS, part_of("proxy", "", "", "ServiceProxyOptions", PROXY)],
        fields: &["spec.clusterIP", "spec.type"],
        columns: columns::network::SERVICE,
        rules: rules::services::SERVICE,
        ..of(CORE, "v1", "Service", "services", "service")
    },
    Resource {
        short: &["ep"],
        columns: columns::network::ENDPOINTS,
        rules: rules::services::ENDPOINTS,
        ..of(CORE, "v1", "Endpoints", "endpoints", "endpoints")
    },
    Resource {
        short: &["cm"],
        columns: columns::cluster::CONFIG_MAP,
        rules: rules::others::CONFIG_MAP,
        ..of(CORE, "v1", "ConfigMap", "configmaps", "configmap")
    },
    Resource {
        fields: &["type"],
        columns: columns::cluster::SECRET,
        rules: rules::others::SECRET,
        ..of(CORE, "v1", "Secret", "secrets", "secret")
    },
    Resource {
        short: &["ev"],
        fields: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        columns: columns::events::EVENT,
        rules: rules::others::NAMED,
        ..of(CORE, "v1", "Event", "events", "event")
    },
    Resource {
        short: &["sa"],
        parts: &[part_of("token", "authentication.k8s.io", "v1", "TokenRequest", &["create"])],
        columns: columns::cluster::ACCOUNT,
        rules: rules::others::ACCOUNT,
        ..of(CORE, "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
    },
    Resource {
        short: &["rc"],
        categories: ALL,
        parts: &[STATUS, SCALE],
        fields: &["status.replicas"],
        has_generation: true,
        columns: columns::workloads::REPLICATION_CONTROLLER,
        rules: rules::workloads::REPLICATION_CONTROLLER,
        ..of(CORE, "v1", "ReplicationController", "replicationcontrollers", "replicationcontroller")
    },
    Resource {
        columns: columns::pods::TEMPLATE,
        rules: rules::pods::TEMPLATE,
        ..of(CORE, "v1", "PodTemplate", "podtemplates", "podtemplate")
    },
    Resource {
        short: &["limits"],
        rules: rules::limits::LIMIT_RANGE,
        ..of(CORE, "v1", "LimitRange", "limitranges", "limitrange")
    },
    Resource {
        short: &["deploy"],
        categories: ALL,
        parts: &[STATUS, SCALE],
        has_generation: true,
        columns: columns::workloads::DEPLOYMENT,
        rules: rules::workloads::DEPLOYMENT,
        ..of(APPS, "v1", "Deployment", "deployments", "deployment")
    },
    Resource {
        short: &["rs"],
        categories: ALL,
        parts: &[STATUS, SCALE],
        fields: &["status.replicas"],
        has_generation: true,
        columns: columns::workloads::REPLICA_SET,
        rules: rules::workloads::REPLICA_SET,
        ..of(APPS, "v1", "ReplicaSet", "replicasets", "replicaset")
    },
    Resource {
        has_generation: true,
        columns: columns::network::SLICE,
        rules: rules::services::SLICE,
        ..of("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice")
    },
    Resource {
        columns: columns::cluster::LEASE,
        rules: rules::others::LEASE,
        ..of("coordination.k8s.io", "v1", "Lease", "leases", "lease")
    },
    Resource {
        short: &["pdb"],
        parts: &[STATUS],
        has_generation: true,
        columns: columns::workloads::BUDGET,
        rules: rules::workloads::BUDGET,
        ..of("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", "poddisruptionbudget")
    },
    Resource {
        namespaced: false,
        parts: &[STATUS],
        columns: columns::network::NETWORK,
        ..of("networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs", "servicecidr")
    },
    Resource {
        namespaced: false,
        short: &["ip"],
        fields: &["spec.parentRef.name", "spec.parentRef.namespace", "spec.parentRef.resource"],
        columns: columns::network::ADDRESS,
        ..of("networking.k8s.io", "v1", "IPAddress", "ipaddresses", "ipaddress")
    },
    Resource { rules: rules::others::ROLE, ..of(RBAC, "v1", "Role", "roles", "role") },
    Resource {
        columns: columns::access::BINDING,
        rules: rules::others::ROLE_BINDING,
        ..of(RBAC, "v1", "RoleBinding", "rolebindings", "rolebinding")
    },
    Resource {
        namespaced: false,
        rules: rules::others::CLUSTER_ROLE,
        ..of(RBAC, "v1", "ClusterRole", "clusterroles", "clusterrole")
    },
    Resource {
        namespaced: false,
        columns: columns::access::BINDING,
        rules: rules::others::CLUSTER_ROLE_BINDING,
        ..of(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding")
    },
    Resource {
        namespaced: false,
        short: &["pc"],
        columns: columns::cluster::PRIORITY,
        rules: rules::others::PRIORITY,
        ..of("scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses", "priorityclass")
    },
    review("authentication.k8s.io", "TokenReview", "tokenreviews", "tokenreview"),
    review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview"),
    review(
        "authorization.k8s.io",
        "SubjectAccessReview",
        "subjectaccessreviews",
        "subjectaccessreview",
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        "selfsubjectaccessreview",
    ),
    review(
        "authorization.k8s.io",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        "selfsubjectrulesreview",
    ),
    Resource {
        namespaced: true,
        ..review(
            "authorization.k8s.io",
            "LocalSubjectAccessReview",
            "localsubjectaccessreviews",
            "localsubjectaccessreview",
        )
    },
    Resource {
        namespaced: false,
        verbs: Verbs::ReadOnly,
        ..of("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", "")
    },
    Resource {
        verbs: Verbs::ReadOnly,
        ..of("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", "")
    },
];
