//! Which tracked connections lie: datagrams follow an entry for as long as they come, whatever the
//! rules say by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::entry::Entry;
use crate::{
    backend::Node,
    model::{Family, FrontendAddress, FrontendKind, PortKey, PortState, Protocol, Scope, Served},
};

/// The number of UDP.
const UDP: u8 = 17;

/// Where clients send datagrams.
type Place = (FrontendAddress, Family, u16);

/// Whose view has an endpoint: bits.
const INSIDE: u8 = 1;
const OUTSIDE: u8 = 2;
type Endpoints = BTreeMap<SocketAddr, u8>;

/// Frontends of UDP and their endpoints, as the rules have them, and what left with the last changes.
#[derive(Clone, Debug, Default)]
pub struct Frontends {
    ports: BTreeMap<PortKey, BTreeSet<Place>>,
    endpoints: BTreeMap<Place, Endpoints>,
    /// Frontends that are gone, until the entries have been looked at.
    gone: BTreeSet<Place>,
    node: BTreeSet<IpAddr>,
    due: bool,
}

impl Frontends {
    /// What the rules say for one service port.
    pub fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        let udp = state.into_iter().flat_map(|state| {
            let udp = state.frontends.iter().filter(|it| it.protocol == Protocol::Udp);
            udp.map(|frontend| {
                let place = (frontend.address, key.family, frontend.port);
                (place, endpoints(state, frontend.kind))
            })
        });
        let wanted: BTreeMap<Place, Endpoints> = udp.collect();
        let now: BTreeSet<Place> = wanted.keys().copied().collect();
        let before = self.ports.get(key).cloned().unwrap_or_default();
        if now.is_empty() && before.is_empty() {
            return;
        }
        for place in before.difference(&now) {
            self.endpoints.remove(place);
            self.gone.insert(*place);
            self.due = true;
        }
        for (place, endpoints) in wanted {
            self.gone.remove(&place);
            let stays = |(at, views): (&SocketAddr, &u8)| {
                endpoints.get(at).is_some_and(|now| views & !now == 0)
            };
            // A new frontend has entries of before; endpoints that only came have none.
            let old = self.endpoints.get(&place);
            self.due |= old.is_none_or(|old| old.is_empty() || !old.iter().all(stays));
            self.endpoints.insert(place, endpoints);
        }
        if now.is_empty() {
            self.ports.remove(key);
        } else {
            self.ports.insert(key.clone(), now);
        }
    }

    /// The addresses that serve frontends on every node address.
    pub fn set_node(&mut self, node: &Node) {
        self.due |= self.node != node.node_port_addresses;
        self.node.clone_from(&node.node_port_addresses);
    }

    /// Service ports that are known.
    pub fn keys(&self) -> impl Iterator<Item = &PortKey> {
        self.ports.keys()
    }

    /// Whether entries may lie that did not lie before.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// The entries have been looked at.
    pub fn done(&mut self) {
        self.gone.clear();
        self.due = false;
    }

    /// Whether an entry lies: its endpoint is none of its client's view any more, or its frontend is
    /// gone, or it was made before there was one. Living connections of TCP and SCTP never do: they
    /// stay with their endpoint until they end. `scope` says where the client is.
    pub fn is_stale(&self, entry: &Entry, scope: impl FnOnce(IpAddr) -> Scope) -> bool {
        if entry.protocol != UDP {
            return false;
        }
        let to = entry.original.destination;
        let family = Family::of(to.ip());
        let exact = (FrontendAddress::Ip(to.ip()), family, to.port());
        let node = (FrontendAddress::NodeAddresses, family, to.port());
        let is_node = to.ip().is_loopback() || self.node.contains(&to.ip());
        let places = [Some(exact), is_node.then_some(node)];
        let found = places.iter().flatten().find_map(|place| self.endpoints.get(place));
        let Some(endpoints) = found else {
            let was_ours = || places.iter().flatten().any(|place| self.gone.contains(place));
            return entry.endpoint().is_some() && was_ours();
        };
        // What was never translated goes where no endpoint is, unless one has the frontend's address.
        match endpoints.get(&entry.reply.source) {
            None => true,
            Some(views) if *views == INSIDE | OUTSIDE => false,
            Some(views) => views & side(scope(entry.original.source.ip())) == 0,
        }
    }
}

fn side(scope: Scope) -> u8 {
    match scope {
        Scope::Host | Scope::Pod => INSIDE,
        Scope::Outside => OUTSIDE,
    }
}

/// Who serves clients of a frontend of this kind, on either side.
fn endpoints(state: &PortState, kind: FrontendKind) -> Endpoints {
    let mut all = Endpoints::new();
    for scope in [Scope::Pod, Scope::Outside] {
        if let Served::By(policy) = state.clients(kind, scope).served {
            for endpoint in state.view(policy) {
                let at = SocketAddr::new(endpoint.address, endpoint.port);
                *all.entry(at).or_default() |= side(scope);
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        conntrack::Tuple,
        model::{Endpoint, Frontend, FrontendKind, Placement, PortOwner, Views},
    };

    fn key(protocol: &str) -> PortKey {
        PortKey {
            namespace: "default".into(),
            service: "dns".into(),
            port: protocol.into(),
            family: Family::V4,
            owner: PortOwner::Service,
        }
    }

    fn state(protocol: Protocol, endpoints: &[&str]) -> PortState {
        let frontend = |address, port, kind| Frontend { address, port, protocol, kind };
        let endpoint = |text: &&str| Endpoint {
            address: text.parse().unwrap(),
            port: 5353,
            placement: Placement::Remote,
            views: Views::Cluster,
        };
        PortState {
            frontends: vec![
                frontend(FrontendAddress::Ip([10, 96, 0, 10].into()), 53, FrontendKind::ClusterIp),
                frontend(FrontendAddress::NodeAddresses, 30053, FrontendKind::NodePort),
            ],
            endpoints: endpoints.iter().map(endpoint).collect(),
            ..PortState::default()
        }
    }

    fn entry(protocol: u8, to: &str, endpoint: &str) -> Entry {
        let original =
            Tuple { source: "10.1.0.9:4000".parse().unwrap(), destination: to.parse().unwrap() };
        let reply = Tuple { source: endpoint.parse().unwrap(), ..original.reversed() };
        Entry { protocol, original, reply, status: 0, timeout_s: 30, tcp_state: None, mark: 0 }
    }

    fn frontends(endpoints: &[&str]) -> Frontends {
        let mut frontends = Frontends::default();
        frontends.set_node(&Node {
            node_port_addresses: [[192, 0, 2, 1].into()].into(),
            ..Node::default()
        });
        frontends.change(&key("udp"), Some(&state(Protocol::Udp, endpoints)));
        frontends
    }

    #[test]
    fn datagrams_leave_an_endpoint_that_left() {
        let mut frontends = frontends(&["10.1.0.1", "10.1.0.2"]);
        frontends.done();
        let to_first = entry(UDP, "10.96.0.10:53", "10.1.0.1:5353");
        let by_node = entry(UDP, "192.0.2.1:30053", "10.1.0.1:5353");
        let to_second = entry(UDP, "10.96.0.10:53", "10.1.0.2:5353");
        let stale =
            |frontends: &Frontends, entry: &Entry| frontends.is_stale(entry, |_| Scope::Pod);
        assert!(!stale(&frontends, &to_first) && !stale(&frontends, &by_node));
        frontends.change(&key("udp"), Some(&state(Protocol::Udp, &["10.1.0.2", "10.1.0.3"])));
        assert!(frontends.is_due());
        assert!(stale(&frontends, &to_first) && stale(&frontends, &by_node));
        assert!(!stale(&frontends, &to_second));
        let tcp = entry(6, "10.96.0.10:53", "10.1.0.1:5353");
        assert!(!stale(&frontends, &tcp), "TCP stays");
        frontends.change(&key("udp"), Some(&state(Protocol::Udp, &[])));
        assert!(stale(&frontends, &to_second), "nobody is left");
    }

    #[test]
    fn an_endpoint_that_leaves_one_view_keeps_the_clients_of_the_other() {
        let mut frontends = frontends(&["10.1.0.1"]);
        frontends.done();
        let by_node = entry(UDP, "192.0.2.1:30053", "10.1.0.1:5353");
        let by_cluster_ip = entry(UDP, "10.96.0.10:53", "10.1.0.1:5353");
        let mut local = state(Protocol::Udp, &["10.1.0.1"]);
        local.external = crate::model::TrafficPolicy::Local;
        frontends.change(&key("udp"), Some(&local));
        assert!(frontends.is_due());
        let stale = |entry, scope| frontends.is_stale(entry, |_| scope);
        assert!(stale(&by_node, Scope::Outside), "the endpoint is remote");
        assert!(!stale(&by_node, Scope::Pod) && !stale(&by_node, Scope::Host));
        assert!(!stale(&by_cluster_ip, Scope::Outside), "the internal policy is another");
    }

    #[test]
    fn an_endpoint_at_the_frontends_own_address_needs_no_translation() {
        let mut frontends = Frontends::default();
        let mut own = state(Protocol::Udp, &["10.96.0.10"]);
        own.frontends[0].port = 5353;
        frontends.change(&key("udp"), Some(&own));
        let entry = entry(UDP, "10.96.0.10:5353", "10.96.0.10:5353");
        assert!(!frontends.is_stale(&entry, |_| Scope::Pod));
    }

    #[test]
    fn datagrams_leave_a_service_that_is_gone_and_find_one_that_comes() {
        let mut frontends = frontends(&["10.1.0.1"]);
        let before = entry(UDP, "10.96.0.10:53", "10.96.0.10:53");
        assert!(frontends.is_due() && frontends.is_stale(&before, |_| Scope::Pod));
        frontends.done();
        let served = entry(UDP, "10.96.0.10:53", "10.1.0.1:5353");
        let other = entry(UDP, "10.97.0.1:53", "10.1.0.1:5353");
        frontends.change(&key("udp"), None);
        assert!(frontends.is_due() && frontends.is_stale(&served, |_| Scope::Pod));
        assert!(!frontends.is_stale(&other, |_| Scope::Pod), "somebody else's translation");
        assert!(!frontends.is_stale(&before, |_| Scope::Pod));
        frontends.done();
        assert!(
            !frontends.is_stale(&served, |_| Scope::Pod),
            "its rules are not known to have been ours"
        );
    }

    #[test]
    fn what_brings_no_lies_costs_no_look_at_the_table() {
        let mut frontends = frontends(&["10.1.0.1"]);
        frontends.done();
        frontends.change(&key("tcp"), Some(&state(Protocol::Tcp, &["10.1.0.1"])));
        frontends.change(&key("udp"), Some(&state(Protocol::Udp, &["10.1.0.1", "10.1.0.2"])));
        frontends.change(&key("tcp"), None);
        assert!(!frontends.is_due());
    }
}
