//! A node with one service, for unit tests: who serves it, and packets of its clients.

use std::vec::Vec;

use dataplane_common::{
    Config, Endpoint, EndpointId, Frontend, FrontendKey, Link, Live, Slots, TCP, Tuple, UDP,
};

use crate::{
    host::{Family, Frame, HostTables},
    pipeline::{Verdict, ingress},
    samples::Sample,
    select::Scope,
    tables::Route,
};

pub(crate) const PORT: u16 = 80;
pub(crate) const NODE_PORT: u16 = 30_080;
/// Number of the service port.
pub(crate) const SERVICE: u32 = 7;
/// Port of every endpoint.
pub(crate) const TARGET: u16 = 8080;
/// The only device, and that of XDP.
pub(crate) const NIC: u32 = 2;

/// Addresses of one family, by their last bytes.
pub(crate) fn addr<const N: usize>(block: u8, number: u8) -> [u8; N] {
    let mut addr = [0; N];
    (addr[0], addr[N - 2], addr[N - 1]) = (if N == 4 { 10 } else { 0xfd }, block, number);
    addr
}

pub(crate) fn service<const N: usize>() -> [u8; N] {
    addr(96, 1)
}

pub(crate) fn node<const N: usize>() -> [u8; N] {
    addr(77, 1)
}

pub(crate) fn pod<const N: usize>(number: u8) -> [u8; N] {
    addr(244, number)
}

pub(crate) fn loopback<const N: usize>() -> [u8; N] {
    let mut addr = [0; N];
    (addr[0], addr[N - 1]) = (if N == 4 { 127 } else { 0 }, 1);
    addr
}

/// The half of the tables that a family has.
pub(crate) trait Half<const N: usize> {
    fn half(&mut self) -> &mut Family<N>;
}

impl Half<4> for HostTables {
    fn half(&mut self) -> &mut Family<4> {
        &mut self.v4
    }
}

impl Half<16> for HostTables {
    fn half(&mut self) -> &mut Family<16> {
        &mut self.v6
    }
}

/// The half of the tables of this family.
pub(crate) fn half<const N: usize>(tables: &mut HostTables) -> &mut Family<N>
where
    HostTables: Half<N>,
{
    tables.half()
}

/// What serves: the last number of a pod's address, and its views.
pub(crate) type Serves = (u8, u32);

/// One endpoint elsewhere that only the cluster-wide view has, and one here that only the local has.
pub(crate) const APART: [Serves; 2] = [(1, Live::CLUSTER), (2, Live::LOCAL)];

pub(crate) fn id(pod: u8) -> EndpointId {
    EndpointId::new(u32::from(pod), 1)
}

/// A node with a frontend on the service's address and one on every node address, both with these
/// flags. The endpoints must be in the order of a block: cluster-wide, both views, local.
pub(crate) fn tables<const N: usize>(endpoints: &[Serves], flags: u32) -> HostTables
where
    HostTables: Half<N>,
{
    let mut tables = HostTables {
        config: Some(Config {
            host_netns_cookie: 1,
            masquerade4: node(),
            masquerade6: node(),
            source_port_min: 1024,
            source_port_count: 1000,
            node_port_min: 30_000,
            node_port_max: 32_767,
            ..Config::default()
        }),
        netns_cookie: 1,
        now_ns: 1 << 40,
        ..HostTables::default()
    };
    for (pod, views) in endpoints {
        live(&mut tables, *pod, *views);
    }
    tables.open_gate(&service::<N>());
    let family = half::<N>(&mut tables);
    family.endpoints_max = 16;
    family.flows_max = 1024;
    family.route = Some(Route::Link(Link { ifindex: NIC, ..Link::default() }));
    family.node_addresses.insert(node());
    for (slot, (pod_number, _)) in (0..).zip(endpoints) {
        let endpoint = Endpoint::new(pod(*pod_number), TARGET, 0, id(*pod_number));
        family.endpoints.insert(slot, endpoint);
    }
    let view = |bit| slots(endpoints, if flags & bit == 0 { Live::CLUSTER } else { Live::LOCAL });
    let frontend = Frontend {
        inside: view(Frontend::LOCAL_INSIDE),
        outside: view(Frontend::LOCAL_OUTSIDE),
        flags,
        service: SERVICE,
        affinity_s: if flags & Frontend::AFFINITY == 0 { 0 } else { 60 },
        pad: 0,
    };
    for protocol in [TCP, UDP] {
        family.frontends.insert(FrontendKey::new(service(), PORT, protocol), frontend);
        family.frontends.insert(FrontendKey::any_node_address(NODE_PORT, protocol), frontend);
    }
    tables
}

fn slots(endpoints: &[Serves], view: u32) -> Slots {
    let has = |(_, views): &&Serves| views & view != 0;
    let first = endpoints.iter().position(|serves| has(&serves));
    Slots {
        base: u32::try_from(first.unwrap_or(0)).unwrap(),
        count: u32::try_from(endpoints.iter().filter(has).count()).unwrap(),
    }
}

/// In which views an endpoint takes new flows from now on.
pub(crate) fn live(tables: &mut HostTables, pod: u8, views: u32) {
    let id = if views == 0 { 0 } else { id(pod).to_bits() };
    tables.live.insert(u32::from(pod), Live { id, views });
}

/// The ends of a client's packet.
pub(crate) fn ends<const N: usize>(
    (src, src_port): ([u8; N], u16),
    (dst, dst_port): ([u8; N], u16),
) -> Tuple<N> {
    Tuple { src, dst, src_port: src_port.to_be_bytes(), dst_port: dst_port.to_be_bytes() }
}

/// A packet that may begin a flow.
pub(crate) fn packet<const N: usize>(tuple: Tuple<N>, protocol: u8) -> Vec<u8> {
    Sample { tuple, tcp_flags: 2, ..Sample::new(protocol, &[1, 2, 3]) }.build()
}

/// Sends a packet in; gives the verdict and the packet's ends afterwards.
pub(crate) fn send<const N: usize>(
    tables: &mut HostTables,
    scope: Scope,
    tuple: Tuple<N>,
    protocol: u8,
) -> (Verdict, Tuple<N>) {
    let mut frame = Frame(packet(tuple, protocol));
    let verdict = ingress(&mut frame, tables, scope);
    (verdict, ends_of(&frame.0))
}

/// The ends of a packet without options or extension headers.
pub(crate) fn ends_of<const N: usize>(frame: &[u8]) -> Tuple<N> {
    let addresses = if N == 4 { 26 } else { 22 };
    let l4 = addresses + 2 * N;
    let addr = |at: usize| *frame[at..].first_chunk().unwrap();
    let port = |at: usize| *frame[at..].first_chunk().unwrap();
    Tuple {
        src: addr(addresses),
        dst: addr(addresses + N),
        src_port: port(l4),
        dst_port: port(l4 + 2),
    }
}
