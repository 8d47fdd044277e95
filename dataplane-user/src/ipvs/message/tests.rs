//! Byte by byte, against `linux/ip_vs.h`.

use proptest::prelude::*;

use super::*;
use crate::ipvs::server::Scheduler;

fn at(address: &str, port: u16) -> ServerKey {
    let address = address.parse().unwrap();
    ServerKey::Address(Virtual { address, protocol: Protocol::Tcp, port })
}

/// An attribute by hand: length, kind, value, padding.
fn by_hand(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

const NESTED: u16 = 0x8000;

#[test]
fn a_virtual_server_is_told_as_the_kernel_reads_it() {
    let scheduling = Scheduling { scheduler: Scheduler::RoundRobin, persistence_s: Some(10_800) };
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[10, 96, 0, 1]);
    let wanted = [
        by_hand(1, &2u16.to_ne_bytes()),
        by_hand(2, &6u16.to_ne_bytes()),
        by_hand(3, &address),
        by_hand(4, &[0x01, 0xbb]),
        by_hand(6, b"rr\0"),
        by_hand(7, &[0x21u32.to_ne_bytes(), [0xff; 4]].concat()),
        by_hand(8, &10_800u32.to_ne_bytes()),
        by_hand(9, &[0xff; 4]),
    ];
    let bytes = server(&at("10.96.0.1", 443), &scheduling).into_bytes();
    assert_eq!(bytes, by_hand(1 | NESTED, &wanted.concat()));
}

#[test]
fn a_server_with_a_mark_has_neither_address_nor_protocol() {
    let key = ServerKey::Mark(Family::V6, 0x6870_0001);
    let wanted = [by_hand(1, &10u16.to_ne_bytes()), by_hand(5, &0x6870_0001u32.to_ne_bytes())];
    assert_eq!(name(&key).into_bytes(), by_hand(1 | NESTED, &wanted.concat()));
    let scheduling = Scheduling { scheduler: Scheduler::Maglev, persistence_s: None };
    let bytes = server(&key, &scheduling).into_bytes();
    let rest = [
        by_hand(6, b"mh\0"),
        by_hand(7, &[0x20u32.to_ne_bytes(), [0xff; 4]].concat()),
        by_hand(8, &[0; 4]),
        by_hand(9, &128u32.to_ne_bytes()),
    ];
    assert_eq!(bytes, by_hand(1 | NESTED, &[wanted.concat(), rest.concat()].concat()));
}

#[test]
fn a_destination_follows_its_server() {
    let key = at("fd00::1", 80);
    let to: SocketAddr = "[fd01::9]:8080".parse().unwrap();
    let IpAddr::V6(address) = to.ip() else { unreachable!() };
    let short = [
        by_hand(1, &address.octets()),
        by_hand(2, &[0x1f, 0x90]),
        by_hand(11, &10u16.to_ne_bytes()),
    ];
    let wanted = [name(&key).into_bytes(), by_hand(2 | NESTED, &short.concat())];
    assert_eq!(destination(&key, to, None).into_bytes(), wanted.concat());
    let rest = [
        by_hand(3, &[0; 4]),
        by_hand(4, &1u32.to_ne_bytes()),
        by_hand(5, &[0; 4]),
        by_hand(6, &[0; 4]),
    ];
    let long = by_hand(2 | NESTED, &[short.concat(), rest.concat()].concat());
    let wanted = [name(&key).into_bytes(), long];
    assert_eq!(destination(&key, to, Some(1)).into_bytes(), wanted.concat());
}

#[test]
fn what_others_made_is_not_taken_for_ours() {
    let theirs = [
        by_hand(1, &2u16.to_ne_bytes()),
        by_hand(2, &17u16.to_ne_bytes()),
        by_hand(3, &[10, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        by_hand(4, &[0, 53]),
        by_hand(6, b"wlc\0"),
        by_hand(7, &[2u32.to_ne_bytes(), [0xff; 4]].concat()),
        by_hand(8, &[0; 4]),
        by_hand(9, &[0xff; 4]),
    ];
    let seen = read_service(&by_hand(1 | NESTED, &theirs.concat())).unwrap();
    let key = ServerKey::Address(Virtual {
        address: "10.0.0.7".parse().unwrap(),
        protocol: Protocol::Udp,
        port: 53,
    });
    let wanted = SeenService { key, scheduler: "wlc".into(), persistence_s: None, is_ours: false };
    assert_eq!(seen, wanted);
}

#[test]
fn a_destination_has_its_connections_but_not_those_who_may_come_back() {
    let told = [
        by_hand(1, &[10, 1, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        by_hand(2, &[0x1f, 0x90]),
        by_hand(3, &[0; 4]),
        by_hand(4, &[0; 4]),
        by_hand(7, &3u32.to_ne_bytes()),
        by_hand(8, &4u32.to_ne_bytes()),
        by_hand(9, &5u32.to_ne_bytes()),
    ];
    let bytes = by_hand(2 | NESTED, &told.concat());
    let wanted = SeenDestination { weight: 0, connections: 7 };
    let to = "10.1.0.5:8080".parse().unwrap();
    assert_eq!(read_destination(&bytes, Family::V4), Some((to, wanted)));
}

fn key() -> impl Strategy<Value = ServerKey> {
    let protocols = prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    prop_oneof![
        (any::<IpAddr>(), protocols, any::<u16>()).prop_map(|(address, protocol, port)| {
            ServerKey::Address(Virtual { address, protocol, port })
        }),
        (any::<bool>(), 1..=u32::MAX).prop_map(|(is_v6, mark)| {
            ServerKey::Mark(if is_v6 { Family::V6 } else { Family::V4 }, mark)
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_ours(
        key in key(),
        maglev in any::<bool>(),
        persistence_s in prop::option::of(1u32..86_401),
        to in any::<SocketAddr>(),
        weight in any::<u32>(),
    ) {
        let scheduler = if maglev { Scheduler::Maglev } else { Scheduler::RoundRobin };
        let scheduling = Scheduling { scheduler, persistence_s };
        let seen = read_service(&server(&key, &scheduling).into_bytes());
        let name = scheduler.name().to_owned();
        let wanted = SeenService { key, scheduler: name, persistence_s, is_ours: true };
        prop_assert_eq!(seen, Some(wanted));
        let bytes = destination(&key, to, Some(weight)).into_bytes();
        let to = SocketAddr::new(to.ip(), to.port());
        let wanted = SeenDestination { weight, connections: 0 };
        prop_assert_eq!(read_destination(&bytes, key.family()), Some((to, wanted)));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (read_service(&bytes), read_destination(&bytes, Family::V4));
        let nested = by_hand(1 | NESTED, &bytes);
        let _ = (read_service(&nested), read_destination(&nested, Family::V6));
    }
}
