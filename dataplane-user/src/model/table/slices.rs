//! Slices come, change and go.

use std::sync::Arc;

use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::{ServiceTable, records::SliceRecord};
use crate::model::{
    object::{Kind, ObjectName, ObjectRef},
    problem::{Cause, Problem, Report},
    read::{Reading, read_slice},
    slice::SliceSpec,
};

impl ServiceTable {
    pub(super) fn put_slice(
        &mut self,
        object: &EndpointSlice,
        file: Option<Arc<str>>,
    ) -> Vec<Problem> {
        let (meta, kind) = (&object.metadata, Kind::EndpointSlice);
        let (namespace, name) = (meta.namespace.as_ref(), meta.name.as_ref());
        let name = match self.name(kind, namespace, name, file.as_ref()) {
            Ok(name) => name,
            Err(problem) => return vec![*problem],
        };
        let object_ref = ObjectRef { kind, name };
        let mut report = Report::new(&object_ref, file.as_ref());
        let (names, words) = (&mut self.names, &mut self.words);
        let reading = read_slice(object, &self.node.name, names, words, &mut report);
        self.keep_file(&object_ref, file);
        let name = &object_ref.name;
        let known = self.slices.find((&name.namespace, &name.name));
        if let Some(record) = known.and_then(|id| self.slices.get_mut(id)) {
            record.list = self.lists[kind as usize];
        }
        let orphan = match (reading, known) {
            (Reading::Usable((service, spec)), _) => self.set_slice(name, service, spec, known),
            (Reading::Ignored, Some(id)) => {
                self.drop_slice(id);
                None
            }
            (Reading::Ignored, None) | (Reading::Unusable, _) => None,
        };
        let mut problems = self.keep_problems(object_ref, report);
        problems.extend(orphan);
        problems
    }

    /// Stores a slice under its Service; a problem if that is not there.
    fn set_slice(
        &mut self,
        name: &ObjectName,
        service: &str,
        spec: SliceSpec,
        known: Option<u32>,
    ) -> Option<Problem> {
        let service_name = ObjectName { namespace: name.namespace.clone(), name: service.into() };
        let owner = self.service_record(&service_name);
        let stays = known.filter(|id| self.slices.get(*id).is_some_and(|at| at.service == owner));
        if let (Some(old), None) = (known, stays) {
            self.remove_slice(old);
        }
        let mut families = vec![spec.addresses.family()];
        let id = if let Some(record) = stays.and_then(|id| self.slices.get_mut(id)) {
            if record.spec == spec {
                families.clear();
            } else {
                families.push(record.spec.addresses.family());
                record.spec = spec;
            }
            stays
        } else {
            let id = self.slices.insert(SliceRecord {
                namespace: name.namespace.clone(),
                name: (*name.name).into(),
                service: owner,
                list: self.lists[Kind::EndpointSlice as usize],
                spec,
            });
            if let Some(record) = self.services.get_mut(owner) {
                record.add_slice(id);
            }
            Some(id)
        };
        if !families.is_empty() && self.health_checked.contains(&owner) {
            self.health_version += 1;
        }
        let record = self.services.get(owner)?;
        record.mark(families, &mut self.changed);
        let reported = self.synced && !record.known;
        reported.then(|| self.slices.get(id?).map(|slice| self.orphan(slice, record))).flatten()
    }

    pub(super) fn drop_slice(&mut self, id: u32) {
        let Some(object) = self.slices.get(id).map(SliceRecord::reference) else { return };
        self.files.remove(&object);
        self.remove_slice(id);
    }

    /// The slice leaves its Service.
    fn remove_slice(&mut self, id: u32) {
        let Some(slice) = self.slices.remove(id) else { return };
        let Some(service) = self.services.get_mut(slice.service) else { return };
        service.remove_slice(id);
        service.mark([slice.spec.addresses.family()], &mut self.changed);
        if self.health_checked.contains(&slice.service) {
            self.health_version += 1;
        }
        self.forget_if_empty(slice.service);
    }

    /// Every slice whose Service is not there.
    pub(super) fn orphans(&self) -> impl Iterator<Item = Problem> {
        self.slices.iter().filter_map(|(_, slice)| {
            let service = self.services.get(slice.service)?;
            (!service.known).then(|| self.orphan(slice, service))
        })
    }

    fn orphan(&self, slice: &SliceRecord, service: &super::ServiceRecord) -> Problem {
        let object = slice.reference();
        Problem {
            file: self.files.get(&object).cloned(),
            object,
            field: "metadata.labels[kubernetes.io/service-name]".into(),
            cause: Cause::NoSuchService(service.name.name.clone()),
        }
    }
}
