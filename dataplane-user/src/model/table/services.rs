//! Services come, change and go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::{ServiceTable, records::ServiceRecord};
use crate::model::{
    claims::{ClaimKey, Dispute},
    object::{Kind, ObjectName, ObjectRef},
    problem::{Problem, Report},
    read::{Reading, read_service},
    spec::{FAMILIES, ServiceSpec},
};

impl ServiceTable {
    pub(super) fn put_service(&mut self, object: &Service, file: Option<Arc<str>>) -> Vec<Problem> {
        let (meta, kind) = (&object.metadata, Kind::Service);
        let (namespace, name) = (meta.namespace.as_ref(), meta.name.as_ref());
        let name = match self.name(kind, namespace, name, file.as_ref()) {
            Ok(name) => name,
            Err(problem) => return vec![*problem],
        };
        let id = self.service_record(&name);
        let object_ref = ObjectRef { kind, name };
        let mut report = Report::new(&object_ref, file.as_ref());
        let reading = read_service(object, &self.node.node_ports, &mut self.names, &mut report);
        self.keep_file(&object_ref, file);
        if let Some(record) = self.services.get_mut(id) {
            record.known = true;
            record.list = self.lists[kind as usize];
        }
        let disputes = match reading {
            Reading::Usable(spec) => self.set_service(id, Some(spec)),
            Reading::Ignored => self.set_service(id, None),
            Reading::Unusable => Vec::new(),
        };
        let mut problems = self.keep_problems(object_ref, report);
        problems.extend(disputes.into_iter().filter_map(|(key, dispute)| self.taken(key, dispute)));
        problems
    }

    pub(super) fn drop_service(&mut self, id: u32) {
        self.set_service(id, None);
        let Some(record) = self.services.get_mut(id) else { return };
        record.known = false;
        let object = record.reference();
        self.files.remove(&object);
        self.forget_if_empty(id);
    }

    /// The record of a Service, made if there is none.
    pub(super) fn service_record(&mut self, name: &ObjectName) -> u32 {
        self.services
            .find((&name.namespace, &name.name))
            .unwrap_or_else(|| self.services.insert(ServiceRecord::new(name.clone())))
    }

    pub(super) fn forget_if_empty(&mut self, id: u32) {
        if self.services.get(id).is_some_and(|record| !record.known && record.slices.is_empty()) {
            self.services.remove(id);
        }
    }

    /// Changes what is kept of a Service, and who has which frontend address.
    fn set_service(&mut self, id: u32, spec: Option<ServiceSpec>) -> Vec<(ClaimKey, Dispute)> {
        let Some(record) = self.services.get_mut(id).filter(|record| record.spec != spec) else {
            return Vec::new();
        };
        record.mark(FAMILIES, &mut self.changed);
        let before = (record.rank(id), record.claims());
        let health_port =
            |record: &ServiceRecord| record.spec.as_ref().map_or(0, ServiceSpec::health_port);
        let was_checked = health_port(record) != 0;
        record.spec = spec;
        record.mark(FAMILIES, &mut self.changed);
        let now = (record.rank(id), record.claims());
        if health_port(record) != 0 {
            self.health_checked.insert(id);
            self.health_version += 1;
        } else if was_checked {
            self.health_checked.remove(&id);
            self.health_version += 1;
        }
        self.reclaim(&before, &now)
    }
}
