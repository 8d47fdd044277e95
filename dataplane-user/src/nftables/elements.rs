//! The elements that a program's sets should have, set by set.

use super::{
    edits::{SetId, Value},
    half::{
        Half, LOOPBACK_NETWORK, Port, endpoint_key, frontend_key, hairpin_key, member, plan_set,
        range_key, ranged_value, read_frontend, service_value,
    },
    treatment::{Place, Treatment},
};

impl<const N: usize> Half<N> {
    /// Calls `each` with the key and the value of every element of a set, in any order.
    #[expect(clippy::disallowed_methods, reason = "those who take the elements sort them by key")]
    pub(super) fn for_each(&self, set: SetId, mut each: impl FnMut(&[u8], &[u8])) {
        match set {
            SetId::Plans | SetId::NodePlans => {
                for (_, treatment) in self.plans().filter(|(place, _)| plan_set(*place) == set) {
                    each(&treatment.code().to_ne_bytes(), &[]);
                }
            }
            SetId::Endpoints => self.for_each_target(|_, view, index, target| {
                each(&endpoint_key(view, index), &member(view, target));
            }),
            SetId::Members => self.for_each_target(|port, view, _, target| {
                if port.affinity_s > 0 {
                    each(&member(view, target), &[]);
                }
            }),
            SetId::Hairpins => self.hairpins.keys().for_each(|addr| each(&hairpin_key(addr), &[])),
            SetId::SourceRanges => {
                for (slot, port) in self.slots() {
                    port.ranges.iter().for_each(|range| each(&range_key(slot, range), &[]));
                }
            }
            SetId::NodeAddresses => self.node_addresses.iter().for_each(|addr| each(addr, &[])),
            SetId::PodLinks => self.pod_links.iter().for_each(|link| each(link, &[])),
            SetId::Loopback => {
                if self.loopback {
                    each(&LOOPBACK_NETWORK, &[]);
                }
            }
            SetId::Ranged => {
                for (key, entry) in self.frontends.iter().filter(|(_, entry)| entry.is_ranged) {
                    each(&frontend_key(key), &ranged_value::<N>(entry.slot));
                }
            }
            SetId::Services => {
                for (key, entry) in &self.frontends {
                    each(&frontend_key(key), &service_value::<N>(*entry));
                }
            }
            SetId::ClusterIps => self.cluster_ips.keys().for_each(|addr| each(addr, &[])),
        }
    }

    fn slots(&self) -> impl Iterator<Item = (u32, &Port<N>)> {
        (0u32..).zip(&self.ports).filter_map(|(slot, port)| Some((slot, port.as_ref()?)))
    }

    fn for_each_target(&self, mut each: impl FnMut(&Port<N>, u32, usize, &super::half::Target<N>)) {
        for (slot, port) in self.slots() {
            for (bit, targets) in (0u32..).zip(&port.views) {
                let view = Self::number(slot) | bit;
                for (index, target) in targets.iter().enumerate() {
                    each(port, view, index, target);
                }
            }
        }
    }

    /// What the element with this key should hold, if there should be one.
    pub(super) fn value(&self, set: SetId, key: &[u8]) -> Option<Value> {
        let present = |is_there: bool| is_there.then(Vec::new);
        let word =
            |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(*key.get(at..)?.first_chunk()?)) };
        let addr = || <[u8; N]>::try_from(key).ok();
        match set {
            SetId::Plans => present(self.has_plan(Place::Address, Treatment::of(word(0)?)?)),
            SetId::NodePlans => present(self.has_plan(Place::Node, Treatment::of(word(0)?)?)),
            SetId::Endpoints => {
                let (slot, is_local) = Self::slot_of(word(0)?)?;
                let targets = &self.port(slot)?.views[usize::from(is_local)];
                Some(member(word(0)?, targets.get(word(4)? as usize)?))
            }
            SetId::Members => {
                let (slot, is_local) = Self::slot_of(word(0)?)?;
                let port = self.port(slot).filter(|port| port.affinity_s > 0)?;
                let targets = &port.views[usize::from(is_local)];
                let view = word(0)?;
                present(targets.iter().any(|target| member(view, target) == key))
            }
            SetId::Hairpins => {
                let (source, destination) = key.split_at_checked(N)?;
                let is_known = self.hairpins.contains_key(<&[u8; N]>::try_from(source).ok()?);
                present(source == destination && is_known)
            }
            SetId::SourceRanges => {
                let (slot, is_local) = Self::slot_of(word(0)?)?;
                let mut ranges = self.port(slot).filter(|_| !is_local)?.ranges.iter();
                present(ranges.any(|range| range_key(slot, range) == key))
            }
            SetId::NodeAddresses => present(self.node_addresses.contains(&addr()?)),
            SetId::PodLinks => present(self.pod_links.contains(<&[u8; 16]>::try_from(key).ok()?)),
            SetId::Loopback => present(self.loopback && key == LOOPBACK_NETWORK),
            SetId::Ranged => {
                let entry = self.frontends.get(&read_frontend(key)?)?;
                entry.is_ranged.then(|| ranged_value::<N>(entry.slot))
            }
            SetId::Services => {
                let entry = self.frontends.get(&read_frontend(key)?)?;
                Some(service_value::<N>(*entry))
            }
            SetId::ClusterIps => present(self.cluster_ips.contains_key(&addr()?)),
        }
    }

    /// Whether clients of a service port with this key, its number and an address, are served.
    pub(super) fn serves(&self, key: &[u8]) -> bool {
        let Some((number, client)) = key.split_first_chunk::<4>() else { return false };
        let slot = Self::slot_of(u32::from_ne_bytes(*number));
        let port = slot.and_then(|(slot, _)| self.port(slot));
        let within = |(first, last): &([u8; N], [u8; N])| {
            first.as_slice() <= client && client <= last.as_slice()
        };
        port.is_some_and(|port| port.ranges.iter().any(within))
    }
}
