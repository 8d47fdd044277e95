//! Rows from the table and the kernel's connection tracking, for backends without maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{Clients, EndpointRow, FlowRow, FrontendRow, protocol_name};
use crate::{
    backend::{Desired, Node, ServicePort},
    conntrack::{
        Entry,
        entry::{status, tcp},
    },
    model::{
        self, Family, FrontendAddress, FrontendKind, Placement, PortKey, PortState, Protocol,
        Served, TrafficPolicy, Views, route::Scope,
    },
};

/// Service ports of a table, with the numbers that their backend gave them.
#[derive(Debug)]
pub struct Ports(BTreeMap<PortKey, (u32, PortState)>);

/// Where clients connect: an address, or any of the node; family, port, protocol.
type Place = (Option<IpAddr>, Family, u16, u8);

impl Ports {
    /// The service ports that the backend serves.
    pub fn new(table: &dyn Desired, served: &[ServicePort]) -> Self {
        let port = |served: &ServicePort| {
            let key = served.key.clone()?;
            let state = table.port(&key)?;
            Some((key, (served.number, state)))
        };
        Self(served.iter().filter_map(port).collect())
    }

    fn iter(&self) -> impl Iterator<Item = (String, &PortKey, u32, &PortState)> {
        self.0.iter().map(|(key, (number, state))| (name(key), key, *number, state))
    }

    /// Every frontend, sorted by service.
    pub fn frontends(&self) -> Vec<FrontendRow> {
        let mut rows = Vec::new();
        for (service, key, number, state) in self.iter() {
            let all = state.view(TrafficPolicy::Cluster).count();
            let local = state.endpoints.iter().filter(|it| it.placement != Placement::Remote);
            let local = local.count();
            for frontend in &state.frontends {
                let is_balancer = frontend.kind == FrontendKind::LoadBalancer;
                let ranges = state.source_ranges.as_ref().filter(|_| is_balancer);
                rows.push(FrontendRow {
                    service: service.clone(),
                    number,
                    address: match frontend.address {
                        FrontendAddress::Ip(ip) => Some(ip),
                        FrontendAddress::NodeAddresses => None,
                    },
                    family: if key.family == Family::V4 { 4 } else { 6 },
                    port: frontend.port,
                    protocol: protocol_name(protocol(frontend.protocol)),
                    kind: kind(frontend.kind).into(),
                    endpoints: count(all),
                    local: count(local),
                    inside: clients(state, frontend.kind, Scope::Pod),
                    outside: clients(state, frontend.kind, Scope::Outside),
                    affinity_s: state.affinity_s,
                    source_ranges: ranges.map(|list| list.iter().map(range).collect()),
                });
            }
        }
        rows.sort();
        rows
    }

    /// Every endpoint, sorted by service. They have no identities here.
    pub fn endpoints(&self) -> Vec<EndpointRow> {
        let mut rows = BTreeSet::new();
        for (service, _, number, state) in self.iter() {
            let protocols: BTreeSet<Protocol> =
                state.frontends.iter().map(|frontend| frontend.protocol).collect();
            for (endpoint, of) in
                state.endpoints.iter().flat_map(|it| protocols.iter().map(move |of| (it, *of)))
            {
                rows.insert(EndpointRow {
                    service: service.clone(),
                    number,
                    address: endpoint.address,
                    port: endpoint.port,
                    protocol: protocol_name(protocol(of)),
                    placement: match endpoint.placement {
                        Placement::Host => "host".into(),
                        Placement::Local => "local".into(),
                        Placement::Remote => "remote".into(),
                    },
                    id: 0,
                    live: true,
                    views: match endpoint.views {
                        Views::Cluster => vec!["Cluster".into()],
                        Views::Both => vec!["Cluster".into(), "Local".into()],
                        Views::Local => vec!["Local".into()],
                    },
                });
            }
        }
        rows.into_iter().collect()
    }

    /// Those tracked connections that go to a frontend and were sent on to an endpoint.
    pub fn flows(&self, entries: &[Entry], node: &Node) -> Vec<FlowRow> {
        let mut known: BTreeMap<Place, (String, u32)> = BTreeMap::new();
        for (service, key, number, state) in self.iter() {
            for frontend in &state.frontends {
                let address = match frontend.address {
                    FrontendAddress::Ip(ip) => Some(ip),
                    FrontendAddress::NodeAddresses => None,
                };
                let place = (address, key.family, frontend.port, protocol(frontend.protocol));
                known.insert(place, (service.clone(), number));
            }
        }
        let row = |entry: &Entry| {
            let to = entry.original.destination;
            let (family, port) = (Family::of(to.ip()), to.port());
            let is_node = node.addresses.contains(&to.ip()) || to.ip().is_loopback();
            let (service, number) = known
                .get(&(Some(to.ip()), family, port, entry.protocol))
                .or_else(|| known.get(&(None, family, port, entry.protocol)).filter(|_| is_node))?;
            let endpoint = entry.endpoint()?;
            let (client, source) = (entry.original.source, entry.masquerade());
            let seen = source.unwrap_or(client);
            Some(FlowRow {
                service: service.clone(),
                number: *number,
                protocol: protocol_name(entry.protocol),
                client: client.ip(),
                client_port: client.port(),
                frontend: to.ip(),
                frontend_port: port,
                endpoint: endpoint.ip(),
                endpoint_port: endpoint.port(),
                source: seen.ip(),
                source_port: seen.port(),
                state: state_of(entry).into(),
                idle_s: None,
                views: Vec::new(),
                affinity: false,
                masquerade: match source {
                    Some(source) if source.ip() == client.ip() => "no".into(),
                    Some(_) if endpoint.ip() == client.ip() => "hairpin".into(),
                    Some(_) => "yes".into(),
                    None => "no".into(),
                },
                forwarded: false,
            })
        };
        let mut rows: Vec<FlowRow> = entries.iter().filter_map(row).collect();
        rows.sort();
        rows
    }
}

fn state_of(entry: &Entry) -> &'static str {
    match entry.tcp_state {
        Some(tcp::ESTABLISHED) => "established",
        Some(state) if state > tcp::LAST_ACK => "closed",
        Some(state) if state > tcp::ESTABLISHED => "closing",
        None if entry.status & status::SEEN_REPLY != 0 => "established",
        Some(_) | None => "new",
    }
}

fn clients(state: &PortState, kind: FrontendKind, scope: Scope) -> Clients {
    let clients = state.clients(kind, scope);
    let (policy, endpoints, outcome) = match clients.served {
        Served::By(policy) => (policy, state.view(policy).count(), "served"),
        Served::Refused => (TrafficPolicy::Cluster, 0, "refused"),
        // Only that policy leaves out the endpoints of other nodes.
        Served::Dropped => (TrafficPolicy::Local, 0, "dropped"),
    };
    let policy = match policy {
        TrafficPolicy::Cluster => "Cluster".into(),
        TrafficPolicy::Local => "Local".into(),
    };
    let (endpoints, outcome) = (count(endpoints), outcome.into());
    Clients { policy, endpoints, outcome, masquerade: clients.masquerade }
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::HostPort => "HostPort",
    }
}

fn protocol(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => dataplane_common::TCP,
        Protocol::Udp => dataplane_common::UDP,
        Protocol::Sctp => dataplane_common::SCTP,
    }
}

fn range(cidr: &model::Cidr) -> String {
    format!("{}/{}", cidr.address, cidr.prefix_len)
}

fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

fn name(key: &PortKey) -> String {
    if key.port.is_empty() {
        format!("{}/{}", key.namespace, key.service)
    } else {
        format!("{}/{}:{}", key.namespace, key.service, key.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{conntrack::Tuple, ebpf::tests::service};

    fn ports() -> Ports {
        let (key, state) = service(1, 2);
        Ports(BTreeMap::from([(key, (7, state))]))
    }

    #[test]
    fn frontends_and_endpoints_are_those_of_the_table() {
        let (ports, (_, state)) = (ports(), service(1, 2));
        let rows = ports.frontends();
        assert_eq!(rows.len(), state.frontends.len());
        assert_eq!((rows[0].number, rows[0].endpoints), (7, 2));
        assert_eq!((&*rows[0].inside.outcome, rows[0].inside.endpoints), ("served", 2));
        let addresses: BTreeSet<IpAddr> = ports.endpoints().iter().map(|row| row.address).collect();
        assert_eq!(addresses, state.endpoints.iter().map(|endpoint| endpoint.address).collect());
    }

    #[test]
    fn a_tracked_connection_is_a_flow_if_it_goes_from_a_frontend_to_an_endpoint() {
        let (ports, (_, state)) = (ports(), service(1, 2));
        let FrontendAddress::Ip(ip) = state.frontends[0].address else { panic!("no address") };
        let client = "10.0.9.9:4000".parse().unwrap();
        let endpoint = (state.endpoints[0].address, state.endpoints[0].port).into();
        let original = Tuple { source: client, destination: (ip, state.frontends[0].port).into() };
        let entry = Entry {
            protocol: protocol(state.frontends[0].protocol),
            original,
            reply: Tuple { source: endpoint, destination: client },
            status: 0,
            timeout_s: 10,
            tcp_state: Some(tcp::ESTABLISHED),
            mark: 0,
        };
        let stranger = Entry {
            original: Tuple { destination: "10.0.9.1:80".parse().unwrap(), ..original },
            ..entry
        };
        let untouched = Entry { reply: original.reversed(), ..entry };
        let rows = ports.flows(&[entry, stranger, untouched], &Node::default());
        assert_eq!(rows.len(), 1);
        assert_eq!(
            (rows[0].number, &*rows[0].state, &*rows[0].masquerade),
            (7, "established", "no")
        );
        assert_eq!(rows[0].endpoint, endpoint.ip());
    }
}
