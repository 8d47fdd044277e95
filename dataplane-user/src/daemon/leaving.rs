//! Whether this node is about to be deleted, as kube-proxy judges it (KEP-3836).

use k8s_openapi::api::core::v1::Node;

use crate::model::{Kind, ObjectEvent};

/// The cluster autoscaler's mark on a node that it is about to delete.
const TAINT_TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What an event says about the node of this name, if anything. A Node that is gone says nothing
/// any more: whoever deleted it also knows.
pub fn told(event: &ObjectEvent, ours: &str) -> Option<bool> {
    match event {
        ObjectEvent::Node { object, .. } => {
            (object.metadata.name.as_deref() == Some(ours)).then(|| is_leaving(object))
        }
        ObjectEvent::Gone(object) => {
            (object.kind == Kind::Node && &*object.name.name == ours).then_some(false)
        }
        ObjectEvent::Service { .. }
        | ObjectEvent::EndpointSlice { .. }
        | ObjectEvent::Pod { .. }
        | ObjectEvent::ListBegin(_)
        | ObjectEvent::ListEnd(_)
        | ObjectEvent::Synced => None,
    }
}

fn is_leaving(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let is_tainted = { taints }.any(|taint| taint.key == TAINT_TO_BE_DELETED);
    node.metadata.deletion_timestamp.is_some() || is_tainted
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{ObjectName, ObjectRef};

    fn node(name: &str, rest: &Value) -> ObjectEvent {
        let mut object = json!({"metadata": {"name": name}});
        object.as_object_mut().unwrap().extend(rest.as_object().cloned().unwrap());
        ObjectEvent::Node { object: serde_json::from_value(object).unwrap(), file: None }
    }

    #[test]
    fn a_node_leaves_when_it_is_deleted_or_the_autoscaler_has_marked_it() {
        let taints = |key| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        let deleted = "2026-01-01T00:00:00Z";
        let deleted = json!({"metadata": {"name": "here", "deletionTimestamp": deleted}});
        let gone = ObjectRef { kind: Kind::Node, name: ObjectName::new("", "here") };
        for (event, expected) in [
            (node("here", &json!({})), Some(false)),
            (node("there", &taints(TAINT_TO_BE_DELETED)), None),
            (node("here", &taints("node.kubernetes.io/not-ready")), Some(false)),
            (node("here", &taints(TAINT_TO_BE_DELETED)), Some(true)),
            (node("here", &deleted), Some(true)),
            (ObjectEvent::Gone(gone), Some(false)),
            (ObjectEvent::Synced, None),
        ] {
            assert_eq!(told(&event, "here"), expected, "{event:?}");
        }
    }
}
