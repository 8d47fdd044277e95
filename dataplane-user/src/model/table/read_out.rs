//! What backends, metrics and people read from the table.

use std::{collections::BTreeMap, net::IpAddr};

use super::{ServiceRecord, ServiceTable};
use crate::model::{
    claims::{ClaimKey, Dispute},
    health::HealthCheck,
    problem::{Cause, Problem},
    spec::{FAMILIES, PortSpec, ServiceSpec},
    types::{
        Endpoint, Family, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState,
        Protocol, Views,
    },
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
                keys.extend(ports.map(|port| record.key(&port.name, family)));
            }
        }
        keys.sort_unstable();
        keys
    }

    /// What the node should do for one service port; nothing if no Service has it.
    pub fn port(&self, key: &PortKey) -> Option<PortState> {
        let id = self.services.find((&key.namespace, &key.service))?;
        let record = self.services.get(id)?;
        let spec = record.spec.as_ref()?;
        let port = spec.ports.iter().find(|port| port.name == key.port)?;
        let mut frontends: Vec<Frontend> = self.frontends(id, spec, port, key.family).collect();
        frontends.sort_unstable();
        if frontends.is_empty() {
            return None;
        }
        let endpoints = self.endpoints(record, spec, port, key.family);
        let any_endpoint = !endpoints.is_empty();
        Some(PortState { frontends, endpoints, any_endpoint, ..PortState::default() })
    }

    /// What is wrong now, in the order of the objects' names.
    pub fn problems(&self) -> Vec<Problem> {
        let own = self.problems.values().flat_map(|(_, problems)| problems.iter().cloned());
        let taken = self.claims.disputes().filter_map(|(key, dispute)| self.taken(key, dispute));
        let mut all: Vec<Problem> = own.chain(taken).chain(self.orphans()).collect();
        all.sort_by(|a, b| (&a.object, &a.field).cmp(&(&b.object, &b.field)));
        all
    }

    /// Every Service that a load balancer may ask this node about, in order.
    pub fn health_checks(&self) -> Vec<HealthCheck> {
        Vec::new()
    }

    /// Another number than before once [`Self::health_checks`] may say something else.
    pub fn health_version(&self) -> u64 {
        self.health_version
    }

    /// How many problems there are now, by [`Cause::name`].
    pub fn problem_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for problem in self.problems() {
            *counts.entry(problem.cause.name()).or_default() += 1;
        }
        counts
    }

    /// The service port that has a frontend.
    pub(in crate::model) fn owner(
        &self,
        address: IpAddr,
        port: u16,
        protocol: Protocol,
    ) -> Option<PortKey> {
        let id = self.claims.owner(&ClaimKey { address, port, protocol })?;
        let record = self.services.get(id)?;
        let has = |from: &&PortSpec| {
            let number = if address.is_unspecified() { from.node_port } else { from.port };
            number == port && from.protocol == protocol
        };
        let from = record.spec.as_ref()?.ports.iter().find(has)?;
        Some(record.key(&from.name, Family::of(address)))
    }

    /// Whether an address is a Service's, on whatever port.
    pub(in crate::model) fn is_service_address(&self, address: IpAddr) -> bool {
        !address.is_unspecified() && self.claims.has_address(address)
    }

    /// Every slice whose Service is not there.
    pub(super) fn orphans(&self) -> impl Iterator<Item = Problem> {
        self.slices.iter().filter_map(|(_, slice)| {
            let service = self.services.get(slice.service)?;
            (!service.known).then(|| slice.orphan(&service.name))
        })
    }

    pub(super) fn taken(&self, key: ClaimKey, dispute: Dispute) -> Option<Problem> {
        let loser = self.services.get(dispute.loser)?;
        let owner = self.services.get(dispute.winner)?.name.clone();
        let ClaimKey { address, port, protocol } = key;
        let field =
            if address.is_unspecified() { "spec.ports.nodePort" } else { "spec.clusterIPs" };
        Some(Problem {
            file: loser.file.as_deref().cloned(),
            object: loser.reference(),
            field: field.into(),
            cause: Cause::Taken { address, port, protocol, owner },
        })
    }

    /// The frontends of a port that its Service does not have to leave to an older one.
    fn frontends(
        &self,
        id: u32,
        spec: &ServiceSpec,
        port: &PortSpec,
        family: Family,
    ) -> impl Iterator<Item = Frontend> {
        let protocol = port.protocol;
        let cluster = spec.cluster_ip(family).map(|address| {
            let kind = FrontendKind::ClusterIp;
            let frontend =
                Frontend { address: FrontendAddress::Ip(address), port: port.port, protocol, kind };
            (ClaimKey { address, port: port.port, protocol }, frontend)
        });
        let open = spec.has_node_ports(family) && port.node_port != 0;
        let node = open.then(|| {
            let (address, kind) = (FrontendAddress::NodeAddresses, FrontendKind::NodePort);
            let frontend = Frontend { address, port: port.node_port, protocol, kind };
            let key = ClaimKey { address: family.unspecified(), port: port.node_port, protocol };
            (key, frontend)
        });
        let ours = move |key: &ClaimKey| self.claims.owner(key) == Some(id);
        cluster.into_iter().chain(node).filter(move |(key, _)| ours(key)).map(|(_, it)| it)
    }

    /// The endpoints of a port that take new flows.
    fn endpoints(
        &self,
        record: &ServiceRecord,
        spec: &ServiceSpec,
        port: &PortSpec,
        family: Family,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for slice in record.slices.iter().filter_map(|id| self.slices.get(*id)) {
            let slice = &slice.spec;
            let target = slice
                .ports
                .iter()
                .find(|target| target.name == port.name && target.protocol == port.protocol);
            let Some(target) = target.filter(|_| slice.addresses.family() == family) else {
                continue;
            };
            for (address, condition) in slice.addresses.iter() {
                if condition.takes_flows(spec.publish_not_ready) {
                    let placement = self.placement(address, condition.this_node());
                    endpoints.push(Endpoint {
                        address,
                        port: target.port,
                        placement,
                        views: Views::Cluster,
                    });
                }
            }
        }
        endpoints.sort_unstable();
        // Slices may repeat an endpoint while it moves between them.
        endpoints.dedup_by_key(|endpoint| (endpoint.address, endpoint.port));
        endpoints
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
