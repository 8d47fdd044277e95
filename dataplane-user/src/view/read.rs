//! Rows from the entries of the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane_common::{
    Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Live, V4, V6, names,
};

use super::{EndpointRow, FlowRow, FrontendRow, Names, display_name, protocol_name};
use crate::ebpf::maps::{MapError, MapWriter};

/// Every frontend, sorted by service.
pub fn frontends(maps: &mut impl MapWriter, names: &Names) -> Result<Vec<FrontendRow>, MapError> {
    let v4 = maps.entries::<FrontendKey<V4>, Frontend>(names::FRONTENDS4)?;
    let v6 = maps.entries::<FrontendKey<V6>, Frontend>(names::FRONTENDS6)?;
    let v4 = v4.iter().map(|(key, value)| frontend_row(key, *value, names));
    let v6 = v6.iter().map(|(key, value)| frontend_row(key, *value, names));
    let mut rows: Vec<_> = v4.chain(v6).collect();
    rows.sort();
    Ok(rows)
}

fn frontend_row<const N: usize>(
    key: &FrontendKey<N>,
    value: Frontend,
    names: &Names,
) -> FrontendRow {
    FrontendRow {
        service: display_name(names, value.service),
        number: value.service,
        address: ip(key.addr()).filter(|ip| !ip.is_unspecified()),
        family: if N == V4 { 4 } else { 6 },
        port: key.port(),
        protocol: protocol_name(key.protocol()),
        endpoints: value.inside.count,
        masquerade: value.flags & Frontend::MASQUERADE_INSIDE != 0,
    }
}

/// Every endpoint that a frontend leads to, sorted by service.
pub fn endpoints(maps: &mut impl MapWriter, names: &Names) -> Result<Vec<EndpointRow>, MapError> {
    let mut rows = family_endpoints::<V4>(maps, names, names::FRONTENDS4, names::ENDPOINTS4)?;
    rows.extend(family_endpoints::<V6>(maps, names, names::FRONTENDS6, names::ENDPOINTS6)?);
    rows.sort();
    Ok(rows)
}

fn family_endpoints<const N: usize>(
    maps: &mut impl MapWriter,
    names: &Names,
    frontends: &'static str,
    endpoints: &'static str,
) -> Result<Vec<EndpointRow>, MapError> {
    // Frontends of one service port share its block.
    let entries = maps.entries::<FrontendKey<N>, Frontend>(frontends)?;
    let blocks: BTreeSet<_> = entries
        .iter()
        .map(|(key, value)| (value.service, key.protocol(), value.inside.base, value.inside.count))
        .collect();
    let mut rows = Vec::new();
    for (number, protocol, base, count) in blocks {
        for index in base..base.saturating_add(count) {
            let Some(endpoint) = maps.lookup::<u32, Endpoint<N>>(endpoints, &index)? else {
                break;
            };
            let id = endpoint.id();
            let live = maps.lookup::<u32, Live>(names::LIVE, &id.index())?.map(|live| live.id);
            let Some(address) = ip(endpoint.addr()) else { continue };
            rows.push(EndpointRow {
                service: display_name(names, number),
                number,
                address,
                port: endpoint.port(),
                protocol: protocol_name(protocol),
                placement: placement::<N>(endpoint.flags()),
                id: id.to_bits(),
                live: id != EndpointId::NONE && live == Some(id.to_bits()),
            });
        }
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

/// Every flow, seen from its client, sorted by service; `now` in ticks.
pub fn flows(maps: &mut impl MapWriter, names: &Names, now: u32) -> Result<Vec<FlowRow>, MapError> {
    let v4 = maps.entries::<FlowKey<V4>, Flow<V4>>(names::FLOWS4)?;
    let v6 = maps.entries::<FlowKey<V6>, Flow<V6>>(names::FLOWS6)?;
    let mut rows: Vec<_> = v4.iter().filter_map(|entry| flow_row(entry, names, now)).collect();
    rows.extend(v6.iter().filter_map(|entry| flow_row(entry, names, now)));
    rows.sort();
    Ok(rows)
}

fn flow_row<const N: usize>(
    (key, flow): &(FlowKey<N>, Flow<N>),
    names: &Names,
    now: u32,
) -> Option<FlowRow> {
    if key.is_reply() {
        return None;
    }
    let from = key.tuple();
    let to = flow.to;
    Some(FlowRow {
        service: display_name(names, flow.service),
        number: flow.service,
        protocol: protocol_name(key.protocol()),
        client: ip(from.src)?,
        client_port: u16::from_be_bytes(from.src_port),
        frontend: ip(from.dst)?,
        frontend_port: u16::from_be_bytes(from.dst_port),
        endpoint: ip(to.dst)?,
        endpoint_port: u16::from_be_bytes(to.dst_port),
        source: ip(to.src)?,
        source_port: u16::from_be_bytes(to.src_port),
        state: state(flow),
        idle_s: seconds(now.wrapping_sub(flow.seen)),
    })
}

fn state<const N: usize>(flow: &Flow<N>) -> &'static str {
    let closing = Flow::<N>::FIN | Flow::<N>::PARTNER_FIN;
    if Flow::<N>::is_closed(flow.flags) {
        "closed"
    } else if flow.flags & closing != 0 {
        "closing"
    } else if flow.flags & Flow::<N>::ANSWERED != 0 {
        "established"
    } else {
        "new"
    }
}

/// Seconds of a number of ticks (2³⁰ ns each).
#[expect(clippy::cast_possible_truncation, reason = "saturated before")]
fn seconds(ticks: u32) -> u32 {
    ((u64::from(ticks) << 30) / 1_000_000_000).min(u64::from(u32::MAX)) as u32
}

/// The clock of flow entries.
pub fn now_ticks() -> std::io::Result<u32> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let now = std::time::Duration::from(now);
    #[expect(clippy::cast_possible_truncation, reason = "2^64 ns are 584 years of uptime")]
    let now_ns = now.as_nanos() as u64;
    Ok(dataplane_common::flow::tick(now_ns))
}

/// How many entries of each map are in use; arrays of endpoints by what frontends lead to.
pub fn fill(maps: &mut impl MapWriter) -> Result<BTreeMap<&'static str, (u64, u32)>, MapError> {
    let mut fill = BTreeMap::new();
    let mut add = |maps: &mut _, map, used: usize| -> Result<(), MapError> {
        fill.insert(map, (used as u64, MapWriter::max_entries(maps, map)?));
        Ok(())
    };
    let frontends4 = maps.entries::<FrontendKey<V4>, Frontend>(names::FRONTENDS4)?;
    let frontends6 = maps.entries::<FrontendKey<V6>, Frontend>(names::FRONTENDS6)?;
    add(maps, names::FRONTENDS4, frontends4.len())?;
    add(maps, names::FRONTENDS6, frontends6.len())?;
    let slots = |values: BTreeSet<(u32, u32)>| {
        values.into_iter().map(|(_, count)| count as usize).sum::<usize>()
    };
    let used = slots(
        frontends4.iter().map(|(_, value)| (value.inside.base, value.inside.count)).collect(),
    );
    add(maps, names::ENDPOINTS4, used)?;
    let used = slots(
        frontends6.iter().map(|(_, value)| (value.inside.base, value.inside.count)).collect(),
    );
    add(maps, names::ENDPOINTS6, used)?;
    let used = maps.entries::<FlowKey<V4>, Flow<V4>>(names::FLOWS4)?.len();
    add(maps, names::FLOWS4, used)?;
    let used = maps.entries::<FlowKey<V6>, Flow<V6>>(names::FLOWS6)?.len();
    add(maps, names::FLOWS6, used)?;
    Ok(fill)
}

/// The address of 4 or 16 bytes.
fn ip<const N: usize>(addr: [u8; N]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(addr.as_slice()) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(addr.as_slice()).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Link, Tuple};

    use super::*;

    #[test]
    fn a_flow_is_shown_once_and_from_its_client() {
        let tuple = Tuple {
            src: [10, 0, 0, 2],
            dst: [10, 96, 0, 1],
            src_port: 40000u16.to_be_bytes(),
            dst_port: 80u16.to_be_bytes(),
        };
        let to = Tuple { dst: [10, 0, 0, 9], dst_port: 8080u16.to_be_bytes(), ..tuple };
        let flow = Flow {
            to,
            endpoint: 1,
            seen: 100,
            service: 3,
            flags: Flow::<4>::ANSWERED,
            link: Link::default(),
            link_seen: 0,
        };
        let names = Names::new();
        let row = flow_row(&(FlowKey::forward(tuple, 6), flow), &names, 110).unwrap();
        assert_eq!(row.service, "#3");
        assert_eq!((row.endpoint.to_string().as_str(), row.endpoint_port), ("10.0.0.9", 8080));
        assert_eq!((row.state, row.idle_s), ("established", 10));
        let reply = FlowKey::reply(to.reversed(), 6);
        assert_eq!(flow_row(&(reply, flow), &names, 110), None);
    }
}
