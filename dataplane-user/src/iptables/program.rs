//! What the kernel should hold: every chain of ours with its rules, for both families.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::{
    fixed::Fixed,
    half::Half,
    port::{Part, Place, part},
};
use crate::{
    backend::{Desired, Node, ServicePort},
    model::{Family, FrontendAddress, PortKey, PortState, Protocol},
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
    pub(super) v4: Half,
    pub(super) v6: Half,
}

/// What a service port has put into the program.
#[derive(Clone, Debug)]
struct Compiled {
    number: u32,
    places: BTreeSet<Place>,
    fronts: Vec<(FrontendAddress, Protocol, u16)>,
    endpoints: usize,
}

impl Program {
    /// A program without services.
    pub fn new(instance: &str, mask: u32) -> Self {
        let mut program = Self {
            fixed: Fixed::new(instance, mask),
            node: Node::default(),
            ports: BTreeMap::new(),
            number_next: 1,
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
            endpoints: compiled.endpoints,
        };
        self.ports.iter().map(service).collect()
    }

    /// Frontends that more than one service port wants.
    pub const fn contested(&self) -> usize {
        self.v4.contested() + self.v6.contested()
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
            endpoints: state.endpoints.len(),
        });
        let half = self.half_mut(key.family);
        if let Some(old) = &old {
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
