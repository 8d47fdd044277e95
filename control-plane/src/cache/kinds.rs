//! The kinds of objects that controllers read and write.

use crate::client::Kind;

macro_rules! kinds {
    ($($name:ident = $group:literal $version:literal $kind:literal $plural:literal;)*) => {
        $(
            #[doc = concat!("`", $plural, "`.")]
            pub const $name: Kind = Kind { group: $group, plural: $plural };
        )*

        /// Every kind that is known here, with its `apiVersion` and `kind`.
        const ALL: &[(Kind, &str, &str, &str)] = &[$(($name, $group, $version, $kind),)*];
    };
}

kinds! {
    PODS = "" "v1" "Pod" "pods";
    NODES = "" "v1" "Node" "nodes";
    SERVICES = "" "v1" "Service" "services";
    ENDPOINTS = "" "v1" "Endpoints" "endpoints";
    NAMESPACES = "" "v1" "Namespace" "namespaces";
    CONFIG_MAPS = "" "v1" "ConfigMap" "configmaps";
    SECRETS = "" "v1" "Secret" "secrets";
    EVENTS = "" "v1" "Event" "events";
    SERVICE_ACCOUNTS = "" "v1" "ServiceAccount" "serviceaccounts";
    REPLICATION_CONTROLLERS = "" "v1" "ReplicationController" "replicationcontrollers";
    POD_TEMPLATES = "" "v1" "PodTemplate" "podtemplates";
    LIMIT_RANGES = "" "v1" "LimitRange" "limitranges";
    DEPLOYMENTS = "apps" "v1" "Deployment" "deployments";
    REPLICA_SETS = "apps" "v1" "ReplicaSet" "replicasets";
    SLICES = "discovery.k8s.io" "v1" "EndpointSlice" "endpointslices";
    LEASES = "coordination.k8s.io" "v1" "Lease" "leases";
    BUDGETS = "policy" "v1" "PodDisruptionBudget" "poddisruptionbudgets";
    PRIORITIES = "scheduling.k8s.io" "v1" "PriorityClass" "priorityclasses";
    ROLES = "rbac.authorization.k8s.io" "v1" "Role" "roles";
    ROLE_BINDINGS = "rbac.authorization.k8s.io" "v1" "RoleBinding" "rolebindings";
}

/// `apiVersion` and `kind` of a kind.
pub fn names(kind: Kind) -> (String, &'static str) {
    let found = ALL.iter().find(|(known, ..)| *known == kind);
    found.map_or((String::new(), ""), |(_, group, version, name)| {
        let api_version =
            if group.is_empty() { (*version).to_owned() } else { format!("{group}/{version}") };
        (api_version, *name)
    })
}

/// The kind that an `apiVersion` and a `kind` name, if it is known here.
pub fn find(api_version: &str, name: &str) -> Option<Kind> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    ALL.iter().find(|(_, known, _, kind)| *known == group && *kind == name).map(|(kind, ..)| *kind)
}

/// Kinds whose objects live in namespaces, but for Events, of which there are too many to know them.
pub const NAMESPACED: &[Kind] = &[
    PODS,
    DEPLOYMENTS,
    REPLICA_SETS,
    REPLICATION_CONTROLLERS,
    SERVICES,
    SLICES,
    ENDPOINTS,
    BUDGETS,
    LEASES,
    POD_TEMPLATES,
    LIMIT_RANGES,
    CONFIG_MAPS,
    SECRETS,
    SERVICE_ACCOUNTS,
    ROLES,
    ROLE_BINDINGS,
];
