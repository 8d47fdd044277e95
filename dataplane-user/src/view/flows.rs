//! Rows of the flow tables.

use dataplane_common::{Flow, FlowKey, V4, V6, names};

use super::{FlowRow, Names, display_name, ip, policies, protocol_name};
use crate::ebpf::maps::{MapError, MapWriter};

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
        state: state(flow).into(),
        idle_s: Some(seconds(now.wrapping_sub(flow.seen))),
        views: policies(Flow::<N>::views(flow.flags)),
        affinity: flow.flags & Flow::<N>::AFFINE != 0,
        masquerade: match (to.src == from.src, to.dst == from.src) {
            (true, _) => "no".into(),
            (false, false) => "yes".into(),
            (false, true) => "hairpin".into(),
        },
        forwarded: flow.flags & Flow::<N>::FORWARD != 0,
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
            flags: Flow::<4>::ANSWERED | Flow::<4>::LOCAL | Flow::<4>::AFFINE,
            link: Link::default(),
            link_seen: 0,
        };
        let names = Names::new();
        let row = flow_row(&(FlowKey::forward(tuple, 6), flow), &names, 110).unwrap();
        assert_eq!(row.service, "#3");
        assert_eq!((row.endpoint.to_string().as_str(), row.endpoint_port), ("10.0.0.9", 8080));
        assert_eq!((&*row.state, row.idle_s), ("established", Some(10)));
        assert_eq!((row.views, row.affinity), (vec!["Local".into()], true));
        assert_eq!((&*row.masquerade, row.forwarded), ("no", false));
        let reply = FlowKey::reply(to.reversed(), 6);
        assert_eq!(flow_row(&(reply, flow), &names, 110), None);
    }

    #[test]
    fn a_flow_of_a_pod_to_itself_is_a_hairpin() {
        let tuple = Tuple {
            src: [10, 0, 0, 9],
            dst: [10, 96, 0, 1],
            src_port: 40000u16.to_be_bytes(),
            dst_port: 80u16.to_be_bytes(),
        };
        let to = Tuple { src: [192, 0, 2, 1], dst: [10, 0, 0, 9], ..tuple };
        let flow = Flow {
            to,
            endpoint: 1,
            seen: 100,
            service: 3,
            flags: Flow::<4>::CLUSTER | Flow::<4>::FORWARD,
            link: Link::default(),
            link_seen: 0,
        };
        let row = flow_row(&(FlowKey::forward(tuple, 6), flow), &Names::new(), 100).unwrap();
        assert_eq!((&*row.masquerade, row.forwarded, row.affinity), ("hairpin", true, false));
        assert_eq!(row.views, ["Cluster"]);
    }
}
