//! One record per Service that exists or that a slice speaks of, and one per slice.

use std::sync::Arc;

use crate::model::{
    claims::{ClaimKey, Rank},
    object::{Kind, ObjectName, ObjectRef},
    problem::{Cause, Problem},
    slab::Keyed,
    spec::{FAMILIES, ServiceSpec, SliceSpec},
    types::{Family, PortKey, PortOwner},
};

/// Marked service ports. They are marked far more often than they are read in order.
pub(super) type Changed = std::collections::HashSet<PortKey, ahash::RandomState>;

#[derive(Debug)]
pub(super) struct ServiceRecord {
    pub(super) name: ObjectName,
    /// The list in which it was last named.
    pub(super) list: u32,
    /// Whether the Service exists; if not, slices wait for it here.
    pub(super) known: bool,
    /// Boxed, since the objects of a cluster have none.
    pub(super) file: Option<Box<Arc<str>>>,
    /// Nothing for a Service that is ignored, or was never usable.
    pub(super) spec: Option<ServiceSpec>,
    pub(super) slices: Box<[u32]>,
}

#[derive(Debug)]
pub(super) struct SliceRecord {
    pub(super) namespace: Arc<str>,
    pub(super) name: Box<str>,
    pub(super) service: u32,
    /// The list in which it was last named.
    pub(super) list: u32,
    /// Boxed, since the objects of a cluster have none.
    pub(super) file: Option<Box<Arc<str>>>,
    pub(super) spec: SliceSpec,
}

impl Keyed for ServiceRecord {
    fn key(&self) -> (&str, &str) {
        (&self.name.namespace, &self.name.name)
    }
}

impl Keyed for SliceRecord {
    fn key(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl ServiceRecord {
    pub(super) fn new(name: ObjectName) -> Self {
        Self { name, list: 0, known: false, file: None, spec: None, slices: Box::default() }
    }

    pub(super) fn reference(&self) -> ObjectRef {
        ObjectRef { kind: Kind::Service, name: self.name.clone() }
    }

    pub(super) fn add_slice(&mut self, id: u32) {
        self.slices = self.slices.iter().copied().chain([id]).collect();
    }

    pub(super) fn remove_slice(&mut self, id: u32) {
        self.slices = self.slices.iter().copied().filter(|other| *other != id).collect();
    }

    pub(super) fn key(&self, port: &Arc<str>, family: Family) -> PortKey {
        PortKey {
            namespace: self.name.namespace.clone(),
            service: self.name.name.clone(),
            port: port.clone(),
            family,
            owner: PortOwner::Service,
        }
    }

    /// Marks every port in these families.
    pub(super) fn mark(&self, families: impl IntoIterator<Item = Family>, changed: &mut Changed) {
        let Some(spec) = &self.spec else { return };
        for family in families.into_iter().filter(|family| spec.serves(*family)) {
            changed.extend(spec.ports.iter().map(|port| self.key(&port.name, family)));
        }
    }

    /// Every frontend address it asks for.
    pub(super) fn claims(&self) -> Vec<ClaimKey> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let mut keys = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            let protocol = port.protocol;
            for family in FAMILIES {
                let cluster = spec.cluster_ip(family);
                keys.extend(cluster.map(|address| ClaimKey { address, port: port.port, protocol }));
                if spec.has_node_ports(family) && port.node_port != 0 {
                    let address = family.unspecified();
                    keys.push(ClaimKey { address, port: port.node_port, protocol });
                }
            }
        }
        keys
    }
}

impl SliceRecord {
    /// The problem that its Service is not there.
    pub(super) fn orphan(&self, service: &ObjectName) -> Problem {
        let name = ObjectName { namespace: self.namespace.clone(), name: (*self.name).into() };
        Problem {
            file: self.file.as_deref().cloned(),
            object: ObjectRef { kind: Kind::EndpointSlice, name },
            field: "metadata.labels[kubernetes.io/service-name]".into(),
            cause: Cause::NoSuchService(service.name.clone()),
        }
    }
}

pub(super) fn rank(record: &ServiceRecord, id: u32) -> Rank {
    Rank {
        created: record.spec.as_ref().map_or(0, |spec| spec.created),
        namespace: record.name.namespace.clone(),
        name: record.name.name.clone(),
        id,
    }
}
