//! The node's own object says in which zone it is.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use super::ServiceTable;
use crate::model::{
    object::{Kind, ObjectName, ObjectRef},
    problem::{Cause, Problem},
    spec::{Distribution, FAMILIES},
};

/// The label with a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

impl ServiceTable {
    pub(super) fn put_node(&mut self, object: &Node, file: Option<Arc<str>>) -> Vec<Problem> {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if name.is_empty() {
            let object = ObjectRef { kind: Kind::Node, name: ObjectName::new("", "") };
            return vec![Problem {
                file,
                object,
                field: "metadata.name".into(),
                cause: Cause::Empty,
            }];
        }
        if name != &*self.node.name {
            return Vec::new();
        }
        self.node_list = self.lists[Kind::Node as usize];
        let labels = object.metadata.labels.as_ref();
        let zone = labels.and_then(|labels| labels.get(ZONE_LABEL));
        let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| self.names.get(zone.as_str()));
        self.set_zone(zone.or_else(|| self.zone_default.clone()));
        Vec::new()
    }

    pub(super) fn drop_node(&mut self) {
        self.set_zone(self.zone_default.clone());
    }

    /// Marks every service port for which the zone decides.
    fn set_zone(&mut self, zone: Option<Arc<str>>) {
        if self.node.zone == zone {
            return;
        }
        self.zone = self.words.zone(zone.as_deref());
        self.node.zone = zone;
        for (_, record) in self.services.iter() {
            match record.spec.as_ref().map(|spec| spec.distribution) {
                None => {}
                Some(Distribution::SameZone | Distribution::SameNode) => {
                    record.mark(FAMILIES, &mut self.changed);
                }
                Some(Distribution::Anywhere) => {
                    let slices = record.slices.iter().filter_map(|id| self.slices.get(*id));
                    let hinted = slices.filter(|slice| slice.spec.has_zone_hints());
                    let families = hinted.map(|slice| slice.spec.addresses.family());
                    record.mark(families, &mut self.changed);
                }
            }
        }
    }
}
