//! What a socket's call comes to, on the node and in a pod.

use std::vec::Vec;

use dataplane_common::{
    AffinityKey, Config, EndpointId, Frontend, FrontendKey, Live, Reason, SourceKey, TCP, UDP,
};

use super::{Decision, Name, connect, sendmsg};
use crate::{
    address::Ip,
    host::HostTables,
    service::{
        APART, Half, NODE_PORT, PORT, SERVICE, TARGET, half, id, live, loopback, node, pod,
        service, tables,
    },
};

const BOTH: u32 = Live::CLUSTER | Live::LOCAL;
/// Network namespace of a pod; the node's own is 1.
const POD: u64 = 2;

fn name<const N: usize>(addr: [u8; N], port: u16) -> Name
where
    [u8; N]: Ip,
{
    Name { addr: addr.widened(), port: port.to_be_bytes() }
}

fn in_pod(mut tables: HostTables, config_flags: u32) -> HostTables {
    tables.netns_cookie = POD;
    configure(&mut tables, config_flags);
    tables
}

fn configure(tables: &mut HostTables, flags: u32) {
    tables.config.as_mut().unwrap().flags = flags;
}

fn replaced(pod_number: u8) -> Decision {
    Decision::Replace(name(pod::<4>(pod_number), TARGET), Reason::New)
}

#[test]
fn pods_leave_what_needs_their_address_to_their_link() {
    let to = name(service::<4>(), PORT);
    for flags in [Frontend::MASQUERADE_INSIDE, Frontend::SOURCE_RANGES] {
        let mut tables = in_pod(tables::<4>(&[(1, BOTH)], flags), Config::POD_LINKS);
        assert_eq!(connect(&mut tables, &to, TCP), Decision::Keep(Reason::LeftToPodLink));
        assert_eq!(sendmsg(&mut tables, &to), Decision::Keep(Reason::LeftToPodLink));
    }
    let mut plain = in_pod(tables::<4>(&[(1, BOTH)], 0), Config::POD_LINKS);
    assert_eq!(connect(&mut plain, &to, TCP), replaced(1));
}

#[test]
fn pods_without_a_link_of_ours_are_masqueraded_by_nobody_and_allowed_by_no_range() {
    let to = name(service::<4>(), PORT);
    let tables_of = |flags| in_pod(tables::<4>(&[(1, BOTH)], flags), 0);
    let masqueraded = &mut tables_of(Frontend::MASQUERADE_INSIDE);
    assert_eq!(connect(masqueraded, &to, TCP), replaced(1));
    let ranged = &mut tables_of(Frontend::SOURCE_RANGES);
    ranged.v4.sources.insert(SourceKey::range(SERVICE, [0; 4], 0));
    assert_eq!(connect(ranged, &to, TCP), Decision::Refuse(Reason::SourceNotAllowed));
}

#[test]
fn the_nodes_sockets_are_allowed_where_its_address_is() {
    let to = name(service::<4>(), PORT);
    let mut tables = tables::<4>(&[(1, BOTH)], Frontend::SOURCE_RANGES);
    assert_eq!(connect(&mut tables, &to, TCP), Decision::Refuse(Reason::SourceNotAllowed));
    tables.v4.sources.insert(SourceKey::range(SERVICE, node(), 32));
    assert_eq!(connect(&mut tables, &to, TCP), replaced(1));
    tables.config.as_mut().unwrap().masquerade4 = [0; 4];
    assert_eq!(connect(&mut tables, &to, TCP), Decision::Refuse(Reason::SourceNotAllowed));
}

#[test]
fn a_view_without_endpoints_fails_the_call_for_its_own_reason() {
    let to = name(service::<4>(), PORT);
    for (flags, reason) in [(0, Reason::Refused), (Frontend::DROP_INSIDE, Reason::NoLocalEndpoint)]
    {
        let mut tables = tables::<4>(&[], flags);
        assert_eq!(connect(&mut tables, &to, TCP), Decision::Refuse(reason));
        assert_eq!(sendmsg(&mut tables, &to), Decision::Refuse(reason));
    }
}

#[test]
fn sockets_get_the_view_of_clients_on_this_node() {
    let to = name(service::<4>(), PORT);
    for (flags, pod_number) in [(Frontend::LOCAL_OUTSIDE, 1), (Frontend::LOCAL_INSIDE, 2)] {
        let mut tables = tables::<4>(&APART, flags);
        assert_eq!(connect(&mut tables, &to, TCP), replaced(pod_number));
    }
}

#[test]
fn other_ports_of_a_services_address_are_refused() {
    let to = name(service::<4>(), PORT + 1);
    let mut tables = tables::<4>(&[(1, BOTH)], 0);
    assert_eq!(connect(&mut tables, &to, TCP), Decision::Keep(Reason::NotAService));
    tables.v4.frontends.insert(FrontendKey::new(service(), 0, 0), Frontend::default());
    assert_eq!(connect(&mut tables, &to, TCP), Decision::Refuse(Reason::Refused));
    assert_eq!(sendmsg(&mut tables, &to), Decision::Refuse(Reason::Refused));
}

#[test]
fn loopback_addresses_are_frontends_for_the_nodes_sockets_only() {
    fn run<const N: usize>()
    where
        HostTables: Half<N>,
        [u8; N]: Ip,
    {
        let mut tables = tables::<N>(&[(1, BOTH)], 0);
        let key = FrontendKey::new(service(), PORT, TCP);
        let family = half::<N>(&mut tables);
        let frontend = family.frontends[&key];
        family.frontends.insert(FrontendKey::new(loopback(), PORT, TCP), frontend);
        // A pod's own loopback address is not the node's, whatever the node's addresses are.
        family.node_addresses.insert(loopback());
        tables.open_gate(&loopback::<N>());
        let endpoint = Decision::Replace(name(pod::<N>(1), TARGET), Reason::New);
        let kept = Decision::Keep(Reason::NotAService);
        for (port, config_flags, on_node) in [
            (PORT, 0, endpoint),
            (PORT, Config::LOOPBACK, endpoint),
            (NODE_PORT, Config::LOOPBACK, endpoint),
        ] {
            let to = name(loopback::<N>(), port);
            configure(&mut tables, config_flags);
            assert_eq!(connect(&mut tables, &to, TCP), on_node, "{port} {config_flags}");
            let mut pod = in_pod(tables.clone(), config_flags);
            assert_eq!(connect(&mut pod, &to, TCP), kept, "{port} {config_flags}");
            assert_eq!(sendmsg(&mut pod, &to), kept, "{port} {config_flags}");
        }
        half::<N>(&mut tables).node_addresses.remove(&loopback());
        configure(&mut tables, 0);
        assert_eq!(connect(&mut tables, &name(loopback::<N>(), NODE_PORT), TCP), kept);
    }
    run::<4>();
    run::<16>();
}

#[test]
fn a_network_namespace_stays_with_its_endpoint() {
    let to = name(service::<4>(), PORT);
    let mut tables = tables::<4>(&[(1, BOTH), (2, BOTH), (3, BOTH)], Frontend::AFFINITY);
    let first = connect(&mut tables, &to, TCP);
    for random in [1 << 30, 1 << 31, u32::MAX] {
        tables.random = random;
        assert_eq!(connect(&mut tables, &to, TCP), first);
        assert_eq!(sendmsg(&mut tables, &to).reason(), Reason::New);
        tables.peers.clear();
    }
    let client = tables.affinity[&AffinityKey::of_namespace(SERVICE, 1)];
    assert_eq!(EndpointId::from_bits(client.endpoint), id(1));
    tables.netns_cookie = POD;
    assert_ne!(connect(&mut tables, &to, TCP), first, "a pod is another client");
}

#[test]
fn datagrams_choose_again_once_their_endpoint_has_left_its_view() {
    let to = name(service::<4>(), PORT);
    let mut tables = tables::<4>(&[(1, BOTH)], Frontend::LOCAL_INSIDE);
    assert_eq!(sendmsg(&mut tables, &to), replaced(1));
    live(&mut tables, 1, Live::LOCAL);
    assert_eq!(sendmsg(&mut tables, &to).reason(), Reason::Established);
    live(&mut tables, 1, Live::CLUSTER);
    assert_eq!(sendmsg(&mut tables, &to).reason(), Reason::Reselected);
    let views: Vec<u16> = tables.peers.values().map(|peer| peer.views).collect();
    assert_eq!(views, [2, 2], "peers keep the view");
    assert!(tables.peers.keys().all(|key| key.protocol == UDP));
}
