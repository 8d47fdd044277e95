//! Who has which frontend, and what follows from that: gate bits, markers of cluster IPs, counts.

use std::collections::BTreeMap;

use dataplane_common::{Frontend, FrontendKey, FrontendKind};

use super::{half::Half, program::Shared};
use crate::model::PortKey;

/// Who has a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) slot: u32,
    pub(crate) flags: u32,
}

impl Owner {
    fn kind(self) -> Option<FrontendKind> {
        Frontend { flags: self.flags, ..Frontend::default() }.kind()
    }
}

/// What the frontends of one family amount to.
#[derive(Clone, Debug)]
pub(crate) struct Tally<const N: usize> {
    /// Addresses that are cluster IPs, and how many frontends each of them has.
    cluster_ips: ahash::AHashMap<[u8; N], u32>,
    /// Ports of Pods on every node address, and how many protocols use each of them.
    host_ports: BTreeMap<u16, u32>,
    /// Frontends that serve clients from outside without masquerade.
    unmasqueraded: usize,
}

impl<const N: usize> Tally<N> {
    /// Of no frontends.
    pub(crate) fn new() -> Self {
        Self { cluster_ips: ahash::AHashMap::new(), host_ports: BTreeMap::new(), unmasqueraded: 0 }
    }

    /// Makes room for more cluster IPs.
    pub(crate) fn expect(&mut self, cluster_ips: usize) {
        self.cluster_ips.reserve(cluster_ips);
    }

    /// Frontends of a cluster IP.
    pub(crate) fn cluster_ip(&self, addr: &[u8; N]) -> u32 {
        self.cluster_ips.get(addr).copied().unwrap_or(0)
    }

    /// How many cluster IPs there are; each has a marker.
    pub(crate) fn markers_len(&self) -> usize {
        self.cluster_ips.len()
    }

    /// Least and greatest of the Pods' ports on every node address.
    pub(crate) fn host_ports(&self) -> Option<(u16, u16)> {
        Some((*self.host_ports.first_key_value()?.0, *self.host_ports.last_key_value()?.0))
    }

    /// Frontends that serve clients from outside without masquerade.
    pub(crate) fn unmasqueraded(&self) -> usize {
        self.unmasqueraded
    }

    /// One frontend more. Says whether its address became a cluster IP.
    fn add(&mut self, key: &FrontendKey<N>, owner: Owner) -> bool {
        self.unmasqueraded += usize::from(owner.flags & Frontend::MASQUERADE_OUTSIDE == 0);
        match owner.kind() {
            Some(FrontendKind::ClusterIp) => {
                let count = self.cluster_ips.entry(key.addr()).or_insert(0);
                *count += 1;
                *count == 1
            }
            Some(FrontendKind::HostPort) if key.addr() == [0; N] => {
                *self.host_ports.entry(key.port()).or_insert(0) += 1;
                false
            }
            Some(
                FrontendKind::NodePort
                | FrontendKind::LoadBalancer
                | FrontendKind::ExternalIp
                | FrontendKind::HostPort,
            )
            | None => false,
        }
    }

    /// One frontend less. Says whether its address is no longer a cluster IP.
    fn remove(&mut self, key: &FrontendKey<N>, owner: Owner) -> bool {
        self.unmasqueraded -= usize::from(owner.flags & Frontend::MASQUERADE_OUTSIDE == 0);
        match owner.kind() {
            Some(FrontendKind::ClusterIp) => match self.cluster_ips.get_mut(&key.addr()) {
                Some(count) if *count > 1 => {
                    *count -= 1;
                    false
                }
                Some(_) | None => self.cluster_ips.remove(&key.addr()).is_some(),
            },
            Some(FrontendKind::HostPort) if key.addr() == [0; N] => {
                match self.host_ports.get_mut(&key.port()) {
                    Some(count) if *count > 1 => *count -= 1,
                    Some(_) | None => drop(self.host_ports.remove(&key.port())),
                }
                false
            }
            Some(
                FrontendKind::NodePort
                | FrontendKind::LoadBalancer
                | FrontendKind::ExternalIp
                | FrontendKind::HostPort,
            )
            | None => false,
        }
    }
}

/// The entry that says that an address is a cluster IP: ports of it that no Service has are refused.
pub(crate) const fn marker<const N: usize>(addr: [u8; N]) -> FrontendKey<N> {
    FrontendKey::new(addr, 0, 0)
}

/// Whether a key is that of a marker. No protocol has the number 0.
pub(crate) const fn is_marker<const N: usize>(key: &FrontendKey<N>) -> bool {
    key.protocol() == 0
}

/// A frontend has another owner, or other bits, or none any more.
pub(crate) fn set_owner<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: FrontendKey<N>,
    owner: Option<Owner>,
) {
    let before = match owner {
        Some(owner) => half.frontends.insert(key, owner),
        None => half.frontends.remove(&key),
    };
    half.frontends_dirty.push(key);
    match (before, owner) {
        (None, Some(_)) => shared.gate.add(&key.addr()),
        (Some(_), None) => shared.gate.remove(&key.addr()),
        (None, None) | (Some(_), Some(_)) => {}
    }
    // The new one first, so that a cluster IP that stays one is not marked.
    let came = owner.is_some_and(|owner| half.tally.add(&key, owner));
    let went = before.is_some_and(|before| half.tally.remove(&key, before));
    if came || went {
        half.frontends_dirty.push(marker(key.addr()));
    }
}

/// `owner` wants a frontend. Of several the port that sorts first has it. `moved`: its value for
/// these bits is another than before.
pub(crate) fn claim_frontend<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: &PortKey,
    owner: Owner,
    frontend: FrontendKey<N>,
    moved: bool,
) {
    if let Some(&seen) = half.frontends.get(&frontend) {
        if seen.slot == owner.slot {
            if moved || seen != owner {
                set_owner(half, shared, frontend, Some(owner));
            }
            return;
        }
        let other = half.port(seen.slot).and_then(|port| port.key.clone());
        if let Some(other) = other {
            if other < *key {
                half.contested.entry(frontend).or_default().insert(key.clone(), owner);
                return;
            }
            let losers = half.contested.entry(frontend).or_default();
            losers.remove(key);
            losers.insert(other, seen);
        }
    }
    set_owner(half, shared, frontend, Some(owner));
}

/// The port `key` in `slot` no longer wants a frontend.
pub(crate) fn give_up<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    key: &PortKey,
    slot: u32,
    frontend: FrontendKey<N>,
) {
    if half.frontends.get(&frontend).is_some_and(|owner| owner.slot == slot) {
        pass_on(half, shared, slot, frontend);
    } else if let Some(losers) = half.contested.get_mut(&frontend) {
        losers.remove(key);
        if losers.is_empty() {
            half.contested.remove(&frontend);
        }
    }
}

/// The frontend goes to the next port that wants it, or away.
pub(crate) fn pass_on<const N: usize>(
    half: &mut Half<N>,
    shared: &mut Shared,
    slot: u32,
    frontend: FrontendKey<N>,
) {
    if half.frontends.get(&frontend).is_none_or(|owner| owner.slot != slot) {
        return;
    }
    let next = half.contested.get_mut(&frontend).and_then(BTreeMap::pop_first);
    if half.contested.get(&frontend).is_some_and(BTreeMap::is_empty) {
        half.contested.remove(&frontend);
    }
    set_owner(half, shared, frontend, next.map(|(_, owner)| owner));
}
