//! Pods with host ports come, change and go.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{ServiceTable, records::PodRecord};
use crate::model::{
    claims::{ClaimKey, Dispute},
    object::{Kind, ObjectName, ObjectRef},
    problem::{Problem, Report},
    read::{Reading, read_pod},
    spec::PodSpec,
};

impl ServiceTable {
    pub(super) fn put_pod(&mut self, object: &Pod, file: Option<Arc<str>>) -> Vec<Problem> {
        let (meta, kind) = (&object.metadata, Kind::Pod);
        let (namespace, name) = (meta.namespace.as_ref(), meta.name.as_ref());
        let name = match self.name(kind, namespace, name, file.as_ref()) {
            Ok(name) => name,
            Err(problem) => return vec![*problem],
        };
        let object_ref = ObjectRef { kind, name };
        let mut report = Report::new(&object_ref, file.as_ref());
        let reading = read_pod(object, &self.node.name, &mut self.names, &mut report);
        let name = &object_ref.name;
        let known = self.pods.find((&name.namespace, &name.name));
        if let Some(record) = known.and_then(|id| self.pods.get_mut(id)) {
            record.list = self.lists[kind as usize];
        }
        // Most Pods have no host port, and leave nothing behind.
        let is_kept = match &reading {
            Reading::Ignored => false,
            Reading::Unusable => known.is_some(),
            Reading::Usable(_) => true,
        };
        self.keep_file(&object_ref, file.filter(|_| is_kept));
        let disputes = match (reading, known) {
            (Reading::Usable(spec), _) => self.set_pod(name, spec, known),
            (Reading::Ignored, Some(id)) => {
                self.drop_pod(id);
                Vec::new()
            }
            (Reading::Ignored, None) | (Reading::Unusable, _) => Vec::new(),
        };
        let mut problems = self.keep_problems(object_ref, report);
        problems.extend(disputes.into_iter().filter_map(|(key, dispute)| self.taken(key, dispute)));
        problems
    }

    fn set_pod(
        &mut self,
        name: &ObjectName,
        spec: PodSpec,
        known: Option<u32>,
    ) -> Vec<(ClaimKey, Dispute)> {
        let claims = |record: &PodRecord| record.ports().map(|(_, claim)| claim).collect();
        let (id, before) = match known.and_then(|id| Some((id, self.pods.get_mut(id)?))) {
            Some((_, record)) if record.spec == spec => return Vec::new(),
            Some((id, record)) => {
                record.mark(&mut self.changed);
                let before = (record.rank(id), claims(record));
                record.spec = spec;
                (id, Some(before))
            }
            None => {
                let list = self.lists[Kind::Pod as usize];
                (self.pods.insert(PodRecord { name: name.clone(), list, spec }), None)
            }
        };
        let Some(record) = self.pods.get(id) else { return Vec::new() };
        record.mark(&mut self.changed);
        let now = (record.rank(id), claims(record));
        let before = before.unwrap_or_else(|| (now.0.clone(), Vec::new()));
        self.reclaim(&before, &now)
    }

    pub(super) fn drop_pod(&mut self, id: u32) {
        let Some(record) = self.pods.remove(id) else { return };
        record.mark(&mut self.changed);
        self.files.remove(&record.reference());
        let (rank, claims) = (record.rank(id), record.ports().map(|(_, claim)| claim).collect());
        self.reclaim(&(rank.clone(), claims), &(rank, Vec::new()));
    }
}
