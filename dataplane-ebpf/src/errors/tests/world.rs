//! A node with one service, and frames of both families with right checksums.

use std::{vec, vec::Vec};

use dataplane_common::{
    Config, Endpoint, EndpointId, Frontend, FrontendKey, Link, Live, Slots, TCP, UDP,
};

use crate::{
    host::{Family, HostTables},
    tables::Route,
    wire::icmp,
};

/// Last bytes of addresses.
pub(crate) const CLIENT: u8 = 1;
pub(crate) const SERVICE: u8 = 2;
pub(crate) const NODE: u8 = 3;
pub(crate) const ENDPOINT: u8 = 4;
pub(crate) const ROUTER: u8 = 5;

/// Frames of one family.
pub(crate) trait Net {
    /// Bytes of its header.
    const IP_LEN: usize;
    /// Type of an echo request.
    const ECHO: u8;
    /// The address with this last byte.
    fn addr(last: u8) -> Vec<u8>;
    /// A header around `payload`, and the Ethernet header before it.
    fn frame(src: Vec<u8>, dst: Vec<u8>, protocol: u8, payload: &[u8]) -> Vec<u8>;
    /// Where the source address stands in the header.
    const SRC: usize;
    /// Protocol, and types, of its errors.
    const ICMP: (u8, [u8; 4]);
    /// Set hops and header checksum of a quote to those that routers have left.
    fn take_hops(expected: &mut [u8], quote: &[u8]);
    /// Whether the header checksum is right.
    fn header_adds_up(header: &[u8]) -> bool;

    /// Both addresses of a frame.
    fn ends(frame: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (at, len) = (14 + Self::SRC, Self::addr(0).len());
        (frame[at..at + len].to_vec(), frame[at + len..at + 2 * len].to_vec())
    }

    /// A TCP or UDP packet.
    fn packet(from: (u8, u16), to: (u8, u16), protocol: u8, payload_len: usize) -> Vec<u8> {
        let (src, dst) = (Self::addr(from.0), Self::addr(to.0));
        let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
        Self::transport(src, dst, &ports, protocol, payload_len)
    }

    /// The answer to a packet.
    fn answer(packet: &[u8], payload_len: usize) -> Vec<u8> {
        let (src, dst) = Self::ends(packet);
        let l4 = 14 + Self::IP_LEN;
        let ports = [&packet[l4 + 2..l4 + 4], &packet[l4..l4 + 2]].concat();
        let protocol = packet[14 + if Self::IP_LEN == 20 { 9 } else { 6 }];
        Self::transport(dst, src, &ports, protocol, payload_len)
    }

    /// A TCP or UDP packet between addresses.
    fn transport(
        src: Vec<u8>,
        dst: Vec<u8>,
        ports: &[u8],
        protocol: u8,
        payload_len: usize,
    ) -> Vec<u8> {
        let mut segment = ports.to_vec();
        let at = if protocol == TCP {
            segment.extend([0, 0, 0, 9, 0, 0, 0, 7, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
            16
        } else {
            let len = u16::try_from(8 + payload_len).unwrap();
            segment.extend(len.to_be_bytes());
            segment.extend([0, 0]);
            6
        };
        segment.resize(segment.len() + payload_len, 0x5a);
        let sum = !sum(&[&pseudo(&src, &dst, protocol, &segment), &segment[..]].concat());
        segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        Self::frame(src, dst, protocol, &segment)
    }

    /// The error number `kind` from `from` about a packet of which it quotes `quoted`.
    fn error(kind: usize, from: u8, quoted: &[u8]) -> Vec<u8> {
        let at = Self::SRC;
        let (src, dst) = (Self::addr(from), quoted[at..at + Self::addr(0).len()].to_vec());
        let (protocol, kinds) = Self::ICMP;
        let mut message = vec![kinds[kind], 4, 0, 0, 0, 0, 5, 20];
        message.extend(quoted);
        let covered = Self::icmp_covers(&src, &dst, &message);
        message[2..4].copy_from_slice(&(!sum(&covered)).to_be_bytes());
        Self::frame(src, dst, protocol, &message)
    }

    /// What the checksum of an error covers.
    fn icmp_covers(src: &[u8], dst: &[u8], message: &[u8]) -> Vec<u8> {
        match Self::ICMP.0 {
            icmp::V4 => message.to_vec(),
            protocol => [&pseudo(src, dst, protocol, message), message].concat(),
        }
    }

    /// Whether every checksum of an error is right, but for those that the quote cuts off.
    fn adds_up(error: &[u8]) -> bool {
        let (src, dst) = Self::ends(error);
        let message = &error[14 + Self::IP_LEN..];
        sum(&Self::icmp_covers(&src, &dst, message)) == 0xffff
            && Self::header_adds_up(&error[14..14 + Self::IP_LEN])
            && Self::header_adds_up(&message[8..8 + Self::IP_LEN])
    }
}

fn pseudo(src: &[u8], dst: &[u8], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let [l0, l1] = u16::try_from(segment.len()).unwrap().to_be_bytes();
    [src, dst, &[0, protocol, l0, l1]].concat()
}

/// The one's complement sum of RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

pub(crate) struct V4;
pub(crate) struct V6;

impl Net for V4 {
    const IP_LEN: usize = 20;
    const ECHO: u8 = 8;
    const SRC: usize = 12;
    const ICMP: (u8, [u8; 4]) = (1, [3, 11, 12, 3]);

    fn addr(last: u8) -> Vec<u8> {
        vec![10, 0, 0, last]
    }

    fn frame(src: Vec<u8>, dst: Vec<u8>, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [l0, l1] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let fixed = [0x45, 0, l0, l1, 0, 1, 0x40, 0, 64, protocol, 0, 0];
        let mut header = [&fixed[..], &src, &dst].concat();
        let sum = !sum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0], &header[..], payload].concat()
    }

    fn take_hops(expected: &mut [u8], quote: &[u8]) {
        expected[8] = quote[8];
        expected[10..12].fill(0);
        let sum = !sum(&expected[..20]);
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
    }

    fn header_adds_up(header: &[u8]) -> bool {
        sum(header) == 0xffff
    }
}

impl Net for V6 {
    const IP_LEN: usize = 40;
    const ECHO: u8 = 128;
    const SRC: usize = 8;
    const ICMP: (u8, [u8; 4]) = (58, [1, 2, 3, 4]);

    fn addr(last: u8) -> Vec<u8> {
        address6(last).to_vec()
    }

    fn frame(src: Vec<u8>, dst: Vec<u8>, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let [l0, l1] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let ethernet = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
        let fixed = [0x60, 0, 0, 0, l0, l1, protocol, 64];
        [&ethernet[..], &fixed, &src, &dst, payload].concat()
    }

    fn take_hops(expected: &mut [u8], quote: &[u8]) {
        expected[7] = quote[7];
    }

    fn header_adds_up(_: &[u8]) -> bool {
        true
    }
}

const fn address6(last: u8) -> [u8; 16] {
    [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

/// The service on port 80 of its address and on port 30080 of the node, with one endpoint.
pub(crate) fn tables() -> HostTables {
    let id = EndpointId::new(1, 1);
    let mut tables = HostTables {
        config: Some(Config {
            masquerade4: [10, 0, 0, NODE],
            masquerade6: address6(NODE),
            source_port_min: 40_000,
            source_port_count: 1000,
            node_port_min: 30_000,
            node_port_max: 32_767,
            ..Config::default()
        }),
        now: 5,
        live: [(id.index(), Live { id: id.to_bits(), views: Live::CLUSTER })].into(),
        v4: family(|last| [10, 0, 0, last], id),
        v6: family(address6, id),
        ..HostTables::default()
    };
    tables.open_gate(&[10, 0, 0, SERVICE]);
    tables.open_gate(&address6(SERVICE));
    tables
}

fn family<const N: usize>(addr: impl Fn(u8) -> [u8; N], id: EndpointId) -> Family<N> {
    let slots = Slots { base: 0, count: 1 };
    let service = Frontend { inside: slots, outside: slots, service: 1, ..Frontend::default() };
    let masquerades = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
    let node = Frontend { flags: masquerades, ..service };
    let frontends = [TCP, UDP].into_iter().flat_map(|protocol| {
        [
            (FrontendKey::new(addr(SERVICE), 80, protocol), service),
            (FrontendKey::any_node_address(30_080, protocol), node),
        ]
    });
    Family {
        frontends: frontends.collect(),
        endpoints: [(0, Endpoint::new(addr(ENDPOINT), 8080, 0, id))].into(),
        endpoints_max: 1,
        node_addresses: [addr(NODE)].into(),
        flows_max: 1024,
        route: Some(Route::Link(Link { ifindex: 3, ..Link::default() })),
        ..Family::default()
    }
}
