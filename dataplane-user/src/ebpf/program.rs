//! What the maps should hold, as compact plain data: both families, identities, the gate.

use std::{collections::BTreeMap, net::IpAddr};

use dataplane_common::names;

use super::{compile::CapacityError, gate::Gate, half::Half, ids::Ids};
use crate::model::{Family, PortKey, Protocol};

/// How much each map holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frontends on IPv4.
    pub frontends4: u32,
    /// Frontends on IPv6.
    pub frontends6: u32,
    /// Slots for endpoints on IPv4.
    pub endpoints4: u32,
    /// Slots for endpoints on IPv6.
    pub endpoints6: u32,
    /// Identities, index 0 included.
    pub live: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends4: names::FRONTENDS_MAX,
            frontends6: names::FRONTENDS_MAX,
            endpoints4: names::ENDPOINTS_MAX,
            endpoints6: names::ENDPOINTS_MAX,
            live: dataplane_common::EndpointId::INDEX_MAX,
        }
    }
}

/// An endpoint that no longer takes flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Departed {
    /// Its address.
    pub address: IpAddr,
    /// Its target port.
    pub port: u16,
    /// The protocol of its service port.
    pub protocol: Protocol,
    /// The identity it had, as in `LIVE`.
    pub id: u32,
}

/// One service port, as `hashplane services` and the metrics show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number in frontends and flows.
    pub number: u32,
    /// Which port of which service; `None` for one found in the maps that nobody has claimed yet.
    pub key: Option<PortKey>,
    /// How many frontends it has.
    pub frontends: usize,
    /// How many endpoints it has.
    pub endpoints: usize,
}

/// How full a map is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fill {
    /// Name of the map.
    pub map: &'static str,
    /// Entries in use; those which rest before they are used again count.
    pub used: usize,
    /// Entries it can hold.
    pub max: usize,
}

/// What the maps should hold, and which entries of them may not hold it yet.
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) v4: Half<4>,
    pub(crate) v6: Half<16>,
    pub(crate) shared: Shared,
    pub(crate) left_out: BTreeMap<PortKey, CapacityError>,
}

/// What both families share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) ids: Ids,
    pub(crate) gate: Gate,
    /// Indexes of `LIVE` that may differ from the kernel's.
    pub(crate) live_dirty: Vec<u32>,
    pub(crate) departed: Vec<Departed>,
    /// Endpoints that have the node's own address.
    pub(crate) hosts: usize,
}

impl Program {
    /// A program for empty maps of these sizes.
    pub fn new(limits: Limits) -> Self {
        Self {
            v4: Half::new(Family::V4, limits.frontends4, limits.endpoints4),
            v6: Half::new(Family::V6, limits.frontends6, limits.endpoints6),
            shared: Shared {
                ids: Ids::new(limits.live),
                gate: Gate::new(),
                live_dirty: Vec::new(),
                departed: Vec::new(),
                hosts: 0,
            },
            left_out: BTreeMap::new(),
        }
    }

    /// Every service port in the maps, by number.
    pub fn services(&self) -> Vec<ServicePort> {
        let mut services: Vec<_> = self.v4.services().chain(self.v6.services()).collect();
        services.sort_by_key(|service| service.number);
        services
    }

    /// The service port with this number.
    pub fn service(&self, number: u32) -> Option<&PortKey> {
        self.v4.key(number).or_else(|| self.v6.key(number))
    }

    /// How full the maps are.
    pub fn fill(&self) -> [Fill; 5] {
        let (ids_used, ids_max) = self.shared.ids.fill();
        [
            self.v4.frontends_fill(names::FRONTENDS4),
            self.v6.frontends_fill(names::FRONTENDS6),
            self.v4.endpoints_fill(names::ENDPOINTS4),
            self.v6.endpoints_fill(names::ENDPOINTS6),
            Fill { map: names::LIVE, used: ids_used, max: ids_max },
        ]
    }

    /// Service ports that found no room, in full or for their latest change, and why.
    pub fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        &self.left_out
    }

    /// Frontends that more than one service port wants. The port that sorts first has it.
    pub fn contested(&self) -> usize {
        self.v4.contested.len() + self.v6.contested.len()
    }

    /// How many entries may differ from the kernel's.
    pub fn pending(&self) -> usize {
        let shared = self.shared.live_dirty.len() + self.shared.gate.dirty.len();
        shared + self.v4.pending() + self.v6.pending()
    }

    /// Whether something given back becomes free later: call [`Self::reclaim`] again.
    pub fn is_resting(&self) -> bool {
        self.shared.ids.is_resting() || self.v4.blocks.is_resting() || self.v6.blocks.is_resting()
    }

    /// Frees what was given back and has rested at `now_ms`; says whether that was anything.
    pub fn reclaim(&mut self, now_ms: u64) -> bool {
        let ids = self.shared.ids.reclaim(now_ms);
        let v4 = self.v4.blocks.reclaim(now_ms);
        let v6 = self.v6.blocks.reclaim(now_ms);
        ids || v4 || v6
    }

    /// Endpoints that left and whose sockets have not been looked after; empties the list.
    pub fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.shared.departed)
    }

    /// Whether some endpoint has the node's own address.
    pub fn has_host_endpoints(&self) -> bool {
        self.shared.hosts > 0
    }

    /// Whether gate bits wait for flows to end.
    pub fn has_stale_gate_bits(&self) -> bool {
        self.shared.gate.has_stale()
    }

    /// Clears gate bits that neither a frontend nor a live flow needs. `needed` must come from a
    /// look at the flows that began after the last apply; while edits are pending nothing happens.
    pub fn clear_gate(&mut self, needed: &std::collections::BTreeSet<u32>) {
        if self.pending() == 0 {
            self.shared.gate.clear_stale(needed);
        }
    }
}
