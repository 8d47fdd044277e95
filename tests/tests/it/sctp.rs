//! SCTP packets leave the loaded programs as if they had been built for their endpoint.

use bench::{
    frame::{MACS, Spec},
    rig::Rig,
};
use dataplane_common::{
    Config, Endpoint, EndpointId, Frontend, FrontendKey, Hook, Link, Live, SCTP, Slots, Tuple,
    names,
};
use dataplane_ebpf::{
    host::{Family, HostTables},
    wire::sctp,
};
use dataplane_user::backend::Mode;
use hashplane_tests::skip;

/// Entries of the flow tables.
const FLOWS: u32 = 1 << 14;
/// Payloads from none, which is a packet of 12 bytes, to one of 2000 bytes.
const PAYLOADS: std::ops::Range<usize> = 0..1985;
/// What is sent on must fit the NIC's MTU.
const FORWARDED_PAYLOADS: std::ops::Range<usize> = 0..1400;
const SLOTS: Slots = Slots { base: 0, count: 1 };
const DATA: u8 = 0;
const PORT: u16 = 3868;
const NODE_PORT: u16 = 30_386;
const TARGET_PORT: u16 = 13_868;

/// One address of each role.
struct Ends<const N: usize> {
    client: [u8; N],
    frontend: [u8; N],
    node: [u8; N],
    endpoint: [u8; N],
}

const V4: Ends<4> = Ends {
    client: [10, 9, 0, 1],
    frontend: [10, 96, 0, 1],
    node: [10, 77, 0, 1],
    endpoint: [10, 244, 0, 1],
};
const V6: Ends<16> = Ends { client: v6(9), frontend: v6(96), node: v6(77), endpoint: v6(244) };

const fn v6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn fill<const N: usize>(family: &mut Family<N>, ends: &Ends<N>, id: EndpointId, rig: &Rig) {
    let frontend = Frontend { inside: SLOTS, outside: SLOTS, service: 1, ..Frontend::default() };
    let flags = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
    let masquerading = Frontend { flags, ..frontend };
    family.frontends.insert(FrontendKey::new(ends.frontend, PORT, SCTP), frontend);
    family.frontends.insert(FrontendKey::any_node_address(NODE_PORT, SCTP), masquerading);
    family.endpoints.insert(0, Endpoint::new(ends.endpoint, TARGET_PORT, 0, id));
    family.endpoints_max = names::ENDPOINTS_MAX;
    family.flows_max = usize::MAX;
    family.node_addresses.insert(ends.node);
    family.route = Some(rig.route());
}

fn tables(rig: &Rig) -> HostTables {
    let mut tables = HostTables {
        config: Some(Config {
            masquerade4: V4.node,
            masquerade6: V6.node,
            source_port_min: 1024,
            source_port_count: 28_976,
            node_port_min: 30_000,
            node_port_max: 32_767,
            ..Config::default()
        }),
        ..HostTables::default()
    };
    let id = EndpointId::new(1, 1);
    tables.live.insert(1, Live { id: id.to_bits(), views: Live::CLUSTER });
    fill(&mut tables.v4, &V4, id, rig);
    fill(&mut tables.v6, &V6, id, rig);
    tables.open_gate(&V4.frontend);
    tables.open_gate(&V6.frontend);
    tables
}

/// A packet, and the one that it must become.
struct Pair<const N: usize> {
    sent: Spec<N>,
    expected: Spec<N>,
}

impl<const N: usize> Pair<N> {
    fn new(sent: Tuple<N>, expected: Tuple<N>, chunk: u8, payload: &[u8]) -> Self {
        let spec = |tuple| Spec { payload: payload.to_vec(), ..Spec::new(tuple, SCTP, chunk) };
        Self { sent: spec(sent), expected: spec(expected) }
    }

    /// Sends the packet through a hook; with a link it must have been sent on.
    fn check(&self, rig: &Rig, hook: Hook, link: Option<&Link>) {
        let sent = self.sent.build();
        let mut expected = self.expected.clone();
        expected.hops -= u8::from(link.is_some());
        let mut expected = expected.build();
        if let Some(link) = link {
            expected[..12].copy_from_slice(&[link.dst_mac, link.src_mac].concat());
        }
        let seen = rig.run(hook, &sent).unwrap().frame;
        let len = self.sent.payload.len();
        assert_eq!(seen, expected, "{} with {len} bytes of payload\n{sent:02x?}", hook.name());
    }
}

fn ends<const N: usize>(src: [u8; N], src_port: u16, dst: [u8; N], dst_port: u16) -> Tuple<N> {
    Tuple { src, dst, src_port: src_port.to_be_bytes(), dst_port: dst_port.to_be_bytes() }
}

/// Both directions of one association through a pod's link, at every length.
fn associate<const N: usize>(rig: &Rig, at: &Ends<N>) {
    let payload: Vec<u8> = (0..=252).cycle().take(PAYLOADS.end).collect();
    let there = ends(at.client, 40_000, at.frontend, PORT);
    let translated = ends(at.client, 40_000, at.endpoint, TARGET_PORT);
    Pair::new(there, translated, sctp::INIT, &payload[..16]).check(rig, Hook::PodIngress, None);
    for len in PAYLOADS {
        let payload = &payload[..len];
        Pair::new(there, translated, DATA, payload).check(rig, Hook::PodIngress, None);
        let (back, shown) = (translated.reversed(), there.reversed());
        Pair::new(back, shown, DATA, payload).check(rig, Hook::PodEgress, None);
    }
}

#[test]
fn every_length_of_sctp_packet_has_the_crc_of_a_packet_built_for_its_endpoint() {
    let name = "every_length_of_sctp_packet_has_the_crc_of_a_packet_built_for_its_endpoint";
    if let Some(reason) = skip::why_no_datapath(Mode::Ebpf) {
        return skip::say_skipped(name, &reason);
    }
    let mut rig = Rig::new(FLOWS).unwrap();
    rig.install(&tables(&rig)).unwrap();
    associate(&rig, &V4);
    associate(&rig, &V6);
}

/// A node port's client, whose source is translated too, and the answer by the same NIC.
fn by_node_port<const N: usize>(rig: &Rig, at: &Ends<N>, source_port: u16, client_port: u16) {
    let link = rig.link();
    let there = ends(at.client, client_port, at.node, NODE_PORT);
    let translated = ends(at.node, source_port, at.endpoint, TARGET_PORT);
    let (back, shown) = (translated.reversed(), there.reversed());
    for len in FORWARDED_PAYLOADS.step_by(17) {
        let payload = vec![0x3c; len];
        for hook in [Hook::NicIngress, Hook::NicXdp] {
            Pair::new(there, translated, DATA, &payload).check(rig, hook, Some(&link));
            Pair::new(back, shown, DATA, &payload).check(rig, hook, Some(&link));
        }
    }
}

/// The source port that the flow got, once its first packet has passed.
fn begin<const N: usize>(rig: &Rig, at: &Ends<N>, client_port: u16, l4: usize) -> u16 {
    let there = ends(at.client, client_port, at.node, NODE_PORT);
    let sent = Spec::new(there, SCTP, sctp::INIT).build();
    let seen = rig.run(Hook::NicXdp, &sent).unwrap().frame;
    assert_ne!(seen[..12], MACS.concat(), "not sent on");
    u16::from_be_bytes([seen[l4], seen[l4 + 1]])
}

#[test]
fn sctp_through_a_node_port_keeps_a_right_crc_both_ways() {
    if let Some(reason) = skip::why_no_datapath(Mode::Ebpf) {
        return skip::say_skipped("sctp_through_a_node_port_keeps_a_right_crc_both_ways", &reason);
    }
    let mut rig = Rig::new(FLOWS).unwrap();
    rig.install(&tables(&rig)).unwrap();
    for client_port in [40_000, 40_001] {
        by_node_port(&rig, &V4, begin(&rig, &V4, client_port, 34), client_port);
        by_node_port(&rig, &V6, begin(&rig, &V6, client_port, 54), client_port);
    }
}

#[test]
fn a_crc_of_zero_is_left_to_whom_it_was_left() {
    if let Some(reason) = skip::why_no_datapath(Mode::Ebpf) {
        return skip::say_skipped("a_crc_of_zero_is_left_to_whom_it_was_left", &reason);
    }
    let mut rig = Rig::new(FLOWS).unwrap();
    rig.install(&tables(&rig)).unwrap();
    let there = ends(V4.client, 40_000, V4.frontend, PORT);
    let translated = ends(V4.client, 40_000, V4.endpoint, TARGET_PORT);
    let mut pair = Pair::new(there, translated, sctp::INIT, &[0; 16]);
    (pair.sent.no_checksum, pair.expected.no_checksum) = (true, true);
    pair.check(&rig, Hook::PodIngress, None);
}
