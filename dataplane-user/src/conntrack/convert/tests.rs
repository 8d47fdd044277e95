//! Both ways, for every kind of connection.

use dataplane_common::{Live, SCTP};
use proptest::prelude::*;

use super::*;

const SEEN: u32 = status::SEEN_REPLY | status::ASSURED;

fn tracked(protocol: u8, ends: [&str; 4], state: Option<u8>) -> Entry {
    let [client, frontend, endpoint, seen] = ends.map(|end| end.parse().unwrap());
    Entry {
        protocol,
        original: Tuple { source: client, destination: frontend },
        reply: Tuple { source: endpoint, destination: seen },
        status: SEEN,
        timeout_s: 100,
        tcp_state: state,
        mark: 0,
    }
}

fn known() -> Known {
    Known { service: 7, endpoint: 0x1234, views: Live::CLUSTER }
}

#[test]
fn a_pods_connection_becomes_two_entries_that_are_partners() {
    let entry = tracked(
        TCP,
        ["10.1.0.2:40000", "10.96.0.1:80", "10.1.0.9:8080", "10.1.0.2:40000"],
        Some(tcp::ESTABLISHED),
    );
    let [(key, there), (partner, back)] = flow::<4>(&entry, known(), 5).unwrap();
    assert_eq!((key.is_reply(), key.protocol()), (false, TCP));
    assert_eq!((there.to.src, there.to.dst), ([10, 1, 0, 2], [10, 1, 0, 9]));
    assert_eq!(u16::from_be_bytes(there.to.dst_port), 8080);
    assert_eq!(key.partner(&there.to), partner);
    assert_eq!(partner.partner(&back.to), key);
    assert_eq!((there.service, there.endpoint, there.seen), (7, 0x1234, 5));
    assert_eq!(there.flags, Flow::<4>::ANSWERED | Flow::<4>::CLUSTER);
}

#[test]
fn a_masqueraded_connection_is_forwarded_in_both_families() {
    for ends in [
        ["203.0.113.7:40000", "192.0.2.1:30080", "10.1.0.9:8080", "192.0.2.1:2000"],
        ["[2001:db8::7]:40000", "[2001:db8::1]:30080", "[fd00::9]:8080", "[2001:db8::1]:2000"],
    ] {
        let entry = tracked(TCP, ends, Some(tcp::ESTABLISHED));
        let flags = match flow::<4>(&entry, known(), 5) {
            Some([(_, there), _]) => there.flags & Flow::<4>::FORWARD,
            None => flow::<16>(&entry, known(), 5).unwrap()[0].1.flags & Flow::<16>::FORWARD,
        };
        assert_eq!(flags, Flow::<4>::FORWARD);
    }
}

#[test]
fn what_has_ended_or_is_nobodys_does_not_move() {
    let pod = ["10.1.0.2:40000", "10.96.0.1:80", "10.1.0.9:8080", "10.1.0.2:40000"];
    let plain = ["10.1.0.2:40000", "10.1.0.9:80", "10.1.0.9:80", "10.1.0.2:40000"];
    let moves = |entry: &Entry, known| flow::<4>(entry, known, 5).is_some();
    for state in 0..=10 {
        let lives = (tcp::SYN_RECEIVED..=tcp::LAST_ACK).contains(&state);
        assert_eq!(moves(&tracked(TCP, pod, Some(state)), known()), lives, "{state}");
    }
    assert!(!moves(&tracked(TCP, plain, Some(tcp::ESTABLISHED)), known()), "not translated");
    assert!(moves(&tracked(UDP, pod, None), known()));
    let nobody = Known::default();
    assert!(!moves(&tracked(UDP, pod, None), nobody), "the next datagram chooses again");
    assert!(moves(&tracked(TCP, pod, Some(tcp::ESTABLISHED)), nobody), "it stays until it ends");
    assert!(moves(&tracked(SCTP, pod, None), nobody));
}

#[test]
fn one_fin_more_ends_a_connection_that_is_closing() {
    let pod = ["10.1.0.2:40000", "10.96.0.1:80", "10.1.0.9:8080", "10.1.0.2:40000"];
    let [(_, there), (_, back)] =
        flow::<4>(&tracked(TCP, pod, Some(tcp::CLOSE_WAIT)), known(), 5).unwrap();
    for half in [there, back] {
        assert!(!Flow::<4>::is_closed(half.flags));
    }
    assert!(Flow::<4>::is_closed(back.flags | Flow::<4>::FIN));
}

#[test]
fn flows_that_ended_or_never_began_are_not_tracked() {
    let pod = ["10.1.0.2:40000", "10.96.0.1:80", "10.1.0.9:8080", "10.1.0.2:40000"];
    let [(key, there), (partner, back)] =
        flow::<4>(&tracked(TCP, pod, Some(tcp::ESTABLISHED)), known(), 5).unwrap();
    let with = |flags| Flow { flags, ..there };
    assert!(entry(&key, &there, back.flags).is_some());
    assert_eq!(entry(&partner, &back, there.flags), None, "the other direction says nothing new");
    assert_eq!(entry(&key, &with(Flow::<4>::CLUSTER), 0), None, "nobody has answered");
    assert!(entry(&key, &with(Flow::<4>::CLUSTER), Flow::<4>::ANSWERED).is_some());
    assert_eq!(entry(&key, &there, Flow::<4>::RESET), None);
    let closing = entry(&key, &with(Flow::<4>::ANSWERED | Flow::<4>::FIN), 0).unwrap();
    assert_eq!(closing.tcp_state, Some(tcp::CLOSE_WAIT));
    let both = Flow::<4>::ANSWERED | Flow::<4>::FIN | Flow::<4>::PARTNER_FIN;
    assert_eq!(entry(&key, &with(both), 0), None);
}

#[test]
fn only_the_programs_own_address_and_ports_are_in_reach() {
    let config = Config {
        masquerade4: [192, 0, 2, 1],
        source_port_min: 1024,
        source_port_count: 28_976,
        ..Config::default()
    };
    let at = |text: &str| is_in_reach(&config, text.parse().unwrap());
    assert!(at("192.0.2.1:1024") && at("192.0.2.1:29999"));
    assert!(!at("192.0.2.1:1023") && !at("192.0.2.1:30000") && !at("192.0.2.2:2000"));
    assert!(!at("[2001:db8::1]:2000"));
}

proptest! {
    /// Who talks to whom is the same after both ways.
    #[test]
    fn there_and_back_is_the_same_connection(
        ends in any::<[(std::net::Ipv4Addr, u16); 4]>(),
        protocol in prop_oneof![Just(TCP), Just(UDP)],
    ) {
        let [client, frontend, endpoint, seen] = ends.map(|(ip, port)| SocketAddr::new(ip.into(), port));
        prop_assume!(endpoint != frontend);
        let before = Entry {
            protocol,
            original: Tuple { source: client, destination: frontend },
            reply: Tuple { source: endpoint, destination: seen },
            status: SEEN,
            timeout_s: 0,
            tcp_state: (protocol == TCP).then_some(tcp::ESTABLISHED),
            mark: 0,
        };
        let [(key, there), (_, back)] = flow::<4>(&before, known(), 5).unwrap();
        let after = entry(&key, &there, back.flags).unwrap();
        prop_assert_eq!((after.original, after.reply), (before.original, before.reply));
        prop_assert_eq!((after.status, after.tcp_state), (before.status, before.tcp_state));
        prop_assert_eq!(there.flags & Flow::<4>::FORWARD != 0, client != seen);
    }
}
