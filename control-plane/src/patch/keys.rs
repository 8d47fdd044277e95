//! How lists of maps are merged: by which field, for the paths where upstream's types say so.
//!
//! Facts from the types' `patchStrategy` and `patchMergeKey` tags (Kubernetes 1.36), by the path of
//! field names from a pod's spec, and by the field elsewhere.

/// What becomes of a list in a strategic merge patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// The patch's list replaces the object's.
    Atomic,
    /// Maps are merged with those that have the same value of this field.
    ByKey(&'static str),
    /// Values are added if they are not there.
    Set,
}

/// Where a list stands: the field that holds it, and the field around that.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Kind of the object.
    pub kind: &'a str,
    /// Field around the list; empty at the top.
    pub around: &'a str,
    /// Field of the list.
    pub field: &'a str,
}

/// Lists of maps by field, and by the field around where that decides (`*`: anywhere).
const LISTS: &[(&str, &str, Merge)] = &[
    ("*", "containers", Merge::ByKey("name")),
    ("*", "initContainers", Merge::ByKey("name")),
    ("*", "ephemeralContainers", Merge::ByKey("name")),
    ("*", "env", Merge::ByKey("name")),
    ("*", "volumeMounts", Merge::ByKey("mountPath")),
    ("*", "volumeDevices", Merge::ByKey("devicePath")),
    ("*", "volumes", Merge::ByKey("name")),
    ("*", "imagePullSecrets", Merge::ByKey("name")),
    ("*", "hostAliases", Merge::ByKey("ip")),
    ("*", "topologySpreadConstraints", Merge::ByKey("topologyKey")),
    ("*", "schedulingGates", Merge::ByKey("name")),
    ("*", "resourceClaims", Merge::ByKey("name")),
    ("*", "conditions", Merge::ByKey("type")),
    ("*", "podIPs", Merge::ByKey("ip")),
    ("*", "hostIPs", Merge::ByKey("ip")),
    ("*", "ownerReferences", Merge::ByKey("uid")),
    ("*", "finalizers", Merge::Set),
    ("sources", "sources", Merge::Atomic),
    ("status", "addresses", Merge::ByKey("type")),
    ("status", "volumesAttached", Merge::Atomic),
    ("spec", "taints", Merge::Atomic),
    ("spec", "podCIDRs", Merge::Set),
];

/// What becomes of a list there.
pub fn merge_of(place: Place<'_>) -> Merge {
    match (place.kind, place.around, place.field) {
        // A container's ports are told apart by their number, a Service's too, under another name.
        ("Service", "spec", "ports") => Merge::ByKey("port"),
        ("ServiceAccount", "", "secrets") => Merge::ByKey("name"),
        ("PodDisruptionBudget" | "CustomResourceDefinition", "status", "conditions") => {
            Merge::ByKey("type")
        }
        (_, "containers" | "initContainers" | "ephemeralContainers", "ports") => {
            Merge::ByKey("containerPort")
        }
        (_, around, field) => LISTS
            .iter()
            .find(|(at, name, _)| *name == field && (*at == "*" || *at == around))
            .map_or(Merge::Atomic, |(.., merge)| *merge),
    }
}
