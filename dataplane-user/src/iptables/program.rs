//! What the kernel should hold: every chain of ours with its rules, for both families.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    fixed::Fixed,
    half::Half,
    port::{Part, Place, owner, part},
};
use crate::{
    backend::{Departed, Desired, Node, ServicePort},
    model::{Endpoint, Family, FrontendAddress, PortKey, PortState, Protocol},
};

/// The bit of packet marks that says "masquerade", unless told otherwise.
pub const MASQUERADE_MARK: u32 = 0x4000;

/// What the kernel should hold.
#[derive(Clone, Debug)]
pub struct Program {
    pub(super) fixed: Fixed,
    pub(super) node: Node,
    ports: BTreeMap<PortKey, Compiled>,
    number_next: u32,
    departed: Vec<Departed>,
    pub(super) v4: Half,
    pub(super) v6: Half,
}

/// What a service port has put into the program.
#[derive(Clone, Debug)]
struct Compiled {
    number: u32,
    places: BTreeSet<Place>,
    fronts: Vec<(FrontendAddress, Protocol, u16)>,
    endpoints: Vec<Endpoint>,
}

impl Compiled {
    /// Endpoints that are not among those that come.
    fn departed(&self, next: Option<&Self>) -> Vec<Departed> {
        let Some((_, protocol, _)) = self.fronts.first() else { return Vec::new() };
        let is_there = |old: &Endpoint| {
            let at = |of: &Endpoint| (of.address, of.port);
            next.is_some_and(|next| next.endpoints.iter().any(|new| at(new) == at(old)))
        };
        let gone = self.endpoints.iter().filter(|old| !is_there(old));
        let departed = gone.map(|old| Departed {
            address: old.address,
            port: old.port,
            protocol: *protocol,
            id: 0,
            views: u32::MAX,
        });
        departed.collect()
    }
}

impl Default for Program {
    fn default() -> Self {
        Self::new("default", MASQUERADE_MARK)
    }
}

impl Program {
    /// A program without services.
    pub fn new(instance: &str, mask: u32) -> Self {
        let mut program = Self {
            fixed: Fixed::new(instance, mask),
            node: Node::default(),
            ports: BTreeMap::new(),
            number_next: 1,
            departed: Vec::new(),
            v4: Half::new(Family::V4),
            v6: Half::new(Family::V6),
        };
        program.set_node(&Node::default());
        program
    }

    /// What there is of one family.
    pub const fn half(&self, family: Family) -> &Half {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    pub(super) const fn half_mut(&mut self, family: Family) -> &mut Half {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Makes the program right for this node.
    pub fn set_node(&mut self, node: &Node) {
        self.node = node.clone();
        for family in [Family::V4, Family::V6] {
            let chains = self.fixed.chains(family, node);
            let of_family = |address: &&IpAddr| Family::of(**address) == family;
            let addresses = node.node_port_addresses.iter().filter(of_family).copied().collect();
            let half = self.half_mut(family);
            for (place, rules) in chains {
                half.put(place, Some(rules));
            }
            half.set_node_addresses(addresses);
        }
        self.settle();
    }

    /// Makes the program right for the whole table.
    pub fn compile(&mut self, table: &dyn Desired) {
        let mut gone: BTreeSet<PortKey> = self.ports.keys().cloned().collect();
        for key in table.keys() {
            if let Some(state) = table.port(&key) {
                gone.remove(&key);
                self.put(&key, Some(&state));
            }
        }
        for key in gone {
            self.put(&key, None);
        }
        self.settle();
    }

    /// Makes the program right for one service port; `None` when it is gone.
    pub fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.put(key, state);
        self.settle();
    }

    /// Every service port.
    pub fn services(&self) -> Vec<ServicePort> {
        let service = |(key, compiled): (&PortKey, &Compiled)| ServicePort {
            number: compiled.number,
            key: Some(key.clone()),
            frontends: compiled.fronts.len(),
            endpoints: compiled.endpoints.len(),
        };
        self.ports.iter().map(service).collect()
    }

    /// Frontends that more than one service port wants.
    pub const fn contested(&self) -> usize {
        self.v4.contested() + self.v6.contested()
    }

    /// Endpoints that left since the last call.
    pub(super) fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    /// Whose rule or chain stands in a line of a restore.
    pub(super) fn key_of_line(&self, family: Family, line: &str) -> Option<PortKey> {
        let comment = line.split_once("--comment \"").and_then(|(_, rest)| rest.split('"').next());
        let word =
            line.trim_start_matches(':').split(' ').find(|word| self.fixed.names.is_ours(word));
        let is_it = |(key, compiled): &(&PortKey, &Compiled)| {
            let by_chain = compiled.places.iter().any(|(_, chain)| Some(chain.as_str()) == word);
            let name = owner(key);
            let by_comment = comment.is_some_and(|comment| {
                comment
                    .strip_prefix(&*name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
            });
            key.family == family && (by_chain || by_comment)
        };
        self.ports.iter().find(is_it).map(|(key, _)| key.clone())
    }

    fn settle(&mut self) {
        self.v4.settle(&self.fixed);
        self.v6.settle(&self.fixed);
    }

    fn put(&mut self, key: &PortKey, state: Option<&PortState>) {
        let new = state.map(|state| part(&self.fixed, key, state)).unwrap_or_default();
        let Part { chains, fronts } = new;
        let old = self.ports.remove(key);
        let compiled = state.map(|state| Compiled {
            number: old.as_ref().map_or(self.number_next, |old| old.number),
            places: chains.keys().cloned().collect(),
            fronts: fronts
                .iter()
                .map(|(address, protocol, port, _)| (*address, *protocol, *port))
                .collect(),
            endpoints: state.endpoints.clone(),
        });
        let half = match key.family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        };
        if let Some(old) = &old {
            self.departed.extend(old.departed(compiled.as_ref()));
            let now: BTreeSet<_> =
                compiled.iter().flat_map(|compiled| compiled.fronts.iter().copied()).collect();
            for at in old.fronts.iter().filter(|at| !now.contains(at)) {
                half.set_front(key, *at, None);
            }
            for place in &old.places {
                if !chains.contains_key(place) {
                    half.put(place.clone(), None);
                }
            }
        }
        for (place, rules) in chains {
            half.put(place, Some(rules));
        }
        for (address, protocol, port, front) in fronts {
            half.set_front(key, (address, protocol, port), Some(front));
        }
        if let Some(compiled) = compiled {
            if compiled.number == self.number_next {
                self.number_next = self.number_next.wrapping_add(1).max(1);
            }
            self.ports.insert(key.clone(), compiled);
        }
    }
}
