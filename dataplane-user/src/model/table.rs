//! The table: what Services and slices say, and which service ports that changed.

mod read_out;
mod records;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use self::records::{Changed, ServiceRecord, SliceRecord, rank};
use super::{
    claims::{ClaimKey, Claims, Dispute},
    identity::NodeIdentity,
    names::Names,
    object::{Kind, ObjectEvent, ObjectName, ObjectRef},
    problem::{Cause, Problem, Report},
    read::{Reading, read_service, read_slice},
    slab::Slab,
    spec::{FAMILIES, ServiceSpec, SliceSpec},
    types::{Family, PortKey},
};

/// What this node should do with service traffic, and what changed since a backend last asked.
#[derive(Debug)]
pub struct ServiceTable {
    node: NodeIdentity,
    names: Names,
    services: Slab<ServiceRecord>,
    slices: Slab<SliceRecord>,
    claims: Claims,
    changed: Changed,
    /// What is wrong with an object by itself, and in which list it was seen.
    problems: BTreeMap<ObjectRef, (u32, Box<[Problem]>)>,
    /// Number of the current list of each kind.
    lists: [u32; 4],
    synced: bool,
    /// Goes up when what [`Self::health_checks`] says may have changed.
    health_version: u64,
}

impl ServiceTable {
    /// An empty table for a node.
    pub fn new(node: NodeIdentity) -> Self {
        Self {
            node,
            names: Names::new(),
            services: Slab::new(),
            slices: Slab::new(),
            claims: Claims::default(),
            changed: Changed::default(),
            problems: BTreeMap::new(),
            lists: [0; 4],
            synced: false,
            health_version: 0,
        }
    }

    /// The node this table is for.
    pub fn node(&self) -> &NodeIdentity {
        &self.node
    }

    /// Whether the source has told everything once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Takes in what a source says, in O(what changed), and returns the problems that it brings.
    /// An object that cannot be used at all leaves its last good state in place.
    pub fn apply(&mut self, event: ObjectEvent) -> Vec<Problem> {
        match event {
            ObjectEvent::Service { object, file } => self.put_service(&object, file),
            ObjectEvent::EndpointSlice { object, file } => self.put_slice(&object, file),
            ObjectEvent::Pod { .. } | ObjectEvent::Node { .. } => Vec::new(),
            ObjectEvent::Gone(object) => {
                let key = (&*object.name.namespace, &*object.name.name);
                match object.kind {
                    Kind::Service => self.services.find(key).map(|id| self.drop_service(id)),
                    Kind::EndpointSlice => self.slices.find(key).map(|id| self.drop_slice(id)),
                    Kind::Pod | Kind::Node => None,
                };
                self.problems.remove(&object);
                Vec::new()
            }
            ObjectEvent::ListBegin(kind) => {
                let list = &mut self.lists[kind as usize];
                *list = list.wrapping_add(1);
                Vec::new()
            }
            ObjectEvent::ListEnd(kind) => {
                self.end_list(kind);
                Vec::new()
            }
            ObjectEvent::Synced => {
                self.synced = true;
                self.orphans().collect()
            }
        }
    }

    /// The node's addresses are now these; endpoints that are or were among them move.
    pub fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses: BTreeSet<IpAddr> = addresses.into_iter().collect();
        let before = std::mem::replace(&mut self.node.addresses, addresses);
        let moved: BTreeSet<IpAddr> =
            before.symmetric_difference(&self.node.addresses).copied().collect();
        if moved.is_empty() {
            return;
        }
        let (services, changed) = (&self.services, &mut self.changed);
        for (_, slice) in self.slices.iter() {
            let addresses = &slice.spec.addresses;
            if addresses.iter().any(|(address, _)| moved.contains(&address))
                && let Some(service) = services.get(slice.service)
            {
                service.mark([addresses.family()], changed);
            }
        }
    }

    /// The service ports whose state may differ from what it was at the last call.
    pub fn take_changed(&mut self) -> BTreeSet<PortKey> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    fn put_service(&mut self, object: &Service, file: Option<Arc<str>>) -> Vec<Problem> {
        let meta = &object.metadata;
        let name = match self.name(Kind::Service, meta.namespace.as_ref(), meta.name.as_ref()) {
            Ok(name) => name,
            Err(problem) => return vec![Problem { file, ..*problem }],
        };
        let id = self.service_record(&name);
        let mut report = Report::new(Kind::Service, &name, file.as_ref());
        let reading = read_service(object, &self.node.node_ports, &mut self.names, &mut report);
        if let Some(record) = self.services.get_mut(id) {
            record.known = true;
            record.list = self.lists[Kind::Service as usize];
            record.file = file.map(Box::new);
        }
        let disputes = match reading {
            Reading::Usable(spec) => self.set_spec(id, Some(spec)),
            Reading::Ignored => self.set_spec(id, None),
            Reading::Unusable => Vec::new(),
        };
        let mut problems = self.keep_problems(Kind::Service, name, report);
        problems.extend(disputes.into_iter().filter_map(|(key, dispute)| self.taken(key, dispute)));
        problems
    }

    fn put_slice(&mut self, object: &EndpointSlice, file: Option<Arc<str>>) -> Vec<Problem> {
        let meta = &object.metadata;
        let kind = Kind::EndpointSlice;
        let name = match self.name(kind, meta.namespace.as_ref(), meta.name.as_ref()) {
            Ok(name) => name,
            Err(problem) => return vec![Problem { file, ..*problem }],
        };
        let mut report = Report::new(kind, &name, file.as_ref());
        let reading = read_slice(object, &self.node.name, &mut self.names, &mut report);
        let known = self.slices.find((&name.namespace, &name.name));
        if let Some(record) = known.and_then(|id| self.slices.get_mut(id)) {
            record.list = self.lists[kind as usize];
        }
        let orphan = match (reading, known) {
            (Reading::Usable((service, spec)), _) => {
                self.set_slice(&name, service, spec, file, known)
            }
            (Reading::Ignored, Some(id)) => {
                self.drop_slice(id);
                None
            }
            (Reading::Ignored, None) | (Reading::Unusable, _) => None,
        };
        let mut problems = self.keep_problems(kind, name, report);
        problems.extend(orphan);
        problems
    }

    /// Stores a slice under its Service; a problem if that is not there.
    fn set_slice(
        &mut self,
        name: &ObjectName,
        service: &str,
        spec: SliceSpec,
        file: Option<Arc<str>>,
        known: Option<u32>,
    ) -> Option<Problem> {
        let service_name = ObjectName { namespace: name.namespace.clone(), name: service.into() };
        let owner = self.service_record(&service_name);
        let stays = known.filter(|id| self.slices.get(*id).is_some_and(|at| at.service == owner));
        if let (Some(old), None) = (known, stays) {
            self.drop_slice(old);
        }
        let mut families = vec![spec.addresses.family()];
        let id = if let Some(record) = stays.and_then(|id| self.slices.get_mut(id)) {
            record.file = file.map(Box::new);
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
                file: file.map(Box::new),
                spec,
            });
            if let Some(record) = self.services.get_mut(owner) {
                record.add_slice(id);
            }
            Some(id)
        };
        let record = self.services.get(owner)?;
        record.mark(families, &mut self.changed);
        let reported = self.synced && !record.known;
        reported.then(|| self.slices.get(id?).map(|slice| slice.orphan(&record.name))).flatten()
    }

    fn drop_slice(&mut self, id: u32) {
        let Some(slice) = self.slices.remove(id) else { return };
        let Some(service) = self.services.get_mut(slice.service) else { return };
        service.remove_slice(id);
        service.mark([slice.spec.addresses.family()], &mut self.changed);
        self.forget_if_empty(slice.service);
    }

    fn drop_service(&mut self, id: u32) {
        self.set_spec(id, None);
        if let Some(record) = self.services.get_mut(id) {
            record.known = false;
            record.file = None;
        }
        self.forget_if_empty(id);
    }

    fn forget_if_empty(&mut self, id: u32) {
        if self.services.get(id).is_some_and(|record| !record.known && record.slices.is_empty()) {
            self.services.remove(id);
        }
    }

    /// Changes what is kept of a Service, and who has which frontend address.
    fn set_spec(&mut self, id: u32, spec: Option<ServiceSpec>) -> Vec<(ClaimKey, Dispute)> {
        let Some(record) = self.services.get_mut(id).filter(|record| record.spec != spec) else {
            return Vec::new();
        };
        record.mark(FAMILIES, &mut self.changed);
        let (rank_before, before) = (rank(record, id), record.claims());
        record.spec = spec;
        record.mark(FAMILIES, &mut self.changed);
        let (rank_now, now) = (rank(record, id), record.claims());
        let same_age = rank_before == rank_now;
        for key in before.iter().filter(|key| !same_age || !now.contains(key)) {
            let heir = self.claims.release(*key, &rank_before);
            if let Some(heir) = heir.and_then(|heir| self.services.get(heir)) {
                heir.mark([Family::of(key.address)], &mut self.changed);
            }
        }
        let mut disputes = Vec::new();
        for key in now.into_iter().filter(|key| !same_age || !before.contains(key)) {
            let services = &self.services;
            let rank_of =
                |id| services.get(id).map_or_else(|| rank_now.clone(), |other| rank(other, id));
            let Some(dispute) = self.claims.claim(key, rank_now.clone(), rank_of) else { continue };
            if let Some(loser) = self.services.get(dispute.loser) {
                loser.mark([Family::of(key.address)], &mut self.changed);
            }
            disputes.push((key, dispute));
        }
        disputes
    }

    /// What the source did not name in its list is gone.
    fn end_list(&mut self, kind: Kind) {
        let list = self.lists[kind as usize];
        match kind {
            Kind::Service => {
                let gone = |record: &ServiceRecord| record.known && record.list != list;
                let gone: Vec<u32> =
                    self.services.iter().filter(|(_, at)| gone(at)).map(|(id, _)| id).collect();
                for id in gone {
                    self.drop_service(id);
                }
            }
            Kind::EndpointSlice => {
                let gone: Vec<u32> = self
                    .slices
                    .iter()
                    .filter(|(_, at)| at.list != list)
                    .map(|(id, _)| id)
                    .collect();
                for id in gone {
                    self.drop_slice(id);
                }
            }
            Kind::Pod | Kind::Node => {}
        }
        self.problems.retain(|object, (seen, _)| object.kind != kind || *seen == list);
    }

    /// Replaces what is wrong with one object by itself.
    fn keep_problems(&mut self, kind: Kind, name: ObjectName, report: Report) -> Vec<Problem> {
        let object = ObjectRef { kind, name };
        if report.problems.is_empty() {
            self.problems.remove(&object);
        } else {
            let seen = self.lists[kind as usize];
            self.problems.insert(object, (seen, report.problems.clone().into()));
        }
        report.problems
    }

    fn service_record(&mut self, name: &ObjectName) -> u32 {
        self.services
            .find((&name.namespace, &name.name))
            .unwrap_or_else(|| self.services.insert(ServiceRecord::new(name.clone())))
    }

    fn name(
        &mut self,
        kind: Kind,
        namespace: Option<&String>,
        name: Option<&String>,
    ) -> Result<ObjectName, Box<Problem>> {
        let given = |text: Option<&String>| text.map(String::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (given(namespace), given(name));
        let field = match (namespace.is_empty(), name.is_empty()) {
            (false, false) => {
                return Ok(ObjectName { namespace: self.names.get(&namespace), name: name.into() });
            }
            (_, true) => "metadata.name",
            (true, false) => "metadata.namespace",
        };
        let object = ObjectRef { kind, name: ObjectName::new(&namespace, &name) };
        Err(Box::new(Problem { file: None, object, field: field.into(), cause: Cause::Empty }))
    }
}
