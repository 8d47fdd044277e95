//! Rows from the entries of the maps.

use std::collections::{BTreeMap, BTreeSet};

use dataplane_common::{
    Affinity, AffinityKey, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey,
    FrontendKind, Live, Slots, SourceKey, V4, V6, names,
};

use super::{
    Clients, EndpointRow, FrontendRow, Names,
    blocks::{Blocks, reach},
    display_name, ip, policies, protocol_name,
};
use crate::ebpf::maps::{MapError, MapWriter};

/// The maps of one family.
struct Half {
    frontends: &'static str,
    endpoints: &'static str,
    sources: &'static str,
    flows: &'static str,
}

const HALF4: Half = Half {
    frontends: names::FRONTENDS4,
    endpoints: names::ENDPOINTS4,
    sources: names::SOURCES4,
    flows: names::FLOWS4,
};
const HALF6: Half = Half {
    frontends: names::FRONTENDS6,
    endpoints: names::ENDPOINTS6,
    sources: names::SOURCES6,
    flows: names::FLOWS6,
};

/// Every frontend, sorted by service.
pub fn frontends(maps: &mut impl MapWriter, names: &Names) -> Result<Vec<FrontendRow>, MapError> {
    let mut rows = family_frontends::<V4>(maps, names, &HALF4)?;
    rows.extend(family_frontends::<V6>(maps, names, &HALF6)?);
    rows.sort();
    Ok(rows)
}

fn family_frontends<const N: usize>(
    maps: &mut impl MapWriter,
    names: &Names,
    half: &Half,
) -> Result<Vec<FrontendRow>, MapError> {
    let ranges = source_ranges::<N>(maps, half.sources)?;
    // Frontends of one service port share its block: its endpoints are looked up once.
    let mut counts: BTreeMap<[Slots; 2], (u32, u32)> = BTreeMap::new();
    let mut rows = Vec::new();
    for (key, value) in entries::<N>(maps, half)? {
        let slots = [value.inside, value.outside];
        let (endpoints, local) = match counts.get(&slots) {
            Some(found) => *found,
            None => *counts.entry(slots).or_insert(count::<N>(maps, half, &value)?),
        };
        let only = value.flags & Frontend::SOURCE_RANGES != 0;
        let ranges = only.then(|| ranges.get(&value.service).cloned().unwrap_or_default());
        rows.push(FrontendRow {
            service: display_name(names, value.service),
            number: value.service,
            address: ip(key.addr()).filter(|ip| !ip.is_unspecified()),
            family: if N == V4 { 4 } else { 6 },
            port: key.port(),
            protocol: protocol_name(key.protocol()),
            kind: kind(value).into(),
            endpoints,
            local,
            inside: inside(value),
            outside: outside(value),
            affinity_s: (value.flags & Frontend::AFFINITY != 0).then_some(value.affinity_s),
            source_ranges: ranges,
        });
    }
    Ok(rows)
}

/// Frontends with a port. An entry with port 0 only says that its address is a Service's.
fn entries<const N: usize>(
    maps: &mut impl MapWriter,
    half: &Half,
) -> Result<Vec<(FrontendKey<N>, Frontend)>, MapError> {
    let mut entries = maps.entries::<FrontendKey<N>, Frontend>(half.frontends)?;
    entries.retain(|(key, _)| key.port() != 0);
    Ok(entries)
}

/// The prefixes of each service port, sorted.
fn source_ranges<const N: usize>(
    maps: &mut impl MapWriter,
    sources: &'static str,
) -> Result<BTreeMap<u32, Vec<String>>, MapError> {
    let mut keys: Vec<SourceKey<N>> =
        maps.entries::<SourceKey<N>, u32>(sources)?.into_iter().map(|(key, _)| key).collect();
    keys.sort_by_key(|key| (key.service(), key.addr(), key.prefix_len()));
    let mut ranges: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for key in keys {
        if let Some(address) = ip(key.addr()) {
            let range = format!("{address}/{}", key.prefix_len());
            ranges.entry(key.service()).or_default().push(range);
        }
    }
    Ok(ranges)
}

/// How many endpoints a frontend leads to, and how many of them are on this node.
fn count<const N: usize>(
    maps: &mut impl MapWriter,
    half: &Half,
    frontend: &Frontend,
) -> Result<(u32, u32), MapError> {
    let (mut all, mut local) = (0, 0);
    for slot in reach(frontend).iter() {
        let found = maps.lookup::<u32, Endpoint<N>>(half.endpoints, &slot)?;
        let flags = found.map_or(0, |endpoint| endpoint.flags());
        all += 1;
        local += u32::from(flags & (Endpoint::<N>::LOCAL | Endpoint::<N>::HOST) != 0);
    }
    Ok((all, local))
}

fn kind(frontend: Frontend) -> &'static str {
    match frontend.kind() {
        Some(FrontendKind::ClusterIp) => "ClusterIP",
        Some(FrontendKind::NodePort) => "NodePort",
        Some(FrontendKind::LoadBalancer) => "LoadBalancer",
        Some(FrontendKind::ExternalIp) => "ExternalIP",
        Some(FrontendKind::HostPort) => "HostPort",
        None => "unknown",
    }
}

fn inside(frontend: Frontend) -> Clients {
    let bits = [Frontend::LOCAL_INSIDE, Frontend::DROP_INSIDE, Frontend::MASQUERADE_INSIDE];
    clients(frontend.inside, bits.map(|bit| frontend.flags & bit != 0))
}

fn outside(frontend: Frontend) -> Clients {
    let bits = [Frontend::LOCAL_OUTSIDE, Frontend::DROP_OUTSIDE, Frontend::MASQUERADE_OUTSIDE];
    clients(frontend.outside, bits.map(|bit| frontend.flags & bit != 0))
}

fn clients(slots: Slots, [local, drops, masquerade]: [bool; 3]) -> Clients {
    let outcome = match (slots.count, drops) {
        (0, true) => "dropped",
        (0, false) => "refused",
        (_, _) => "served",
    };
    let policy = if local { "Local" } else { "Cluster" };
    let (policy, outcome) = (policy.into(), outcome.into());
    Clients { policy, endpoints: slots.count, outcome, masquerade }
}

/// Every endpoint that a frontend leads to, sorted by service.
pub fn endpoints(maps: &mut impl MapWriter, names: &Names) -> Result<Vec<EndpointRow>, MapError> {
    let mut rows = family_endpoints::<V4>(maps, names, &HALF4)?;
    rows.extend(family_endpoints::<V6>(maps, names, &HALF6)?);
    rows.sort();
    Ok(rows)
}

fn family_endpoints<const N: usize>(
    maps: &mut impl MapWriter,
    names: &Names,
    half: &Half,
) -> Result<Vec<EndpointRow>, MapError> {
    let entries = entries::<N>(maps, half)?;
    let slots: BTreeSet<_> = entries
        .iter()
        .flat_map(|(key, value)| {
            let (number, protocol) = (value.service, key.protocol());
            reach(value).iter().map(move |slot| (number, protocol, slot)).collect::<Vec<_>>()
        })
        .collect();
    let mut rows = Vec::new();
    for (number, protocol, slot) in slots {
        let Some(endpoint) = maps.lookup::<u32, Endpoint<N>>(half.endpoints, &slot)? else {
            continue;
        };
        let id = endpoint.id();
        let live = maps.lookup::<u32, Live>(names::LIVE, &id.index())?;
        let live = live.filter(|live| id != EndpointId::NONE && live.id == id.to_bits());
        let Some(address) = ip(endpoint.addr()) else { continue };
        rows.push(EndpointRow {
            service: display_name(names, number),
            number,
            address,
            port: endpoint.port(),
            protocol: protocol_name(protocol),
            placement: placement::<N>(endpoint.flags()).into(),
            id: id.to_bits(),
            live: live.is_some(),
            views: policies(live.map_or(0, |live| live.views)),
        });
    }
    Ok(rows)
}

fn placement<const N: usize>(flags: u16) -> &'static str {
    if flags & Endpoint::<N>::HOST != 0 {
        "host"
    } else if flags & Endpoint::<N>::LOCAL != 0 {
        "local"
    } else {
        "remote"
    }
}

/// How many entries of each map are in use; arrays of endpoints by what frontends lead to.
pub fn fill(maps: &mut impl MapWriter) -> Result<BTreeMap<&'static str, (u64, u32)>, MapError> {
    let mut used = BTreeMap::new();
    family_fill::<V4>(maps, &HALF4, &mut used)?;
    family_fill::<V6>(maps, &HALF6, &mut used)?;
    let clients = maps.entries::<AffinityKey, Affinity>(names::AFFINITY)?.len();
    used.insert(names::AFFINITY, clients);
    let mut fill = BTreeMap::new();
    for (map, used) in used {
        fill.insert(map, (used as u64, maps.max_entries(map)?));
    }
    Ok(fill)
}

fn family_fill<const N: usize>(
    maps: &mut impl MapWriter,
    half: &Half,
    used: &mut BTreeMap<&'static str, usize>,
) -> Result<(), MapError> {
    let frontends = maps.entries::<FrontendKey<N>, Frontend>(half.frontends)?;
    let mut blocks = Blocks::default();
    for (_, frontend) in &frontends {
        blocks.add(frontend.inside);
        blocks.add(frontend.outside);
    }
    used.insert(half.frontends, frontends.len());
    used.insert(half.endpoints, blocks.len());
    used.insert(half.flows, maps.entries::<FlowKey<N>, Flow<N>>(half.flows)?.len());
    used.insert(half.sources, maps.entries::<SourceKey<N>, u32>(half.sources)?.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_view_refuses_or_drops() {
        let frontend = Frontend {
            inside: Slots { base: 4, count: 2 },
            flags: Frontend::LOCAL_OUTSIDE | Frontend::DROP_OUTSIDE | Frontend::MASQUERADE_INSIDE,
            ..Frontend::default()
        };
        let served = Clients {
            policy: "Cluster".into(),
            endpoints: 2,
            outcome: "served".into(),
            masquerade: true,
        };
        assert_eq!(inside(frontend), served);
        let dropped = Clients {
            policy: "Local".into(),
            endpoints: 0,
            outcome: "dropped".into(),
            masquerade: false,
        };
        assert_eq!(outside(frontend), dropped);
        let refused = Clients {
            policy: "Cluster".into(),
            endpoints: 0,
            outcome: "refused".into(),
            masquerade: false,
        };
        assert_eq!(outside(Frontend::default()), refused);
    }
}
