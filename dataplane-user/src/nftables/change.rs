//! One service port's change, as edits of elements: O(change).

use std::{collections::BTreeSet, net::IpAddr};

use ahash::{AHashMap, AHashSet};
use dataplane_common::{FrontendKey, Live};

use super::{
    edits::SetId,
    half::{Entry, Half, Port, Range, Target, address, endpoint_key, member, octets, range_key},
    treatment::{AMONG_MAX, Pick, Treatment},
};
use crate::{
    backend::Departed,
    model::{
        Cidr, Endpoint, Frontend, FrontendAddress, FrontendKind, Placement, PortKey, PortState,
        Protocol, Scope, Served, TrafficPolicy,
    },
};

/// What a state asks for, in the words of the maps.
struct Wanted<const N: usize> {
    protocol: Protocol,
    frontends: Vec<(FrontendKey<N>, FrontendKind)>,
    views: [Vec<Target<N>>; 2],
    /// Addresses of endpoints that are not this host.
    away: Vec<[u8; N]>,
    affinity_s: u32,
    ranges: Vec<Range<N>>,
    has_ranges: bool,
    /// Whether a view had to be cut.
    is_cut: bool,
}

const SCOPES: [Scope; 3] = [Scope::Host, Scope::Pod, Scope::Outside];
const POLICIES: [TrafficPolicy; 2] = [TrafficPolicy::Cluster, TrafficPolicy::Local];

/// Makes one family's part right for a service port. Says which endpoints left, and whether there
/// are more endpoints than maps can hold.
pub(super) fn change<const N: usize>(
    half: &mut Half<N>,
    key: &PortKey,
    state: Option<&PortState>,
    departed: &mut Vec<Departed>,
) -> bool {
    let wanted = state.map(wanted::<N>).filter(|wanted| !wanted.frontends.is_empty());
    let slot = half.find(key);
    match (slot, wanted, state) {
        (None, None, _) | (_, Some(_), None) => false,
        (Some(slot), None, _) => {
            drop_port(half, slot, departed);
            false
        }
        (slot, Some(wanted), Some(state)) => {
            let is_cut = wanted.is_cut;
            let slot = slot.unwrap_or_else(|| add_port(half, key, &wanted));
            update(half, slot, wanted, state, departed);
            is_cut
        }
    }
}

/// Whether the kernel knows one of the frontends of a state that has no port yet.
pub(super) fn is_known<const N: usize>(half: &Half<N>, state: &PortState) -> bool {
    let mut frontends = state.frontends.iter().filter_map(frontend::<N>);
    half.seen.slots.is_empty() || frontends.any(|(key, _)| half.seen.slots.contains_key(&key))
}

/// A port without anything yet, in its slot.
fn add_port<const N: usize>(half: &mut Half<N>, key: &PortKey, wanted: &Wanted<N>) -> u32 {
    let port = Port {
        key: key.clone(),
        protocol: wanted.protocol,
        frontends: wanted.frontends.iter().map(|(frontend, _)| *frontend).collect(),
        views: [Vec::new(), Vec::new()],
        away: Box::default(),
        affinity_s: 0,
        ranges: Box::default(),
    };
    let slot = half.insert(port);
    // Endpoints that the kernel has keep their places there.
    let number = Half::<N>::number(slot);
    let seen = [number, number | 1].map(|view| half.seen.views.remove(&view).unwrap_or_default());
    if let Some(port) = half.ports[slot as usize].as_mut() {
        port.views = seen;
    }
    slot
}

fn update<const N: usize>(
    half: &mut Half<N>,
    slot: u32,
    wanted: Wanted<N>,
    state: &PortState,
    departed: &mut Vec<Departed>,
) {
    let Some(port) = half.ports.get_mut(slot as usize).and_then(Option::as_mut) else { return };
    let before_views = std::mem::take(&mut port.views);
    let before_affinity = std::mem::replace(&mut port.affinity_s, wanted.affinity_s);
    let ranges: Box<[Range<N>]> = wanted.ranges.into();
    let before_ranges = std::mem::replace(&mut port.ranges, ranges.clone());
    let before_away = std::mem::replace(&mut port.away, wanted.away.clone().into());
    let names: Box<[_]> = wanted.frontends.iter().map(|(frontend, _)| *frontend).collect();
    let before_frontends = std::mem::replace(&mut port.frontends, names);
    port.protocol = wanted.protocol;

    let number = Half::<N>::number(slot);
    let mut views = [Vec::new(), Vec::new()];
    for (of, wanted) in wanted.views.iter().enumerate() {
        let view = number | u32::from(of == 1);
        views[of] = place(half, view, &before_views[of], wanted);
        let members = |affinity_s, targets: &[Target<N>]| -> BTreeSet<Vec<u8>> {
            let targets = targets.iter().filter(|_| affinity_s > 0);
            targets.map(|target| member(view, target)).collect()
        };
        let before = members(before_affinity, &before_views[of]);
        let after = members(port_affinity(half, slot), &views[of]);
        edit_sets(half, SetId::Members, &before, &after);
    }
    tell_departed(wanted.protocol, &before_views, &views, departed);
    let keys = |ranges: &[Range<N>]| ranges.iter().map(|range| range_key(slot, range)).collect();
    edit_sets(half, SetId::SourceRanges, &keys(&before_ranges), &keys(&ranges));
    for addr in &wanted.away {
        half.count_address(SetId::Hairpins, *addr, true);
    }
    for addr in &before_away {
        half.count_address(SetId::Hairpins, *addr, false);
    }
    let lens = [views[0].len(), views[1].len()];
    if let Some(port) = half.ports[slot as usize].as_mut() {
        port.views = views;
    }
    for (frontend, kind) in &wanted.frontends {
        let is_ranged = wanted.has_ranges && *kind == FrontendKind::LoadBalancer;
        let treatments =
            SCOPES.map(|scope| treatment(state, *kind, scope, lens, wanted.affinity_s));
        half.set_entry(*frontend, Some(Entry { slot, kind: *kind, treatments, is_ranged }));
    }
    let stays: AHashSet<_> = wanted.frontends.iter().map(|(frontend, _)| *frontend).collect();
    for frontend in before_frontends.iter().filter(|frontend| !stays.contains(frontend)) {
        give_up(half, slot, *frontend);
    }
}

fn port_affinity<const N: usize>(half: &Half<N>, slot: u32) -> u32 {
    half.port(slot).map_or(0, |port| port.affinity_s)
}

/// A port goes, with all that is its own.
fn drop_port<const N: usize>(half: &mut Half<N>, slot: u32, departed: &mut Vec<Departed>) {
    let Some(port) = half.remove(slot) else { return };
    for frontend in &port.frontends {
        give_up(half, slot, *frontend);
    }
    let number = Half::<N>::number(slot);
    for (of, targets) in port.views.iter().enumerate() {
        let view = number | u32::from(of == 1);
        place(half, view, targets, &[]);
        for target in targets.iter().filter(|_| port.affinity_s > 0) {
            half.edit(SetId::Members, &member(view, target), Some(Vec::new()), None);
        }
    }
    for range in &port.ranges {
        half.edit(SetId::SourceRanges, &range_key(slot, range), Some(Vec::new()), None);
    }
    for addr in &port.away {
        half.count_address(SetId::Hairpins, *addr, false);
    }
    tell_departed(port.protocol, &port.views, &[Vec::new(), Vec::new()], departed);
}

/// A frontend goes, unless another port has it by now.
fn give_up<const N: usize>(half: &mut Half<N>, slot: u32, frontend: FrontendKey<N>) {
    if half.frontends.get(&frontend).is_some_and(|entry| entry.slot == slot) {
        half.set_entry(frontend, None);
    }
}

fn edit_sets<const N: usize>(
    half: &mut Half<N>,
    set: SetId,
    before: &BTreeSet<Vec<u8>>,
    after: &BTreeSet<Vec<u8>>,
) {
    for key in before.difference(after) {
        half.edit(set, key, Some(Vec::new()), None);
    }
    for key in after.difference(before) {
        half.edit(set, key, None, Some(Vec::new()));
    }
}

/// The places of a view's endpoints: those that stay keep theirs, those that come take those of
/// others that leave, and the last ones fill what is left, so that few elements change.
fn place<const N: usize>(
    half: &mut Half<N>,
    view: u32,
    before: &[Target<N>],
    wanted: &[Target<N>],
) -> Vec<Target<N>> {
    if before == wanted {
        return wanted.to_vec();
    }
    let wants: AHashSet<Target<N>> = wanted.iter().copied().collect();
    let had: AHashSet<Target<N>> = before.iter().copied().collect();
    let mut fresh = wanted.iter().filter(|target| !had.contains(target));
    let mut after: Vec<Option<Target<N>>> = before
        .iter()
        .map(|target| {
            Some(*target).filter(|it| wants.contains(it)).or_else(|| fresh.next().copied())
        })
        .collect();
    after.extend(fresh.map(|target| Some(*target)));
    let mut at = 0;
    while at < after.len() {
        if after[at].is_none() {
            after.swap_remove(at);
        } else {
            at += 1;
        }
    }
    let after: Vec<Target<N>> = after.into_iter().flatten().collect();
    for index in 0..before.len().max(after.len()) {
        let value = |targets: &[Target<N>]| targets.get(index).map(|target| member(view, target));
        let (was, is) = (before.get(index), after.get(index));
        if was != is {
            half.edit(SetId::Endpoints, &endpoint_key(view, index), value(before), value(&after));
        }
    }
    after
}

/// Tells which endpoints left which views.
fn tell_departed<const N: usize>(
    protocol: Protocol,
    before: &[Vec<Target<N>>; 2],
    after: &[Vec<Target<N>>; 2],
    departed: &mut Vec<Departed>,
) {
    if before == after {
        return;
    }
    let bits = [Live::CLUSTER, Live::LOCAL];
    let views = |of: &[Vec<Target<N>>; 2]| {
        let mut views: AHashMap<Target<N>, u32> = AHashMap::new();
        for (targets, bit) in of.iter().zip(bits) {
            for target in targets {
                *views.entry(*target).or_insert(0) |= bit;
            }
        }
        views
    };
    let after = views(after);
    let mut left: Vec<(Target<N>, u32)> = views(before)
        .into_iter()
        .filter_map(|(target, had)| match after.get(&target) {
            None => Some((target, bits[0] | bits[1])),
            Some(has) => Some((target, had & !has)).filter(|(_, views)| *views != 0),
        })
        .collect();
    left.sort_unstable();
    departed.extend(left.into_iter().filter_map(|(target, views)| {
        let address = address(target.addr)?;
        Some(Departed { address, port: target.port, protocol, id: 0, views })
    }));
}

fn treatment(
    state: &PortState,
    kind: FrontendKind,
    scope: Scope,
    lens: [usize; 2],
    affinity_s: u32,
) -> Treatment {
    let clients = state.clients(kind, scope);
    match clients.served {
        Served::Refused => Treatment::Refuse,
        Served::Dropped => Treatment::Drop,
        Served::By(policy) => {
            let is_local = policy == TrafficPolicy::Local;
            let among = u32::try_from(lens[usize::from(is_local)]).unwrap_or(AMONG_MAX);
            let masquerades = clients.masquerade;
            Treatment::Pick(Pick { among, is_local, masquerades, affinity_s })
        }
    }
}

fn wanted<const N: usize>(state: &PortState) -> Wanted<N> {
    let mut frontends: Vec<(FrontendKey<N>, FrontendKind)> =
        state.frontends.iter().filter_map(frontend).collect();
    frontends.sort_unstable_by_key(|(key, _)| *key);
    frontends.dedup_by_key(|(key, _)| *key);
    let uses = |policy| {
        let served = |kind| SCOPES.map(|scope| state.clients(kind, scope).served);
        frontends.iter().any(|(_, kind)| served(*kind).contains(&Served::By(policy)))
    };
    let mut is_cut = false;
    let mut away: BTreeSet<[u8; N]> = BTreeSet::new();
    let views = POLICIES.map(|policy| {
        let mut view: Vec<Target<N>> = Vec::new();
        for endpoint in state.view(policy).filter(|_| uses(policy)) {
            let Some(target) = target(endpoint) else { continue };
            view.push(target);
            if endpoint.placement != Placement::Host {
                away.insert(target.addr);
            }
        }
        view.sort_unstable();
        view.dedup();
        is_cut |= view.len() > AMONG_MAX as usize;
        view.truncate(AMONG_MAX as usize);
        view
    });
    let has_balancer = frontends.iter().any(|(_, kind)| *kind == FrontendKind::LoadBalancer);
    let ranges = state.source_ranges.as_deref().filter(|_| has_balancer);
    Wanted {
        protocol: state.frontends.first().map_or(Protocol::Tcp, |frontend| frontend.protocol),
        frontends,
        views,
        away: away.into_iter().collect(),
        affinity_s: state.affinity_s.unwrap_or(0),
        ranges: disjoint(ranges.unwrap_or(&[])),
        has_ranges: ranges.is_some(),
        is_cut,
    }
}

fn frontend<const N: usize>(of: &Frontend) -> Option<(FrontendKey<N>, FrontendKind)> {
    let addr = match of.address {
        FrontendAddress::Ip(ip) => octets(ip)?,
        FrontendAddress::NodeAddresses => [0; N],
    };
    Some((FrontendKey::new(addr, of.port, number(of.protocol)), of.kind))
}

/// The number of a protocol.
pub(super) const fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => dataplane_common::TCP,
        Protocol::Udp => dataplane_common::UDP,
        Protocol::Sctp => dataplane_common::SCTP,
    }
}

fn target<const N: usize>(endpoint: &Endpoint) -> Option<Target<N>> {
    Some(Target { addr: octets(endpoint.address)?, port: endpoint.port })
}

/// Ranges of which none is in another, as the kernel takes them.
fn disjoint<const N: usize>(cidrs: &[Cidr]) -> Vec<Range<N>> {
    let is_within = |inner: &Cidr, outer: &Cidr| {
        outer.prefix_len < inner.prefix_len && outer.contains(inner.address)
    };
    let mut ranges: Vec<Range<N>> = cidrs
        .iter()
        .filter(|inner| !cidrs.iter().any(|outer| is_within(inner, outer)))
        .filter_map(range)
        .collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn range<const N: usize>(cidr: &Cidr) -> Option<Range<N>> {
    let first: [u8; N] = octets(cidr.address)?;
    let mut last = first;
    for (at, byte) in last.iter_mut().enumerate() {
        let fixed = usize::from(cidr.prefix_len).saturating_sub(8 * at).min(8);
        *byte |= u8::try_from(0xff_u32 >> fixed).unwrap_or(0);
    }
    Some((first, last))
}

/// The addresses of one family among these.
#[expect(single_use_lifetimes, reason = "it cannot be left out of `impl Trait` yet")]
pub(super) fn of_family<'a, const N: usize>(
    addresses: impl IntoIterator<Item = &'a IpAddr>,
) -> BTreeSet<[u8; N]> {
    addresses.into_iter().filter_map(|address| octets(*address)).collect()
}
