//! What single service ports become: bits, ranges, markers, and what a node has to know of them.

use dataplane_common::{Frontend as Entry, FrontendKey, SourceKey, TCP, names};

use super::*;
use crate::{
    ebpf::{kernel::Plain, maps::MapWriter as _, simulate::Route},
    model::{Cidr, TrafficPolicy},
};

fn sound(limits: Limits) -> FakeMaps {
    FakeMaps { fail_one_in: 0, ..FakeMaps::new(limits) }
}

/// A load balancer at an address, and the port of it.
fn load_balancer(number: u32, ranges: &[&str]) -> (PortKey, PortState) {
    let (key, mut state) = service(number, 2);
    state.frontends[0].kind = FrontendKind::LoadBalancer;
    let range = |text: &&str| {
        let (address, prefix_len) = text.split_once('/').unwrap();
        Cidr { address: address.parse().unwrap(), prefix_len: prefix_len.parse().unwrap() }
    };
    state.source_ranges = Some(ranges.iter().map(range).collect());
    (key, state)
}

fn from(source: &str, number: u32) -> Packet {
    Packet { scope: Scope::Outside, source: source.parse().unwrap(), ..to_service(number) }
}

fn count<K: Plain, V: Plain>(maps: &mut FakeMaps, map: &'static str) -> usize {
    maps.entries::<K, V>(map).unwrap().len()
}

#[test]
fn an_unmapped_port_of_a_cluster_ip_is_refused_for_as_long_as_it_is_one() {
    let (first, state) = service(1, 2);
    let mut other = state.clone();
    other.frontends[0].port = 443;
    let second = key(2, Family::V4);
    let unmapped = Packet { port: 81, ..to_service(1) };
    let (mut program, mut maps) = (Program::new(SMALL), sound(SMALL));
    let mut check = |program: &mut Program, wanted: &Route, entries: usize| {
        program.apply(&mut maps, 0).unwrap();
        assert_eq!(&simulate_maps(&mut maps, &unmapped, false), wanted);
        assert_eq!(count::<FrontendKey<4>, Entry>(&mut maps, names::FRONTENDS4), entries);
        assert_eq!(program.fill()[0].used, entries);
    };
    program.change(&first, Some(&state)).unwrap();
    check(&mut program, &Route::Refused, 2);
    program.change(&second, Some(&other)).unwrap();
    check(&mut program, &Route::Refused, 3);
    program.change(&first, None).unwrap();
    check(&mut program, &Route::Refused, 2);
    other.frontends[0].kind = FrontendKind::ExternalIp;
    program.change(&second, Some(&other)).unwrap();
    check(&mut program, &Route::NotAService, 1);
    other.frontends[0].kind = FrontendKind::ClusterIp;
    program.change(&second, Some(&other)).unwrap();
    check(&mut program, &Route::Refused, 2);
    program.change(&second, None).unwrap();
    check(&mut program, &Route::NotAService, 0);
}

#[test]
fn cluster_ips_count_when_the_map_is_nearly_full() {
    let limits = Limits { frontends4: 4, ..SMALL };
    let mut program = Program::new(limits);
    for number in [1, 2] {
        let (key, state) = service(number, 1);
        program.change(&key, Some(&state)).unwrap();
    }
    let (key, mut state) = service(3, 1);
    program.change(&key, Some(&state)).unwrap_err();
    // Another address for the same port takes the place of the first one and its marker.
    let (second, mut moved) = service(2, 1);
    moved.frontends[0].address = FrontendAddress::Ip(ip(Family::V4, 10, 99));
    program.change(&second, Some(&moved)).unwrap();
    program.change(&second, None).unwrap();
    // One entry is left for an address that is no cluster IP, and then none for another.
    state.frontends[0].kind = FrontendKind::ExternalIp;
    program.change(&key, Some(&state)).unwrap();
    let (fourth, state) = service(4, 1);
    program.change(&fourth, Some(&state)).unwrap_err();
    let mut maps = sound(limits);
    program.apply(&mut maps, 0).unwrap();
    assert_eq!(program.fill()[0].used, 3);
}

#[test]
fn source_ranges_change_and_go_with_their_service_and_survive_a_restart() {
    let (mut program, mut maps) = (Program::new(SMALL), sound(SMALL));
    let (key, state) = load_balancer(1, &["10.0.0.0/8", "10.1.2.3/32"]);
    let table = Table::from([(key.clone(), state)]);
    program.compile(&table);
    program.apply(&mut maps, 0).unwrap();
    let dropped = Route::Dropped(dataplane_common::Reason::SourceNotAllowed);
    let goes =
        |maps: &mut FakeMaps, source| simulate_maps(maps, &from(source, 1), false) != dropped;
    assert!(goes(&mut maps, "10.9.9.9") && goes(&mut maps, "10.1.2.3"));
    assert!(!goes(&mut maps, "11.0.0.1"));

    let mut next = Program::observe(&mut maps).unwrap();
    next.compile(&table);
    assert_eq!(next.pending(), 0, "the ranges were found");

    let (_, state) = load_balancer(1, &["11.0.0.0/8"]);
    next.change(&key, Some(&state)).unwrap();
    next.apply(&mut maps, 0).unwrap();
    assert!(goes(&mut maps, "11.0.0.1") && !goes(&mut maps, "10.1.2.3"));
    let (_, state) = load_balancer(1, &[]);
    next.change(&key, Some(&state)).unwrap();
    next.apply(&mut maps, 0).unwrap();
    assert!(!goes(&mut maps, "11.0.0.1"), "no usable range serves nobody");
    next.change(&key, Some(&PortState { source_ranges: None, ..state })).unwrap();
    next.apply(&mut maps, 0).unwrap();
    assert!(goes(&mut maps, "11.0.0.1") && goes(&mut maps, "12.0.0.1"));

    let (_, state) = load_balancer(1, &["10.0.0.0/8"]);
    next.change(&key, Some(&state)).unwrap();
    next.apply(&mut maps, 0).unwrap();
    next.change(&key, None).unwrap();
    next.apply(&mut maps, 0).unwrap();
    assert_eq!(count::<SourceKey<4>, u32>(&mut maps, names::SOURCES4), 0);
}

#[test]
fn ranges_that_nobody_has_are_cleared_at_the_start() {
    let mut maps = sound(SMALL);
    let range = SourceKey::range(2, [10, 0, 0, 0], 8);
    maps.update(names::SOURCES4, &[range], &[1u32]).unwrap();
    let mut program = Program::observe(&mut maps).unwrap();
    program.compile(&Table::new());
    program.apply(&mut maps, 0).unwrap();
    assert_eq!(count::<SourceKey<4>, u32>(&mut maps, names::SOURCES4), 0);
}

#[test]
fn ranges_without_room_serve_fewer_clients_and_never_more() {
    let limits = Limits { sources4: 2, ..SMALL };
    let (mut program, mut maps) = (Program::new(limits), sound(limits));
    let (key, state) = load_balancer(1, &["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"]);
    let error = program.change(&key, Some(&state)).unwrap_err();
    assert_eq!((error.map, error.max), (names::SOURCES4, 2));
    assert_eq!(program.left_out().len(), 1);
    program.apply(&mut maps, 0).unwrap();
    let dropped = Route::Dropped(dataplane_common::Reason::SourceNotAllowed);
    let goes =
        |maps: &mut FakeMaps, source| simulate_maps(maps, &from(source, 1), false) != dropped;
    assert!(goes(&mut maps, "11.0.0.1") && !goes(&mut maps, "12.0.0.1"));
    // All of the old ones go for all of the new ones, though there is no room for both.
    let (_, state) = load_balancer(1, &["13.0.0.0/8", "14.0.0.0/8"]);
    program.change(&key, Some(&state)).unwrap();
    assert!(program.left_out().is_empty());
    program.apply(&mut maps, 0).unwrap();
    assert!(goes(&mut maps, "14.0.0.1") && !goes(&mut maps, "11.0.0.1"));
    assert_eq!(program.pending(), 0);
}

#[test]
fn the_next_port_under_a_number_never_has_the_ranges_of_the_last_one() {
    let (mut program, mut maps) = (Program::new(SMALL), sound(SMALL));
    let (first, state) = load_balancer(1, &["10.0.0.0/8"]);
    program.change(&first, Some(&state)).unwrap();
    program.apply(&mut maps, 0).unwrap();
    program.change(&first, None).unwrap();
    let (second, state) = load_balancer(2, &["11.0.0.0/8"]);
    program.change(&second, Some(&state)).unwrap();
    program.apply(&mut maps, 0).unwrap();
    assert_eq!(program.services()[0].number, 4, "2 rests");
    program.reclaim(GRACE_MS);
    let (third, state) = load_balancer(3, &["12.0.0.0/8"]);
    program.change(&third, Some(&state)).unwrap();
    assert_eq!(program.services()[0].number, 2);
}

#[test]
fn answers_pass_by_nics_for_endpoints_of_the_node_and_for_clients_that_stay_as_they_are() {
    let mut program = Program::new(SMALL);
    let (key, state) = service(1, 2);
    let mut needs = |state: &PortState| {
        program.change(&key, Some(state)).unwrap();
        program.needs_nic_replies()
    };
    assert!(!needs(&state));
    let mut other = state.clone();
    other.endpoints[0].placement = Placement::Host;
    assert!(needs(&other));
    for kind in [FrontendKind::NodePort, FrontendKind::LoadBalancer, FrontendKind::ExternalIp] {
        let mut other = state.clone();
        other.frontends[0].kind = kind;
        assert!(!needs(&other), "{kind:?}");
        other.external = TrafficPolicy::Local;
        assert!(needs(&other), "{kind:?}");
    }
    let internal = PortState { internal: TrafficPolicy::Local, ..state.clone() };
    assert!(!needs(&internal));
    let mut other = state.clone();
    other.frontends[0].kind = FrontendKind::HostPort;
    assert!(needs(&other));
    assert!(!needs(&state));
}

#[test]
fn host_ports_on_every_address_are_told_from_the_least_to_the_greatest() {
    let mut program = Program::new(SMALL);
    let pod = |number, family, ports: &[u16], everywhere: bool| {
        let (_, mut state) = service(number, 1);
        let address = if everywhere {
            FrontendAddress::NodeAddresses
        } else {
            FrontendAddress::Ip(ip(family, 10, number))
        };
        let (protocol, kind) = (Protocol::Tcp, FrontendKind::HostPort);
        let frontend = |port: &u16| Frontend { address, port: *port, protocol, kind };
        state.frontends = ports.iter().map(frontend).collect();
        (PortKey { owner: PortOwner::Pod, ..key(number, family) }, state)
    };
    assert_eq!(program.host_ports(), None);
    let (first, state) = pod(1, Family::V4, &[80, 443], true);
    program.change(&first, Some(&state)).unwrap();
    assert_eq!(program.host_ports(), Some(80..=443));
    let (second, state) = pod(2, Family::V6, &[8080], true);
    program.change(&second, Some(&state)).unwrap();
    let (third, state) = pod(3, Family::V4, &[9000], false);
    program.change(&third, Some(&state)).unwrap();
    assert_eq!(program.host_ports(), Some(80..=8080));
    program.change(&first, None).unwrap();
    assert_eq!(program.host_ports(), Some(8080..=8080));
    program.change(&second, None).unwrap();
    assert_eq!(program.host_ports(), None);
}

#[test]
fn affinity_is_told_with_its_time_and_costs_no_other_frontend_a_bit() {
    let mut program = Program::new(SMALL);
    let (key, state) = service(1, 2);
    let frontend = FrontendKey::<4>::new([10, 0, 0, 1], 80, TCP);
    program.change(&key, Some(&state)).unwrap();
    assert_eq!(program.v4.frontend(&frontend).unwrap().affinity_s, 0);
    for seconds in [10_800, 60] {
        let state = PortState { affinity_s: Some(seconds), ..state.clone() };
        program.change(&key, Some(&state)).unwrap();
        let value = program.v4.frontend(&frontend).unwrap();
        assert_eq!(value.affinity_s, seconds);
        assert_eq!(value.flags, Entry::AFFINITY | Entry::MASQUERADE_OUTSIDE);
        assert!(program.v4.frontends_dirty.contains(&frontend));
    }
}
