//! Services of each sort, clients of which some are served, and what changes between two rounds.

use std::collections::BTreeMap;

use bench::rig::Rig;
use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, EndpointId, Frontend, FrontendKey, Live, SCTP, Slots,
    SourceKey, TCP, UDP, names,
};
use dataplane_ebpf::{
    address::Ip,
    host::{Family, HostTables},
};
use proptest::{prelude::RngExt as _, test_runner::TestRng};

use super::pick;

pub(super) const SOURCE_PORTS: (u16, u16) = (1024, 28_976);
/// The port of every frontend that is not on the node's addresses.
pub(super) const PORT: u16 = 80;
/// The `NodePort` of service 0; the others follow.
pub(super) const NODE_PORT: u16 = 30_000;
/// Long enough for one round of packets, and less than any machine that runs this has been up.
pub(super) const AFFINITY_S: u32 = 60;
pub(super) const SERVICES: u8 = 96;
pub(super) const PODS: u8 = 244;
pub(super) const NODES: u8 = 77;
pub(super) const OUTSIDE: u8 = 9;
/// Source ranges have the clients with smaller numbers.
const ALLOWED: u8 = 8;

/// Addresses of one family by their role.
pub(super) trait Addresses<const N: usize> {
    const LOOPBACK: [u8; N];

    /// The `number`th address in the block `block`.
    fn addr(block: u8, number: u8) -> [u8; N];
}

impl Addresses<4> for Family<4> {
    const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

    fn addr(block: u8, number: u8) -> [u8; 4] {
        [10, block, 0, number]
    }
}

impl Addresses<16> for Family<16> {
    const LOOPBACK: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    fn addr(block: u8, number: u8) -> [u8; 16] {
        [0xfd, 0, 0, 0, 0, 0, 0, block, 0, 0, 0, 0, 0, 0, 0, number]
    }
}

/// Where a service's frontend is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    /// On an address of its own.
    Address,
    /// On one that a service owns as a whole: other ports are refused.
    ClusterIp,
    /// On the node's addresses.
    Node,
    /// On the loopback address.
    Loopback,
}

const MASQUERADE: u32 = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
const LOCAL: u32 = Frontend::LOCAL_INSIDE | Frontend::LOCAL_OUTSIDE;
const DROP: u32 = Frontend::DROP_INSIDE | Frontend::DROP_OUTSIDE;

/// Where, endpoints of the cluster-wide view alone, of both views, and of the local view alone, flags.
#[rustfmt::skip]
const SORTS: [(On, [u32; 3], u32); 17] = [
    (On::Address,   [2, 0, 0], 0),
    (On::ClusterIp, [5, 0, 0], Frontend::MASQUERADE_OUTSIDE),
    (On::ClusterIp, [0, 0, 0], Frontend::MASQUERADE_OUTSIDE),
    (On::Node,      [3, 0, 0], MASQUERADE),
    // Its endpoint has the node's own address.
    (On::Node,      [1, 0, 0], MASQUERADE),
    // `internalTrafficPolicy: Local`, and the same without an endpoint here.
    (On::ClusterIp, [2, 1, 1], LOCAL | Frontend::MASQUERADE_OUTSIDE),
    (On::ClusterIp, [3, 0, 0], LOCAL | DROP | Frontend::MASQUERADE_OUTSIDE),
    // `externalTrafficPolicy: Local`, without an endpoint here, and with none at all.
    (On::Node,      [2, 2, 0], Frontend::LOCAL_OUTSIDE),
    (On::Node,      [2, 0, 0], Frontend::LOCAL_OUTSIDE | Frontend::DROP_OUTSIDE),
    (On::Node,      [0, 0, 0], Frontend::LOCAL_OUTSIDE),
    (On::Address,   [1, 0, 1], Frontend::LOCAL_OUTSIDE | MASQUERADE),
    // Source ranges, with endpoints and without.
    (On::Address,   [2, 0, 0], MASQUERADE | Frontend::SOURCE_RANGES),
    (On::Address,   [0, 0, 0], DROP | Frontend::SOURCE_RANGES),
    // Session affinity, also where a client has one view through one frontend.
    (On::ClusterIp, [4, 0, 0], Frontend::AFFINITY),
    (On::Node,      [2, 2, 0], Frontend::AFFINITY | Frontend::LOCAL_OUTSIDE | Frontend::MASQUERADE_INSIDE),
    (On::Address,   [1, 2, 1], Frontend::AFFINITY | Frontend::SOURCE_RANGES | Frontend::LOCAL_OUTSIDE),
    (On::Loopback,  [1, 0, 0], 0),
];
/// The service whose endpoint has the node's own address.
const OF_HOST: usize = 4;
/// How many services a family has.
#[expect(clippy::cast_possible_truncation, reason = "17")]
pub(super) const SERVICES_COUNT: u8 = SORTS.len() as u8;

fn fill<const N: usize>(family: &mut Family<N>, live: &mut BTreeMap<u32, Live>, first: u32)
where
    Family<N>: Addresses<N>,
{
    let mut slot = 0;
    for (number, (on, [cluster, both, local], flags)) in SORTS.into_iter().enumerate() {
        let service = first + u32::try_from(number).unwrap();
        let views = [
            Slots { base: slot, count: cluster + both },
            Slots { base: slot + cluster, count: both + local },
        ];
        let view = |bit| views[usize::from(flags & bit != 0)];
        let frontend = Frontend {
            inside: view(Frontend::LOCAL_INSIDE),
            outside: view(Frontend::LOCAL_OUTSIDE),
            flags,
            service,
            affinity_s: if flags & Frontend::AFFINITY == 0 { 0 } else { AFFINITY_S },
            pad: 0,
        };
        for key in keys(family, on, u8::try_from(number).unwrap()) {
            let marks_address = key.port() == 0;
            family
                .frontends
                .insert(key, if marks_address { Frontend::default() } else { frontend });
        }
        if flags & Frontend::SOURCE_RANGES != 0 {
            family.sources.extend(ranges::<N>(service));
        }
        let kinds = [(cluster, 1), (both, 3), (local, 2)];
        for (count, views) in kinds {
            for _ in 0..count {
                let id = EndpointId::new(first + slot + 1, 3);
                let flags = if number == OF_HOST { Endpoint::<N>::HOST } else { 0 };
                let addr = Family::<N>::addr(PODS, u8::try_from(slot + 1).unwrap());
                let endpoint = Endpoint::new(addr, 8000 + u16::try_from(slot).unwrap(), flags, id);
                family.endpoints.insert(slot, endpoint);
                live.insert(id.index(), Live { id: id.to_bits(), views });
                slot += 1;
            }
        }
    }
    family.endpoints_max = names::ENDPOINTS_MAX;
    family.flows_max = usize::MAX;
    family.node_addresses.extend([Family::<N>::addr(NODES, 1), Family::<N>::addr(NODES, 2)]);
}

fn keys<const N: usize>(_: &Family<N>, on: On, number: u8) -> Vec<FrontendKey<N>>
where
    Family<N>: Addresses<N>,
{
    let addr = Family::<N>::addr(SERVICES, number);
    let mut keys: Vec<_> = [TCP, UDP, SCTP]
        .into_iter()
        .map(|protocol| match on {
            On::Address | On::ClusterIp => FrontendKey::new(addr, PORT, protocol),
            On::Node => FrontendKey::any_node_address(NODE_PORT + u16::from(number), protocol),
            On::Loopback => FrontendKey::new(Family::<N>::LOOPBACK, PORT, protocol),
        })
        .collect();
    if on == On::ClusterIp {
        keys.push(FrontendKey::new(addr, 0, 0));
    }
    keys
}

/// Pods with small numbers, and one client from outside.
fn ranges<const N: usize>(service: u32) -> [SourceKey<N>; 2]
where
    Family<N>: Addresses<N>,
{
    let bits = 8 * u32::try_from(N).unwrap();
    let pods = bits - ALLOWED.ilog2();
    [
        SourceKey::range(service, Family::<N>::addr(PODS, 0), pods),
        SourceKey::range(service, Family::<N>::addr(OUTSIDE, 2), bits),
    ]
}

pub(super) fn tables(rig: &Rig) -> HostTables {
    let mut tables = HostTables {
        config: Some(Config {
            masquerade4: Family::<4>::addr(NODES, 1),
            masquerade6: Family::<16>::addr(NODES, 1),
            source_port_min: SOURCE_PORTS.0,
            source_port_count: SOURCE_PORTS.1,
            node_port_min: 30_000,
            node_port_max: 32_767,
            flags: Config::NIC_REPLIES | Config::LOOPBACK,
            ..Config::default()
        }),
        ..HostTables::default()
    };
    fill(&mut tables.v4, &mut tables.live, 1);
    fill(&mut tables.v6, &mut tables.live, 101);
    for number in 0..SERVICES_COUNT {
        tables.open_gate(&Family::<4>::addr(SERVICES, number));
        tables.open_gate(&Family::<16>::addr(SERVICES, number));
    }
    tables.open_gate(&<Family<4> as Addresses<4>>::LOOPBACK);
    tables.open_gate(&<Family<16> as Addresses<16>>::LOOPBACK);
    tables.v4.route = Some(rig.route());
    tables.v6.route = Some(rig.route());
    tables
}

/// What changes between two rounds: no flow is left, an endpoint takes flows in other views, and
/// clients come back after some time.
pub(super) fn turn(rng: &mut TestRng, tables: &mut HostTables) {
    tables.v4.flows.clear();
    tables.v6.flows.clear();
    let indexes: Vec<u32> = tables.live.keys().copied().collect();
    let index = pick(rng, &indexes);
    let other = match pick(rng, &[0, Live::CLUSTER, Live::LOCAL, Live::CLUSTER | Live::LOCAL]) {
        0 => Live::default(),
        // Its block stays and its identity changes, or it has left and comes back as it was.
        views => Live { id: EndpointId::new(index, rng.random_range(3..5)).to_bits(), views },
    };
    tables.live.insert(index, other);
    tables.affinity.clear();
    let now_ns = tables.now_ns;
    let mut affinity = BTreeMap::new();
    remember(rng, &tables.v4, now_ns, &mut affinity);
    remember(rng, &tables.v6, now_ns, &mut affinity);
    tables.affinity = affinity;
}

/// Clients that have had an endpoint, lately or too long ago; now and then one that never had it.
fn remember<const N: usize>(
    rng: &mut TestRng,
    family: &Family<N>,
    now_ns: u64,
    affinity: &mut BTreeMap<AffinityKey, Affinity>,
) where
    Family<N>: Addresses<N>,
    [u8; N]: Ip,
{
    let stay: Vec<_> = family.frontends.values().filter(|value| value.affinity_s > 0).collect();
    let last = family.endpoints.len() - 1;
    for _ in 0..64 {
        let client = Family::<N>::addr(pick(rng, &[PODS, OUTSIDE]), rng.random_range(1..12));
        let frontend = pick(rng, &stay);
        let own = frontend.inside.base + rng.random_range(0..frontend.inside.count);
        let any = rng.random_range(0..=u32::try_from(last).unwrap());
        let endpoint = family.endpoints[&pick(rng, &[own, own, own, any])];
        let value = Affinity {
            last_ns: pick(rng, &[now_ns, now_ns, 1]),
            addr: endpoint.addr().widened(),
            port: endpoint.port().to_be_bytes(),
            flags: endpoint.flags(),
            endpoint: endpoint.id().to_bits(),
        };
        affinity.insert(AffinityKey::of_address(frontend.service, client.widened()), value);
    }
}
