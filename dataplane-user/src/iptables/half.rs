//! The chains of one family: those of service ports, and a tree over addresses that leads to them.
//!
//! `iptables` looks at one rule after the other. With a rule per frontend in one chain the first
//! packet of each flow would pass half of all frontends, and each change would write all of them.
//! So the chain `SERVICES` only names networks, whose chains name smaller ones, and the last ones have
//! the frontends. Frontends on node addresses are divided by protocol and port.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    fixed::Fixed,
    port::{Front, Place, Unserved},
    rule::{Match, Rule, Table, Target},
};
use crate::model::{Cidr, Family, FrontendAddress, FrontendKind, PortKey, Protocol};

/// Where a frontend is: `None` is every address of the node.
type At = (Option<IpAddr>, Protocol, u16);

/// Lengths of the prefixes by which addresses are divided, from the root on.
const fn levels(family: Family) -> [u8; 3] {
    match family {
        Family::V4 => [16, 20, 24],
        Family::V6 => [112, 116, 120],
    }
}

/// So many ports share a chain.
const PORTS: u16 = 64;

/// What the kernel should hold of one family.
#[derive(Clone, Debug)]
pub struct Half {
    family: Family,
    /// Every chain of ours with its rules.
    pub(super) chains: BTreeMap<Place, Vec<Rule>>,
    /// Places whose rules are not as they were when this was taken last.
    pub(super) changed: BTreeSet<Place>,
    /// Who wants a frontend; the first of them has it.
    fronts: BTreeMap<At, Vec<(PortKey, Front)>>,
    contested: usize,
    /// Addresses of the node that have frontends on node addresses.
    node_addresses: BTreeSet<IpAddr>,
    unsettled: Unsettled,
}

/// What of the tree has to be written anew.
#[derive(Clone, Debug, Default)]
struct Unsettled {
    nets: BTreeSet<Cidr>,
    node_ports: BTreeSet<(Protocol, u16)>,
    roots: bool,
}

impl Half {
    pub(super) fn new(family: Family) -> Self {
        let unsettled = Unsettled { roots: true, ..Unsettled::default() };
        Self {
            family,
            chains: BTreeMap::new(),
            changed: BTreeSet::new(),
            fronts: BTreeMap::new(),
            contested: 0,
            node_addresses: BTreeSet::new(),
            unsettled,
        }
    }

    /// Frontends that more than one service port wants.
    pub(super) const fn contested(&self) -> usize {
        self.contested
    }

    /// Whether there is any frontend.
    pub(super) fn has_fronts(&self) -> bool {
        !self.fronts.is_empty()
    }

    /// Puts a chain there; `None` takes it away. Says whether it came or went.
    pub(super) fn put(&mut self, place: Place, rules: Option<Vec<Rule>>) -> bool {
        let old = self.chains.get(&place);
        if old == rules.as_ref() {
            return false;
        }
        let toggled = old.is_some() != rules.is_some();
        match rules {
            Some(rules) => drop(self.chains.insert(place.clone(), rules)),
            None => drop(self.chains.remove(&place)),
        }
        self.changed.insert(place);
        toggled
    }

    /// A service port has a frontend, or has it no longer.
    pub(super) fn set_front(
        &mut self,
        key: &PortKey,
        (address, protocol, port): (FrontendAddress, Protocol, u16),
        front: Option<Front>,
    ) {
        let address = match address {
            FrontendAddress::Ip(address) => Some(address),
            FrontendAddress::NodeAddresses => None,
        };
        let at = (address, protocol, port);
        let all = self.fronts.entry(at).or_default();
        let old = all.iter().find(|(of, _)| of == key).map(|(_, old)| old);
        if old.is_some() && old == front.as_ref() {
            return;
        }
        let was_contested = all.len() > 1;
        all.retain(|(of, _)| of != key);
        all.extend(front.map(|front| (key.clone(), front)));
        let is_contested = all.len() > 1;
        if all.is_empty() {
            self.fronts.remove(&at);
        }
        self.contested = self.contested + usize::from(is_contested) - usize::from(was_contested);
        match address {
            Some(address) => self.touch(address),
            None => drop(self.unsettled.node_ports.insert((protocol, port / PORTS * PORTS))),
        }
    }

    /// Frontends on node addresses are on these.
    pub(super) fn set_node_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        let before = std::mem::replace(&mut self.node_addresses, addresses);
        let moved: Vec<IpAddr> =
            before.symmetric_difference(&self.node_addresses).copied().collect();
        for address in moved {
            self.touch(address);
        }
    }

    fn touch(&mut self, address: IpAddr) {
        let [.., leaf] = levels(self.family);
        self.unsettled.nets.insert(net(address, leaf));
    }

    /// Writes the chains of the tree anew where something changed, from the leaves to the root.
    pub(super) fn settle(&mut self, fixed: &Fixed) {
        let Unsettled { mut nets, node_ports, mut roots } = std::mem::take(&mut self.unsettled);
        let levels = levels(self.family);
        for (depth, _) in levels.iter().enumerate().rev() {
            let mut above = BTreeSet::new();
            for net_of in nets {
                let mut toggled = false;
                for table in Table::ALL {
                    let rules = match levels.get(depth + 1) {
                        None => self.leaf(fixed, table, net_of),
                        Some(below) => self.branch(fixed, table, Some(net_of), *below),
                    };
                    let place = (table, fixed.names.net(net_of));
                    toggled |= self.put(place, (!rules.is_empty()).then_some(rules));
                }
                if toggled {
                    match depth.checked_sub(1).and_then(|above| levels.get(above)) {
                        Some(len) => drop(above.insert(net(net_of.address, *len))),
                        None => roots = true,
                    }
                }
            }
            nets = above;
        }
        let mut toggled = roots;
        for (protocol, first) in node_ports {
            for table in Table::ALL {
                let rules = self.node_port_leaf(fixed, table, protocol, first);
                let place = (table, fixed.names.node_ports(protocol, first));
                toggled |= self.put(place, (!rules.is_empty()).then_some(rules));
            }
        }
        if toggled {
            for table in Table::ALL {
                let rules = self.node_port_root(fixed, table);
                self.put((table, fixed.node_ports.clone()), Some(rules));
            }
        }
        if roots {
            for (table, root) in [(Table::Nat, &fixed.services), (Table::Filter, &fixed.refuse)] {
                let rules = self.branch(fixed, table, None, levels[0]);
                self.put((table, root.clone()), Some(rules));
            }
        }
    }

    /// The networks of this length within another one, or everywhere, that have a chain.
    fn branch(&self, fixed: &Fixed, table: Table, within: Option<Cidr>, len: u8) -> Vec<Rule> {
        let everywhere = Cidr { address: self.lowest(), prefix_len: 0 };
        let within = within.unwrap_or(everywhere);
        let mut rules = Vec::new();
        let mut next = Some(within.address);
        while let Some(from) = next {
            let Some(address) = self.address_from(from).filter(|it| within.contains(*it)) else {
                break;
            };
            let below = net(address, len);
            let chain = fixed.names.net(below);
            if self.chains.contains_key(&(table, chain.clone())) {
                rules.push(Rule::goto(&chain).to(below));
            }
            next = after(below);
        }
        rules
    }

    fn lowest(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// The first address from this one on that has frontends.
    fn address_from(&self, from: IpAddr) -> Option<IpAddr> {
        let front = self.fronts.range((Some(from), Protocol::Tcp, 0)..).next();
        let front = front.and_then(|((address, ..), _)| *address);
        let node = self.node_addresses.range(from..).next().copied();
        front.into_iter().chain(node).min()
    }

    /// The frontends on the addresses of a network.
    fn leaf(&self, fixed: &Fixed, table: Table, net: Cidr) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut next = Some(net.address);
        while let Some(address) = next.and_then(|from| self.address_from(from)) {
            if !net.contains(address) {
                break;
            }
            self.address(fixed, table, address, &mut rules);
            next = after(Cidr::of(address));
        }
        rules
    }

    /// The frontends on one address: first those that name it, then those on every node address, then
    /// that a cluster IP has no other ports.
    fn address(&self, fixed: &Fixed, table: Table, address: IpAddr, rules: &mut Vec<Rule>) {
        let is_node = self.node_addresses.contains(&address);
        let to = Cidr::of(address);
        let mut cluster_ip = None;
        for ((_, protocol, port), all) in self.fronts.range(at_address(Some(address))) {
            let Some((_, front)) = all.first() else { continue };
            if front.kind == FrontendKind::ClusterIp {
                cluster_ip = Some(&front.owner);
            }
            let rule = |rule: Rule, what| {
                let rule = rule.to(to).protocol(*protocol).comment(&front.owner, what);
                rule.with(Match::Ports(*port, *port))
            };
            rules.extend(match table {
                Table::Nat => nat(front, is_node, &rule),
                Table::Filter => filter(fixed, front, &rule),
            });
        }
        if is_node {
            rules.push(Rule::jump(&fixed.node_ports).to(to));
        }
        if let (Table::Filter, Some(owner)) = (table, cluster_ip) {
            rules.push(Rule::goto(&fixed.reject).to(to).comment(owner, "has no such port"));
        }
    }

    fn node_port_leaf(
        &self,
        fixed: &Fixed,
        table: Table,
        protocol: Protocol,
        first: u16,
    ) -> Vec<Rule> {
        let range = (None, protocol, first)..=(None, protocol, first | (PORTS - 1));
        let mut rules = Vec::new();
        for ((_, _, port), all) in self.fronts.range(range) {
            let Some((_, front)) = all.first() else { continue };
            let rule = |rule: Rule, what| {
                let rule = rule.protocol(protocol).comment(&front.owner, what);
                rule.with(Match::Ports(*port, *port))
            };
            rules.extend(match table {
                Table::Nat => nat(front, false, &rule),
                Table::Filter => filter(fixed, front, &rule),
            });
        }
        rules
    }

    fn node_port_root(&self, fixed: &Fixed, table: Table) -> Vec<Rule> {
        let mut rules = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let mut next = Some(0);
            while let Some(from) = next {
                let mut range =
                    self.fronts.range((None, protocol, from)..=(None, protocol, u16::MAX));
                let Some(((_, _, port), _)) = range.next() else { break };
                let (first, last) = (port / PORTS * PORTS, port | (PORTS - 1));
                let chain = fixed.names.node_ports(protocol, first);
                if self.chains.contains_key(&(table, chain.clone())) {
                    let rule = Rule::goto(&chain).protocol(protocol);
                    rules.push(rule.with(Match::Ports(first, last)));
                }
                next = last.checked_add(1);
            }
        }
        rules
    }
}

/// Where the clients of a frontend go.
fn nat(front: &Front, is_node: bool, rule: &impl Fn(Rule, &'static str) -> Rule) -> Vec<Rule> {
    match &front.to {
        Some(to) => vec![rule(Rule::goto(to), words(front.kind))],
        // Those of a frontend without endpoints do not mean the one behind it on the same port.
        None if is_node => vec![rule(Rule::new(Target::Return), "has no endpoints")],
        None => Vec::new(),
    }
}

/// Who is refused or dropped at a frontend.
fn filter(fixed: &Fixed, front: &Front, rule: &impl Fn(Rule, &'static str) -> Rule) -> Vec<Rule> {
    let firewall = front.firewall.as_ref();
    let firewall = firewall.map(|chain| rule(Rule::jump(chain), "source ranges"));
    let unserved = front.unserved.map(|unserved| match unserved {
        Unserved::Refused => rule(Rule::goto(&fixed.reject), "has no endpoints"),
        Unserved::Dropped => rule(Rule::new(Target::Drop), "has no endpoints on this node"),
    });
    firewall.into_iter().chain(unserved).collect()
}

const fn words(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster IP",
        FrontendKind::NodePort => "node port",
        FrontendKind::LoadBalancer => "load balancer",
        FrontendKind::ExternalIp => "external IP",
        FrontendKind::HostPort => "host port",
    }
}

fn at_address(address: Option<IpAddr>) -> std::ops::RangeInclusive<At> {
    (address, Protocol::Tcp, 0)..=(address, Protocol::Sctp, u16::MAX)
}

/// The network of this length that an address is in.
fn net(address: IpAddr, prefix_len: u8) -> Cidr {
    let address = match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len)).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix_len)).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    };
    Cidr { address, prefix_len }
}

/// The address behind the last one of a network.
fn after(net: Cidr) -> Option<IpAddr> {
    match net.address {
        IpAddr::V4(address) => {
            let size = 1u32.checked_shl(32 - u32::from(net.prefix_len))?;
            address.to_bits().checked_add(size).map(|bits| Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(address) => {
            let size = 1u128.checked_shl(128 - u32::from(net.prefix_len))?;
            address.to_bits().checked_add(size).map(|bits| Ipv6Addr::from_bits(bits).into())
        }
    }
}
