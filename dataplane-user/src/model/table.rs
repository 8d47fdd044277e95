//! The table: what objects say, and which service ports that changed.

mod claimed;
mod find;
mod pods;
mod read_out;
mod records;
mod services;
mod slices;
mod zone;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

pub(super) use self::find::Found;
use self::records::{Changed, PodRecord, ServiceRecord, SliceRecord};
use super::{
    claims::Claims,
    identity::NodeIdentity,
    names::Names,
    object::{Kind, ObjectEvent, ObjectName, ObjectRef},
    problem::{Cause, Problem, Report},
    read::SliceWords,
    slab::Slab,
    spec::FAMILIES,
    types::PortKey,
    zones::ZoneId,
};

/// What this node should do with service traffic, and what changed since a backend last asked.
#[derive(Debug)]
pub struct ServiceTable {
    node: NodeIdentity,
    /// The zone if no Node object says otherwise.
    zone_default: Option<Arc<str>>,
    /// The number of the node's zone.
    zone: ZoneId,
    /// The list in which the node's own object was last named.
    node_list: u32,
    names: Names,
    words: SliceWords,
    services: Slab<ServiceRecord>,
    slices: Slab<SliceRecord>,
    pods: Slab<PodRecord>,
    claims: Claims,
    changed: Changed,
    /// The files of objects, for those that have one.
    files: BTreeMap<ObjectRef, Arc<str>>,
    /// What is wrong with an object by itself, and in which list it was seen.
    problems: BTreeMap<ObjectRef, (u32, Box<[Problem]>)>,
    /// Number of the current list of each kind.
    lists: [u32; 4],
    synced: bool,
    /// Services with a `healthCheckNodePort`.
    health_checked: BTreeSet<u32>,
    /// Goes up when what [`Self::health_checks`] says may have changed.
    health_version: u64,
}

impl ServiceTable {
    /// An empty table for a node.
    pub fn new(node: NodeIdentity) -> Self {
        let mut words = SliceWords::new();
        Self {
            zone_default: node.zone.clone(),
            zone: words.zone(node.zone.as_deref()),
            node_list: 0,
            node,
            names: Names::new(),
            words,
            services: Slab::new(),
            slices: Slab::new(),
            pods: Slab::new(),
            claims: Claims::default(),
            changed: Changed::default(),
            files: BTreeMap::new(),
            problems: BTreeMap::new(),
            lists: [0; 4],
            synced: false,
            health_checked: BTreeSet::new(),
            health_version: 0,
        }
    }

    /// The node this table is for, with the zone that it is in now.
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
            ObjectEvent::Pod { object, file } => self.put_pod(&object, file),
            ObjectEvent::Node { object, file } => self.put_node(&object, file),
            ObjectEvent::Gone(object) => {
                let key = (&*object.name.namespace, &*object.name.name);
                match object.kind {
                    Kind::Service => self.services.find(key).map(|id| self.drop_service(id)),
                    Kind::EndpointSlice => self.slices.find(key).map(|id| self.drop_slice(id)),
                    Kind::Pod => self.pods.find(key).map(|id| self.drop_pod(id)),
                    Kind::Node => (object.name.name == self.node.name).then(|| self.drop_node()),
                };
                self.problems.remove(&object);
                self.files.remove(&object);
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
            if addresses.iter().any(|(address, ..)| moved.contains(&address))
                && let Some(service) = services.get(slice.service)
            {
                service.mark([addresses.family()], changed);
            }
        }
        for (_, service) in self.services.iter() {
            if service.spec.as_ref().is_some_and(|spec| spec.source_ranges().is_some()) {
                service.mark(FAMILIES, changed);
            }
        }
        for (_, pod) in self.pods.iter() {
            pod.mark(changed);
        }
    }

    /// The service ports whose state may differ from what it was at the last call.
    pub fn take_changed(&mut self) -> BTreeSet<PortKey> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    /// What the source did not name in its list is gone.
    fn end_list(&mut self, kind: Kind) {
        let list = self.lists[kind as usize];
        match kind {
            Kind::Service => {
                let gone = |record: &ServiceRecord| record.known && record.list != list;
                for id in self.services.ids(gone) {
                    self.drop_service(id);
                }
            }
            Kind::EndpointSlice => {
                for id in self.slices.ids(|record: &SliceRecord| record.list != list) {
                    self.drop_slice(id);
                }
            }
            Kind::Pod => {
                for id in self.pods.ids(|record: &PodRecord| record.list != list) {
                    self.drop_pod(id);
                }
            }
            Kind::Node => {
                if self.node_list != list {
                    self.drop_node();
                }
            }
        }
        self.problems.retain(|object, (seen, _)| object.kind != kind || *seen == list);
    }

    /// Replaces what is wrong with one object by itself.
    fn keep_problems(&mut self, object: ObjectRef, report: Report) -> Vec<Problem> {
        if report.problems.is_empty() {
            self.problems.remove(&object);
        } else {
            let seen = self.lists[object.kind as usize];
            self.problems.insert(object, (seen, report.problems.clone().into()));
        }
        report.problems
    }

    /// Replaces the file of one object.
    fn keep_file(&mut self, object: &ObjectRef, file: Option<Arc<str>>) {
        match file {
            Some(file) => drop(self.files.insert(object.clone(), file)),
            None => drop(self.files.remove(object)),
        }
    }

    fn name(
        &mut self,
        kind: Kind,
        namespace: Option<&String>,
        name: Option<&String>,
        file: Option<&Arc<str>>,
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
        let file = file.cloned();
        Err(Box::new(Problem { file, object, field: field.into(), cause: Cause::Empty }))
    }
}
