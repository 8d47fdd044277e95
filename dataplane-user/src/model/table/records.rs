//! One record per Service that exists or that a slice speaks of, per slice, and per Pod with host
//! ports.

use std::{net::IpAddr, sync::Arc};

use crate::model::{
    claims::{ClaimKey, Claimant, Rank},
    object::{Kind, ObjectName, ObjectRef},
    slab::Keyed,
    slice::SliceSpec,
    spec::{FAMILIES, HostPort, PodSpec, PortSpec, ServiceSpec},
    types::{Family, FrontendKind, PortKey, PortOwner, Protocol},
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
    pub(super) spec: SliceSpec,
}

#[derive(Debug)]
pub(super) struct PodRecord {
    pub(super) name: ObjectName,
    /// The list in which it was last named.
    pub(super) list: u32,
    pub(super) spec: PodSpec,
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

impl Keyed for PodRecord {
    fn key(&self) -> (&str, &str) {
        (&self.name.namespace, &self.name.name)
    }
}

impl ServiceRecord {
    pub(super) fn new(name: ObjectName) -> Self {
        Self { name, list: 0, known: false, spec: None, slices: Box::default() }
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

    pub(super) fn key(&self, port: &PortSpec, family: Family) -> PortKey {
        PortKey {
            namespace: self.name.namespace.clone(),
            service: self.name.name.clone(),
            port: port.name.clone(),
            family,
            owner: PortOwner::Service,
        }
    }

    /// Marks every port in these families.
    pub(super) fn mark(&self, families: impl IntoIterator<Item = Family>, changed: &mut Changed) {
        let Some(spec) = &self.spec else { return };
        for family in families.into_iter().filter(|family| spec.serves(*family)) {
            changed.extend(spec.ports.iter().map(|port| self.key(port, family)));
        }
    }

    /// Every frontend address it asks for; none of them twice.
    pub(super) fn claims(&self) -> Vec<ClaimKey> {
        let Some(spec) = &self.spec else { return Vec::new() };
        let mut keys = Vec::with_capacity(spec.ports.len());
        for port in &spec.ports {
            for family in FAMILIES {
                keys.extend(spec.frontends(port, family).map(|(address, number, _)| ClaimKey {
                    address,
                    port: number,
                    protocol: port.protocol,
                }));
            }
        }
        keys
    }

    pub(super) fn rank(&self, id: u32) -> Rank {
        Rank {
            is_pod: false,
            created: self.spec.as_ref().map_or(0, |spec| spec.created),
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
            id: Claimant::service(id),
        }
    }
}

impl ServiceSpec {
    /// The port that asks for a frontend, and as what.
    pub(super) fn port_at(
        &self,
        address: IpAddr,
        number: u16,
        protocol: Protocol,
    ) -> Option<(&PortSpec, FrontendKind)> {
        let family = Family::of(address);
        self.ports.iter().filter(|port| port.protocol == protocol).find_map(|port| {
            let mut asked = self.frontends(port, family);
            let (.., kind) = asked.find(|(at, port, _)| (*at, *port) == (address, number))?;
            Some((port, kind))
        })
    }
}

impl PodRecord {
    pub(super) fn reference(&self) -> ObjectRef {
        ObjectRef { kind: Kind::Pod, name: self.name.clone() }
    }

    pub(super) fn key(&self, port: &HostPort, family: Family) -> PortKey {
        PortKey {
            namespace: self.name.namespace.clone(),
            service: self.name.name.clone(),
            port: port.name.clone(),
            family,
            owner: PortOwner::Pod,
        }
    }

    /// Every host port in each family that it has: the port, its claim, its key.
    pub(super) fn ports(&self) -> impl Iterator<Item = (&HostPort, ClaimKey)> {
        let families = FAMILIES.into_iter().filter(|family| self.spec.address(*family).is_some());
        families.flat_map(|family| {
            self.spec.ports.iter().filter_map(move |port| {
                let (address, protocol) = (port.at(family)?, port.protocol);
                Some((port, ClaimKey { address, port: port.port, protocol }))
            })
        })
    }

    pub(super) fn mark(&self, changed: &mut Changed) {
        changed.extend(self.ports().map(|(port, claim)| self.key(port, claim.family())));
    }

    pub(super) fn rank(&self, id: u32) -> Rank {
        Rank {
            is_pod: true,
            created: self.spec.created,
            namespace: self.name.namespace.clone(),
            name: self.name.name.clone(),
            id: Claimant::pod(id),
        }
    }
}

impl SliceRecord {
    pub(super) fn reference(&self) -> ObjectRef {
        let name = ObjectName { namespace: self.namespace.clone(), name: (*self.name).into() };
        ObjectRef { kind: Kind::EndpointSlice, name }
    }
}
