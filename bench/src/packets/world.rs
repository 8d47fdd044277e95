//! Tables in which every packet leads to the next: the kernel repeats a run with the rewritten frame.

use dataplane_common::{
    Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey, Hook, Link, Live, Reason,
    SCTP, Slots, TCP, Tuple, names,
};
use dataplane_ebpf::host::{Family, HostTables};

use super::features;
use crate::{frame::Spec, rig::Rig};

/// TCP's ACK: a packet that begins no connection.
pub(super) const ACK: u8 = 0x10;
pub(super) const SYN: u8 = 0x02;
/// Type of SCTP's chunks with data.
const DATA: u8 = 0;
/// Makes a packet of 1016 bytes: a length of three digits, as most have.
const SCTP_PAYLOAD: usize = 1000;
/// Hops of a packet that is sent on again and again; each run takes one.
const HOPS: u8 = 255;
/// Runs in one call, where each takes a hop or begins a flow.
pub(super) const FEW: u32 = 200;
/// Runs in one call elsewhere.
pub(super) const MANY: u32 = 20_000;
/// Frontends in a chain: more than a call begins flows.
pub(super) const CHAIN: u8 = 250;
/// Bits of nanoseconds in a tick.
const TICK_BITS: u32 = 30;
const SERVICE: u8 = 96;
const FORWARDED: u8 = 97;
pub(super) const PLAIN: u8 = 98;

/// One row.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) program: &'static str,
    pub(super) frame: Vec<u8>,
    pub(super) repeat: u32,
    /// The hook and reason under which every packet must be counted.
    pub(super) counts: Option<(Hook, Reason)>,
    /// Whether it needs services with features in the tables. All others run without them: what is
    /// in the tables is also in the processor's cache, in the place of something else.
    pub(super) features: bool,
}

/// The tables, and the packets that go round in them.
#[derive(Debug)]
pub(super) struct World {
    tables: HostTables,
}

pub(super) trait Block<const N: usize> {
    fn addr(block: u8, number: u8) -> [u8; N];
}

impl Block<4> for Family<4> {
    fn addr(block: u8, number: u8) -> [u8; 4] {
        [10, block, 0, number]
    }
}

impl Block<16> for Family<16> {
    fn addr(block: u8, number: u8) -> [u8; 16] {
        [0xfd, 0, 0, 0, 0, 0, 0, block, 0, 0, 0, 0, 0, 0, 0, number]
    }
}

fn ends<const N: usize>(src: [u8; N], src_port: u16, dst: [u8; N], dst_port: u16) -> Tuple<N> {
    let (src_port, dst_port) = (src_port.to_be_bytes(), dst_port.to_be_bytes());
    Tuple { src, dst, src_port, dst_port }
}

impl World {
    /// Plain services and, if asked for, some with features.
    pub(super) fn new(rig: &Rig, features: bool) -> Self {
        let mut tables = HostTables {
            config: Some(Config {
                masquerade4: Family::<4>::addr(77, 1),
                masquerade6: Family::<16>::addr(77, 1),
                source_port_min: 1024,
                source_port_count: 28_976,
                node_port_min: 30_000,
                node_port_max: 32_767,
                ..Config::default()
            }),
            ..HostTables::default()
        };
        fill(&mut tables.v4, rig.link());
        fill(&mut tables.v6, rig.link());
        for number in 0..=CHAIN {
            for block in [SERVICE, FORWARDED, PLAIN] {
                tables.open_gate(&Family::<4>::addr(block, number));
                tables.open_gate(&Family::<16>::addr(block, number));
            }
        }
        let id = EndpointId::new(1, 0);
        tables.live.insert(1, Live { id: id.to_bits(), views: Live::CLUSTER | Live::LOCAL });
        if features {
            features::fill(&mut tables, |tables| &mut tables.v4, id, rig.link());
            features::fill(&mut tables, |tables| &mut tables.v6, id, rig.link());
        }
        Self { tables }
    }

    /// Makes the maps as they were.
    pub(super) fn restore(&self, rig: &mut Rig) -> anyhow::Result<()> {
        let mut tables = self.tables.clone();
        // The cached next hops of forwarded flows are those of this tick.
        let now = crate::rig::monotonic_tick()?;
        for flow in tables.v4.flows.values_mut() {
            (flow.seen, flow.link_seen) = (now, now);
        }
        for flow in tables.v6.flows.values_mut() {
            (flow.seen, flow.link_seen) = (now, now);
        }
        for last in tables.affinity.values_mut() {
            last.last_ns = u64::from(now) << TICK_BITS;
        }
        rig.install(&tables)
    }

    pub(super) fn cases() -> Vec<Case> {
        let mut cases = vec![
            baseline("empty", "bench_empty", MANY),
            baseline("parse_lookup", "bench_lookup", MANY),
            baseline("xdp_empty", "bench_xdp_empty", MANY),
            baseline("xdp_parse_lookup", "bench_xdp_lookup", MANY),
        ];
        cases.extend(family::<4>([
            "tc4_established",
            "tc4_new",
            "tc4_miss",
            "tc4_reply",
            "xdp4_established",
            "xdp4_new",
            "xdp4_miss",
        ]));
        cases.push(sctp::<4>("sctp4_established"));
        cases.extend(features::cases::<4>([
            "tc4_new_affinity",
            "tc4_again_affinity",
            "tc4_new_ranges",
            "tc4_new_local",
            "tc4_established_udp",
            "tc4_established_local",
        ]));
        cases.push(Case { name: "parse_lookup6", ..baseline6("parse_lookup6", "bench_lookup") });
        cases.extend(family::<16>([
            "tc6_established",
            "tc6_new",
            "tc6_miss",
            "tc6_reply",
            "xdp6_established",
            "xdp6_new",
            "xdp6_miss",
        ]));
        cases.push(sctp::<16>("sctp6_established"));
        cases.extend(features::cases::<16>([
            "tc6_new_affinity",
            "tc6_again_affinity",
            "tc6_new_ranges",
            "tc6_new_local",
            "tc6_established_udp",
            "tc6_established_local",
        ]));
        cases
    }
}

fn baseline(name: &'static str, program: &'static str, repeat: u32) -> Case {
    let tuple = client::<4>(Family::<4>::addr(SERVICE, 0), 80);
    let frame = Spec::new(tuple, TCP, ACK).build();
    Case { name, program, frame, repeat, counts: None, features: false }
}

fn baseline6(name: &'static str, program: &'static str) -> Case {
    let tuple = client::<16>(Family::<16>::addr(SERVICE, 0), 80);
    let frame = Spec::new(tuple, TCP, ACK).build();
    Case { name, program, frame, repeat: MANY, counts: None, features: false }
}

pub(super) fn client<const N: usize>(dst: [u8; N], port: u16) -> Tuple<N>
where
    Family<N>: Block<N>,
{
    ends(Family::<N>::addr(244, 9), 40_000, dst, port)
}

/// Every path of one family; names in the order of the rows.
fn family<const N: usize>(rows: [&'static str; 7]) -> Vec<Case>
where
    Family<N>: Block<N>,
{
    let [established, new, miss, reply, xdp_established, xdp_new, xdp_miss] = rows;
    let addr = Family::<N>::addr;
    let to = |block, number, flags| {
        let mut spec = Spec::new(client(addr(block, number), 80), TCP, flags);
        spec.hops = HOPS;
        spec.build()
    };
    let answer = Spec::new(ends(addr(PLAIN, 1), 80, addr(244, 9), 40_000), TCP, ACK).build();
    let elsewhere = to(9, 9, ACK);
    let case = |name, hook: Hook, frame: &Vec<u8>, repeat, why| Case {
        name,
        program: hook.name(),
        frame: frame.clone(),
        repeat,
        counts: Some((hook, why)),
        features: false,
    };
    let pod = Hook::PodIngress;
    vec![
        case(established, pod, &to(PLAIN, 1, ACK), MANY, Reason::Established),
        case(new, pod, &to(SERVICE, 0, SYN), FEW, Reason::New),
        case(miss, pod, &elsewhere, MANY, Reason::NotAService),
        case(reply, Hook::PodEgress, &answer, MANY, Reason::Reply),
        case(xdp_established, Hook::NicXdp, &to(PLAIN, 3, ACK), FEW, Reason::Established),
        case(xdp_new, Hook::NicXdp, &to(FORWARDED, 0, SYN), FEW, Reason::New),
        case(xdp_miss, Hook::NicXdp, &elsewhere, MANY, Reason::NotAService),
    ]
}

/// A packet of an association: its ports, and so its CRC, change each time.
fn sctp<const N: usize>(name: &'static str) -> Case
where
    Family<N>: Block<N>,
{
    let mut spec = Spec::new(client(Family::<N>::addr(PLAIN, 1), 80), SCTP, DATA);
    spec.payload.resize(SCTP_PAYLOAD, 0);
    let hook = Hook::PodIngress;
    Case {
        name,
        program: hook.name(),
        frame: spec.build(),
        repeat: MANY,
        counts: Some((hook, Reason::Established)),
        features: false,
    }
}

/// Two chains of frontends, each with the next one as its only endpoint, plain and masqueraded; and
/// pairs of flows that lead to each other.
fn fill<const N: usize>(family: &mut Family<N>, link: Link)
where
    Family<N>: Block<N>,
{
    let addr = Family::<N>::addr;
    let id = EndpointId::new(1, 0);
    let masquerade = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
    for (chain, flags) in [(SERVICE, 0), (FORWARDED, masquerade)] {
        let start = u32::from(chain) * 256;
        for number in 0..CHAIN {
            let slot = start + u32::from(number);
            let endpoint =
                Endpoint::new(addr(chain, number + 1), 80 + u16::from(number) + 1, 0, id);
            family.endpoints.insert(slot, endpoint);
            let key = FrontendKey::new(addr(chain, number), 80 + u16::from(number), TCP);
            family.frontends.insert(
                key,
                Frontend {
                    inside: Slots { base: slot, count: 1 },
                    outside: Slots { base: slot, count: 1 },
                    flags,
                    service: 1,
                    ..Frontend::default()
                },
            );
        }
    }
    family.endpoints_max = names::ENDPOINTS_MAX;
    family.flows_max = usize::MAX;
    let flow = |to, flags| Flow {
        to,
        endpoint: id.to_bits(),
        seen: 0,
        service: 1,
        flags: flags | Flow::<N>::ANSWERED,
        link,
        link_seen: 0,
    };
    for (first, second, flags) in [(1, 2, 0), (3, 4, Flow::<N>::FORWARD)] {
        let there = client(addr(PLAIN, first), 80);
        let back = client(addr(PLAIN, second), 8080);
        let (there_back, back_back) = (there.reversed(), back.reversed());
        for protocol in [TCP, SCTP] {
            family.flows.insert(FlowKey::forward(there, protocol), flow(back, flags));
            family.flows.insert(FlowKey::forward(back, protocol), flow(there, flags));
            family.flows.insert(FlowKey::reply(there_back, protocol), flow(back_back, flags));
            family.flows.insert(FlowKey::reply(back_back, protocol), flow(there_back, flags));
        }
    }
}
