//! What the maps should hold, as compact plain data: both families, identities, the gate.

use std::{collections::BTreeMap, ops::RangeInclusive};

use dataplane_common::{EndpointId, Live, names};

use super::{compile::CapacityError, gate::Gate, half::Half, ids::Ids};
pub use crate::backend::{Departed, Fill, ServicePort};
use crate::model::{Family, PortKey};

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
    /// Source ranges on IPv4.
    pub sources4: u32,
    /// Source ranges on IPv6.
    pub sources6: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frontends4: names::FRONTENDS_MAX,
            frontends6: names::FRONTENDS_MAX,
            endpoints4: names::ENDPOINTS_MAX,
            endpoints6: names::ENDPOINTS_MAX,
            live: EndpointId::INDEX_MAX,
            sources4: names::SOURCES_MAX,
            sources6: names::SOURCES_MAX,
        }
    }
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
    pub(crate) live_dirty: Vec<LiveEdit>,
    pub(crate) departed: Vec<Departed>,
    /// Endpoints that have the node's own address.
    pub(crate) hosts: usize,
}

/// An entry of `LIVE` that may differ from the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LiveEdit {
    /// Which one.
    pub(crate) index: u32,
    /// Views in which the kernel may still know the same endpoint.
    pub(crate) before: u32,
}

impl Shared {
    /// An endpoint takes flows in these views from now on; says which ones it left.
    pub(crate) fn set_views(&mut self, id: EndpointId, views: u32) -> u32 {
        let Live { views: before, .. } = self.ids.live(id.index());
        if before != views {
            self.ids.set_views(id.index(), views);
            self.live_dirty.push(LiveEdit { index: id.index(), before });
        }
        before & !views
    }

    /// The kernel's entry may be anything but the same endpoint with other views.
    pub(crate) fn mark_live(&mut self, id: EndpointId) {
        self.live_dirty.push(LiveEdit { index: id.index(), before: 0 });
    }
}

impl Program {
    /// A program for empty maps of these sizes.
    pub fn new(limits: Limits) -> Self {
        Self {
            v4: Half::new(Family::V4, limits.frontends4, limits.endpoints4, limits.sources4),
            v6: Half::new(Family::V6, limits.frontends6, limits.endpoints6, limits.sources6),
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
    pub fn fill(&self) -> [Fill; 7] {
        let (ids_used, ids_max) = self.shared.ids.fill();
        [
            self.v4.frontends_fill(names::FRONTENDS4),
            self.v6.frontends_fill(names::FRONTENDS6),
            self.v4.endpoints_fill(names::ENDPOINTS4),
            self.v6.endpoints_fill(names::ENDPOINTS6),
            Fill { map: names::LIVE, used: ids_used, max: ids_max },
            self.v4.sources_fill(names::SOURCES4),
            self.v6.sources_fill(names::SOURCES6),
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
        self.shared.ids.is_resting() || self.v4.is_resting() || self.v6.is_resting()
    }

    /// Frees what was given back and has rested at `now_ms`; says whether that was anything.
    pub fn reclaim(&mut self, now_ms: u64) -> bool {
        let ids = self.shared.ids.reclaim(now_ms);
        let v4 = self.v4.reclaim(now_ms);
        let v6 = self.v6.reclaim(now_ms);
        ids || v4 || v6
    }

    /// Endpoints that left and whose sockets have not been looked after; empties the list.
    pub fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.shared.departed)
    }

    /// Whether answers to translated flows leave by a NIC with the endpoint as their source: some
    /// endpoint has the node's own address, or some frontend serves clients from outside without
    /// masquerade.
    pub fn needs_nic_replies(&self) -> bool {
        let unmasqueraded = self.v4.tally.unmasqueraded() + self.v6.tally.unmasqueraded();
        self.shared.hosts + unmasqueraded > 0
    }

    /// From the least to the greatest of the Pods' ports on every node address, in both families.
    pub fn host_ports(&self) -> Option<RangeInclusive<u16>> {
        let both = [self.v4.tally.host_ports(), self.v6.tally.host_ports()];
        let (first, last) = both
            .into_iter()
            .flatten()
            .reduce(|(first, last), (min, max)| (first.min(min), last.max(max)))?;
        Some(first..=last)
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
