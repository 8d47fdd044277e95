//! Who serves a frontend, and by which rules.

use std::net::IpAddr;

use super::{
    ServiceTable,
    records::{PodRecord, ServiceRecord},
};
use crate::model::{
    claims::{ClaimKey, ClaimantId},
    spec::{HostPort, PortSpec, ServiceSpec},
    types::{Cidr, Family, FrontendKind, Placement, Protocol, TrafficPolicy},
    views::Candidate,
};

/// What objects say about a frontend.
#[derive(Clone, Debug)]
pub(in crate::model) struct Found<'table> {
    pub(in crate::model) kind: FrontendKind,
    pub(in crate::model) internal: TrafficPolicy,
    pub(in crate::model) external: TrafficPolicy,
    pub(in crate::model) affinity_s: Option<u32>,
    /// Whom load balancer frontends serve, in any family; `None` means everybody.
    pub(in crate::model) source_ranges: Option<&'table [Cidr]>,
    /// Addresses of the Service's load balancers, in any family.
    pub(in crate::model) balancers: &'table [IpAddr],
    /// In order, each address and port once.
    pub(in crate::model) candidates: Vec<Candidate>,
}

impl ServiceTable {
    /// The frontend at an address; at the unspecified one, that of every address of the node.
    pub(in crate::model) fn find(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<Found<'_>> {
        let key = ClaimKey { address, port, protocol };
        match self.claims.owner(&key)?.id() {
            ClaimantId::Service(id) => {
                let record = self.services.get(id)?;
                let spec = record.spec.as_ref()?;
                let (port, kind) = spec.port_at(address, port, protocol)?;
                Some(Found {
                    kind,
                    internal: spec.internal,
                    external: spec.external,
                    affinity_s: spec.affinity_s(),
                    source_ranges: spec.source_ranges(),
                    balancers: spec.balancers(),
                    candidates: self.candidates(record, spec, port, key.family()),
                })
            }
            ClaimantId::Pod(id) => {
                let record = self.pods.get(id)?;
                let (port, _) = record.ports().find(|(_, claim)| *claim == key)?;
                Some(Found {
                    kind: FrontendKind::HostPort,
                    internal: TrafficPolicy::Cluster,
                    external: TrafficPolicy::Cluster,
                    affinity_s: None,
                    source_ranges: None,
                    balancers: &[],
                    candidates: self
                        .pod_candidate(record, port, key.family())
                        .into_iter()
                        .collect(),
                })
            }
        }
    }

    /// Whether some port of a Service is served at its cluster IP, and this is that address.
    pub(in crate::model) fn is_cluster_ip(&self, address: IpAddr) -> bool {
        let has = |id| {
            let spec = self.services.get(id)?.spec.as_ref()?;
            Some(spec.cluster_ip(Family::of(address)) == Some(address))
        };
        self.claims.owners_of(address).into_iter().any(|owner| match owner.id() {
            ClaimantId::Service(id) => has(id) == Some(true),
            ClaimantId::Pod(_) => false,
        })
    }

    /// The endpoints of a port, in order, each address and port once.
    pub(super) fn candidates(
        &self,
        record: &ServiceRecord,
        spec: &ServiceSpec,
        port: &PortSpec,
        family: Family,
    ) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        for slice in record.slices.iter().filter_map(|id| self.slices.get(*id)) {
            let slice = &slice.spec;
            let target = slice
                .ports
                .iter()
                .find(|target| target.name == port.name && target.protocol == port.protocol);
            let Some(target) = target.filter(|_| slice.addresses.family() == family) else {
                continue;
            };
            candidates.extend(slice.facts(self.zone, spec.distribution).map(|facts| Candidate {
                address: facts.address,
                port: target.port,
                placement: self.placement(facts.address, facts.this_node),
                ready: facts.ready,
                fallback: facts.fallback,
                local: facts.this_node,
                node_hint: facts.node_hint,
                zone_hint: facts.zone_hint,
            }));
        }
        // Slices may repeat an endpoint while it moves between them: the best of what they say.
        candidates.sort_unstable_by_key(|it| {
            let worst = (!it.ready, !it.fallback, !it.local, it.placement);
            (it.address, it.port, worst, std::cmp::Reverse((it.node_hint, it.zone_hint)))
        });
        candidates.dedup_by_key(|candidate| (candidate.address, candidate.port));
        candidates
    }

    /// The Pod behind a host port.
    pub(super) fn pod_candidate(
        &self,
        record: &PodRecord,
        port: &HostPort,
        family: Family,
    ) -> Option<Candidate> {
        let address = record.spec.address(family)?;
        Some(Candidate {
            address,
            port: port.container_port,
            placement: self.placement(address, true),
            ready: true,
            fallback: false,
            local: true,
            node_hint: None,
            zone_hint: None,
        })
    }

    fn placement(&self, address: IpAddr, this_node: bool) -> Placement {
        if self.node.addresses.contains(&address) {
            Placement::Host
        } else if this_node {
            Placement::Local
        } else {
            Placement::Remote
        }
    }
}
