//! What backends, metrics and people read from the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{ServiceTable, records::ServiceRecord};
use crate::model::{
    claims::{ClaimKey, Claimant},
    health::HealthCheck,
    problem::Problem,
    slice::SliceSpec,
    spec::{FAMILIES, PortSpec, ServiceSpec},
    types::{
        Cidr, Family, Frontend, FrontendAddress, FrontendKind, PortKey, PortOwner, PortState,
        Protocol, TrafficPolicy,
    },
    views,
    zones::ZoneId,
};

impl ServiceTable {
    /// Every service port that has a state, in order.
    pub fn keys(&self) -> Vec<PortKey> {
        let mut keys = Vec::new();
        for (id, record) in self.services.iter() {
            let Some(spec) = &record.spec else { continue };
            for family in FAMILIES {
                let served =
                    |port: &&PortSpec| self.frontends(id, spec, port, family).next().is_some();
                let ports = spec.ports.iter().filter(served);
                keys.extend(ports.map(|port| record.key(port, family)));
            }
        }
        for (id, record) in self.pods.iter() {
            let owned = |claim: &ClaimKey| self.claims.owner(claim) == Some(Claimant::pod(id));
            let ports = record.ports().filter(|(_, claim)| owned(claim));
            keys.extend(ports.map(|(port, claim)| record.key(port, claim.family())));
        }
        keys.sort_unstable();
        keys
    }

    /// What the node should do for one service port; nothing if no object has it.
    pub fn port(&self, key: &PortKey) -> Option<PortState> {
        match key.owner {
            PortOwner::Service => self.service_port(key),
            PortOwner::Pod => self.host_port(key),
        }
    }

    /// What is wrong now, in the order of the objects' names.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.problems.values().flat_map(|(_, problems)| problems.iter().cloned());
        let taken = self.claims.disputes().filter_map(|(key, dispute)| self.taken(key, dispute));
        let mut all: Vec<Problem> = own.chain(taken).chain(self.orphans()).collect();
        all.sort_by(|a, b| (&a.object, &a.field).cmp(&(&b.object, &b.field)));
        all
    }

    /// How many problems there are now, by [`crate::model::Cause::name`].
    pub fn problem_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for problem in self.problems() {
            *counts.entry(problem.cause.name()).or_default() += 1;
        }
        counts
    }

    /// Every Service that a load balancer may ask this node about, in order. Costs O(those).
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        let check = |id: &u32| {
            let record = self.services.get(*id)?;
            let spec = record.spec.as_ref()?;
            let of = |family| self.local_endpoints(record, spec, family);
            Some(HealthCheck {
                service: record.name.clone(),
                port: spec.health_port(),
                local_endpoints: FAMILIES.into_iter().map(of).max().unwrap_or(0),
            })
        };
        let mut checks: Vec<HealthCheck> = self.health_checked.iter().filter_map(check).collect();
        checks.sort_unstable();
        checks
    }

    /// Another number than before once [`Self::health_checks`] may say something else.
    pub fn health_version(&self) -> u64 {
        self.health_version
    }

    /// How many addresses on this node are ready, over all ports of a Service.
    fn local_endpoints(&self, record: &ServiceRecord, spec: &ServiceSpec, family: Family) -> usize {
        let is_its = |slice: &&SliceSpec| {
            let ports = |port: &PortSpec| {
                let same = |of: &crate::model::slice::SlicePort| {
                    (&of.name, of.protocol) == (&port.name, port.protocol)
                };
                slice.ports.iter().any(same)
            };
            slice.addresses.family() == family && spec.ports.iter().any(ports)
        };
        let slices = record.slices.iter().filter_map(|id| self.slices.get(*id));
        let facts = slices
            .map(|slice| &slice.spec)
            .filter(is_its)
            .flat_map(|slice| slice.facts(ZoneId::NONE, spec.distribution));
        let ready = facts.filter(|facts| facts.ready && facts.this_node);
        ready.map(|facts| facts.address).collect::<BTreeSet<_>>().len()
    }

    fn service_port(&self, key: &PortKey) -> Option<PortState> {
        let id = self.services.find((&key.namespace, &key.service))?;
        let record = self.services.get(id)?;
        let spec = record.spec.as_ref()?;
        let port = spec.ports.iter().find(|port| port.name == key.port)?;
        let mut frontends: Vec<Frontend> = self.frontends(id, spec, port, key.family).collect();
        frontends.sort_unstable();
        if frontends.is_empty() {
            return None;
        }
        let is_external = spec.is_external(port, key.family);
        let external = if is_external { spec.external } else { TrafficPolicy::Cluster };
        let uses_cluster = spec.internal == TrafficPolicy::Cluster || is_external;
        let uses_local = [spec.internal, external].contains(&TrafficPolicy::Local);
        let candidates = self.candidates(record, spec, port, key.family);
        let is_balanced = frontends.iter().any(|it| it.kind == FrontendKind::LoadBalancer);
        let ranges = spec.source_ranges().filter(|_| is_balanced);
        Some(PortState {
            endpoints: views::endpoints(&candidates, uses_cluster, uses_local),
            frontends,
            internal: spec.internal,
            external,
            any_endpoint: views::any(&candidates),
            affinity_s: spec.affinity_s(),
            source_ranges: ranges.map(|ranges| self.sources(spec, ranges, key.family)),
        })
    }

    /// The ranges of a family; if they hold an address of this node, its load balancers' as well.
    fn sources(&self, spec: &ServiceSpec, ranges: &[Cidr], family: Family) -> Vec<Cidr> {
        let mut all: Vec<Cidr> =
            ranges.iter().filter(|range| Family::of(range.address) == family).copied().collect();
        let holds = |own: &IpAddr| all.iter().any(|range| range.contains(*own));
        if self.node.addresses.iter().any(holds) {
            let own = spec.balancers().iter().filter(|address| Family::of(**address) == family);
            all.extend(own.map(|address| Cidr::of(*address)));
            all.sort_unstable();
            all.dedup();
        }
        all
    }

    fn host_port(&self, key: &PortKey) -> Option<PortState> {
        let id = self.pods.find((&key.namespace, &key.service))?;
        let record = self.pods.get(id)?;
        let asked = |(port, claim): &(&crate::model::spec::HostPort, ClaimKey)| {
            port.name == key.port && claim.family() == key.family
        };
        let (port, claim) = record.ports().find(asked)?;
        if self.claims.owner(&claim) != Some(Claimant::pod(id)) {
            return None;
        }
        let candidate = self.pod_candidate(record, port, key.family)?;
        Some(PortState {
            frontends: vec![frontend(claim, FrontendKind::HostPort)],
            endpoints: views::endpoints(&[candidate], true, false),
            any_endpoint: true,
            ..PortState::default()
        })
    }

    /// The frontends of a port that its Service does not have to leave to another.
    fn frontends(
        &self,
        id: u32,
        spec: &ServiceSpec,
        port: &PortSpec,
        family: Family,
    ) -> impl Iterator<Item = Frontend> {
        let protocol: Protocol = port.protocol;
        spec.frontends(port, family)
            .map(move |(address, port, kind)| (ClaimKey { address, port, protocol }, kind))
            .filter(move |(claim, _)| self.claims.owner(claim) == Some(Claimant::service(id)))
            .map(|(claim, kind)| frontend(claim, kind))
    }
}

fn frontend(claim: ClaimKey, kind: FrontendKind) -> Frontend {
    let ClaimKey { address, port, protocol } = claim;
    let address = if address.is_unspecified() {
        FrontendAddress::NodeAddresses
    } else {
        FrontendAddress::Ip(address)
    };
    Frontend { address, port, protocol, kind }
}
