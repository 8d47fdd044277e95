//! Who gets which endpoint, and whose source stays: the rules of a first packet, in both families.

use std::vec::Vec;

use dataplane_common::{
    Affinity, Endpoint, Flow, FlowKey, Frontend, FrontendKey, Live, Reason, SourceKey, TCP, UDP,
};
use proptest::prelude::*;

use super::{Verdict, egress};
use crate::{
    address::Ip,
    host::{Frame, HostTables},
    select::Scope,
    service::{
        APART, Half, NIC, NODE_PORT, PORT, SERVICE, TARGET, addr, ends, ends_of, half, id, live,
        loopback, node, packet, pod, send, service, tables,
    },
    sockets::{self, Decision, Name},
};

const BOTH: u32 = Live::CLUSTER | Live::LOCAL;
const MASQUERADE: u32 = Frontend::MASQUERADE_INSIDE | Frontend::MASQUERADE_OUTSIDE;
const NS_PER_S: u64 = 1_000_000_000;

/// A test in both families.
macro_rules! in_both_families {
    ($($(#[$attribute:meta])* fn $name:ident<N>() $body:block)+) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $name() {
                fn run<const N: usize>()
                where
                    HostTables: Half<N> + crate::tables::Tables<N>,
                    [u8; N]: Ip,
                $body
                run::<4>();
                run::<16>();
            }
        )+
    };
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Who {
    Pod,
    Node,
    Outside,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Policy {
    Cluster,
    ExternalLocal,
    InternalLocal,
}

use {Kind::*, Policy::*, Who::*};

/// Client, kind of frontend, and for each policy (`Cluster`, `externalTrafficPolicy: Local`,
/// `internalTrafficPolicy: Local`) whether the source is masqueraded (kube-proxy's 27 cells).
const CELLS: [(Who, Kind, [bool; 3]); 9] = [
    (Pod, ClusterIp, [false, false, false]),
    (Pod, NodePort, [true, false, true]),
    (Pod, LoadBalancer, [true, false, true]),
    (Node, ClusterIp, [true, true, true]),
    (Node, NodePort, [true, true, true]),
    (Node, LoadBalancer, [true, true, true]),
    (Outside, ClusterIp, [true, true, true]),
    (Outside, NodePort, [true, false, true]),
    (Outside, LoadBalancer, [true, false, true]),
];

/// The flags of a frontend, as its service's policies want them.
const fn flags(kind: Kind, policy: Policy) -> u32 {
    match (kind, policy) {
        (ClusterIp, InternalLocal) => {
            Frontend::MASQUERADE_OUTSIDE | Frontend::LOCAL_INSIDE | Frontend::LOCAL_OUTSIDE
        }
        (ClusterIp, Cluster | ExternalLocal) => Frontend::MASQUERADE_OUTSIDE,
        (NodePort | LoadBalancer, ExternalLocal) => Frontend::LOCAL_OUTSIDE,
        (NodePort | LoadBalancer, Cluster | InternalLocal) => MASQUERADE,
    }
}

/// Whether the client gets the endpoints of this node only.
fn is_local(who: Who, kind: Kind, policy: Policy) -> bool {
    match kind {
        ClusterIp => policy == InternalLocal,
        NodePort | LoadBalancer => policy == ExternalLocal && who == Outside,
    }
}

in_both_families! {
    fn clients_get_the_view_and_the_source_that_kube_proxy_gives_them<N>() {
        for (who, kind, masqueraded) in CELLS {
            for (policy, masqueraded) in [Cluster, ExternalLocal, InternalLocal].into_iter().zip(masqueraded) {
                let cell = (who, kind, policy);
                let mut tables = tables::<N>(&APART, flags(kind, policy));
                let to = if kind == NodePort { (node(), NODE_PORT) } else { (service(), PORT) };
                let expected = pod::<N>(if is_local(who, kind, policy) { 2 } else { 1 });
                let (client, scope) = match who {
                    Pod => (pod(9), Scope::Inside),
                    Outside => (addr(9, 9), Scope::Outside),
                    Node => {
                        // A socket of the node has the node's address anyway.
                        let name = Name { addr: to.0.widened(), port: to.1.to_be_bytes() };
                        let decision = sockets::connect(&mut tables, &name, TCP);
                        let port = TARGET.to_be_bytes();
                        let endpoint = Name { addr: expected.widened(), port };
                        assert_eq!(decision, Decision::Replace(endpoint, Reason::New), "{cell:?}");
                        assert!(masqueraded, "{cell:?}");
                        continue;
                    }
                };
                let tuple = ends::<N>((client, 40_000), to);
                let (verdict, after) = send::<N>(&mut tables, scope, tuple, TCP);
                assert_eq!(verdict.reason(), Reason::New, "{cell:?}");
                assert_eq!(after.dst, expected, "{cell:?}");
                let source = if masqueraded { node() } else { client };
                assert_eq!(after.src, source, "{cell:?}");
                assert_eq!(matches!(verdict, Verdict::Forward(..)), masqueraded, "{cell:?}");
            }
        }
    }

    fn a_pod_that_reaches_itself_sees_the_node<N>() {
        for scope in [Scope::Inside, Scope::Outside] {
            let mut tables = tables::<N>(&[(1, BOTH)], 0);
            let tuple = ends::<N>((pod(1), 40_000), (service(), PORT));
            let (verdict, after) = send::<N>(&mut tables, scope, tuple, TCP);
            assert!(matches!(verdict, Verdict::Forward(Reason::New, _)), "{verdict:?}");
            assert_eq!((after.src, after.dst), (node(), pod(1)));
        }
    }

    fn an_endpoint_with_the_nodes_address_sees_its_client<N>() {
        for scope in [Scope::Inside, Scope::Outside] {
            let mut tables = tables::<N>(&[(1, BOTH)], MASQUERADE);
            let host = Endpoint::new(node(), TARGET, Endpoint::<N>::HOST, id(1));
            half::<N>(&mut tables).endpoints.insert(0, host);
            let tuple = ends::<N>((addr(9, 9), 40_000), (node(), NODE_PORT));
            let (verdict, after) = send::<N>(&mut tables, scope, tuple, TCP);
            assert_eq!(verdict, Verdict::Deliver(Reason::New));
            assert_eq!((after.src, after.dst), (addr(9, 9), node()));
        }
    }

    fn a_view_without_endpoints_drops_where_its_frontend_says_so_and_refuses_else<N>() {
        let cases = [
            (0, [Reason::Refused, Reason::Refused]),
            (Frontend::DROP_INSIDE, [Reason::NoLocalEndpoint, Reason::Refused]),
            (Frontend::DROP_OUTSIDE, [Reason::Refused, Reason::NoLocalEndpoint]),
        ];
        for (flags, reasons) in cases {
            for (scope, reason) in [Scope::Inside, Scope::Outside].into_iter().zip(reasons) {
                let mut tables = tables::<N>(&[], flags);
                let tuple = ends::<N>((addr(9, 9), 40_000), (service(), PORT));
                let (verdict, _) = send::<N>(&mut tables, scope, tuple, UDP);
                assert_eq!(verdict.reason(), reason, "{flags:#x} {scope:?}");
            }
        }
    }

    fn udp_chooses_again_once_its_endpoint_has_left_its_view_and_tcp_stays<N>() {
        for (protocol, reason) in [(UDP, Reason::Reselected), (TCP, Reason::Established)] {
            let mut tables = tables::<N>(&[(1, BOTH), (2, BOTH)], Frontend::LOCAL_OUTSIDE);
            let tuple = ends::<N>((addr(9, 9), 40_000), (node(), NODE_PORT));
            let (_, first) = send::<N>(&mut tables, Scope::Outside, tuple, protocol);
            let left = first.dst[N - 1];
            live(&mut tables, left, Live::CLUSTER);
            // The block of the local view has lost it.
            let frontend = FrontendKey::any_node_address(NODE_PORT, protocol);
            let frontend = half::<N>(&mut tables).frontends.get_mut(&frontend).unwrap();
            (frontend.outside.base, frontend.outside.count) = (u32::from(left == 1), 1);
            let mut frame = Frame(packet(tuple, protocol));
            if protocol == TCP {
                frame.0[14 + if N == 4 { 20 } else { 40 } + 13] = 0x10;
            }
            let verdict = super::ingress(&mut frame, &mut tables, Scope::Outside);
            assert_eq!(verdict.reason(), reason);
            let stays = ends_of::<N>(&frame.0).dst == first.dst;
            assert_eq!(stays, protocol == TCP);
        }
    }

    fn udp_stays_while_its_endpoint_is_in_its_view<N>() {
        let mut tables = tables::<N>(&[(1, BOTH)], 0);
        let tuple = ends::<N>((pod(9), 40_000), (service(), PORT));
        send::<N>(&mut tables, Scope::Inside, tuple, UDP);
        live(&mut tables, 1, Live::CLUSTER);
        let (verdict, _) = send::<N>(&mut tables, Scope::Inside, tuple, UDP);
        assert_eq!(verdict.reason(), Reason::Established);
    }

    fn answers_to_a_flow_that_keeps_its_source_are_translated_where_they_leave<N>() {
        let mut tables = tables::<N>(&APART, Frontend::LOCAL_OUTSIDE);
        let tuple = ends::<N>((addr(9, 9), 40_000), (node(), NODE_PORT));
        let (verdict, _) = send::<N>(&mut tables, Scope::Outside, tuple, TCP);
        assert_eq!(verdict, Verdict::Deliver(Reason::New));
        let answer = ends::<N>((pod(2), TARGET), (addr(9, 9), 40_000));
        let mut frame = Frame(packet(answer, TCP));
        assert_eq!(egress(&mut frame, &mut tables), Verdict::Deliver(Reason::Reply));
        assert_eq!(ends_of::<N>(&frame.0), tuple.reversed());
    }

    fn xdp_leaves_flows_that_keep_their_source_and_drops_what_is_denied<N>() {
        let cases = [
            (Frontend::LOCAL_OUTSIDE, Verdict::Pass(Reason::LeftToTc)),
            (Frontend::SOURCE_RANGES, Verdict::Drop(Reason::SourceNotAllowed)),
        ];
        for (flags, verdict) in cases {
            let mut tables = tables::<N>(&APART, flags);
            tables.transmits_only_by = Some(NIC);
            let tuple = ends::<N>((addr(9, 9), 40_000), (node(), NODE_PORT));
            assert_eq!(send::<N>(&mut tables, Scope::Outside, tuple, TCP), (verdict, tuple));
        }
    }

    fn source_ranges_decide_before_the_view_is_looked_at<N>() {
        let mut tables = tables::<N>(&[], Frontend::SOURCE_RANGES | Frontend::DROP_OUTSIDE);
        let tuple = ends::<N>((addr(9, 9), 40_000), (service(), PORT));
        let (verdict, _) = send::<N>(&mut tables, Scope::Outside, tuple, TCP);
        assert_eq!(verdict, Verdict::Drop(Reason::SourceNotAllowed));
        half::<N>(&mut tables).sources.insert(SourceKey::range(SERVICE, [0; N], 0));
        let (verdict, _) = send::<N>(&mut tables, Scope::Outside, tuple, TCP);
        assert_eq!(verdict, Verdict::Drop(Reason::NoLocalEndpoint));
    }

    fn ranges_of_another_service_allow_nobody<N>() {
        let mut tables = tables::<N>(&[(1, BOTH)], Frontend::SOURCE_RANGES);
        half::<N>(&mut tables).sources.insert(SourceKey::range(SERVICE + 1, [0; N], 0));
        let tuple = ends::<N>((pod(9), 40_000), (service(), PORT));
        let (verdict, _) = send::<N>(&mut tables, Scope::Inside, tuple, TCP);
        assert_eq!(verdict, Verdict::Drop(Reason::SourceNotAllowed));
    }

    fn other_ports_of_a_services_address_are_refused_where_the_service_owns_it<N>() {
        let mut tables = tables::<N>(&[(1, BOTH)], 0);
        let tuple = ends::<N>((pod(9), 40_000), (service(), PORT + 1));
        let (verdict, _) = send::<N>(&mut tables, Scope::Inside, tuple, UDP);
        assert_eq!(verdict, Verdict::Pass(Reason::NotAService));
        half::<N>(&mut tables).frontends.insert(FrontendKey::new(service(), 0, 0), Frontend::default());
        let (verdict, _) = send::<N>(&mut tables, Scope::Inside, tuple, UDP);
        assert_eq!(verdict, Verdict::Answer(Reason::Refused));
        let tuple = ends::<N>((pod(9), 40_000), (service(), PORT));
        let (verdict, _) = send::<N>(&mut tables, Scope::Inside, tuple, UDP);
        assert_eq!(verdict, Verdict::Deliver(Reason::New));
    }

    fn packets_to_a_loopback_address_are_nobodys<N>() {
        let mut tables = tables::<N>(&[(1, BOTH)], 0);
        let key = FrontendKey::new(service(), PORT, TCP);
        let frontend = half::<N>(&mut tables).frontends[&key];
        half::<N>(&mut tables).frontends.insert(FrontendKey::new(loopback(), PORT, TCP), frontend);
        tables.open_gate(&loopback::<N>());
        for (scope, port) in [(Scope::Inside, PORT), (Scope::Outside, NODE_PORT)] {
            let tuple = ends::<N>((pod(9), 40_000), (loopback(), port));
            let (verdict, _) = send::<N>(&mut tables, scope, tuple, TCP);
            assert_eq!(verdict, Verdict::Pass(Reason::NotAService));
        }
    }

    fn a_client_stays_with_its_endpoint_until_that_leaves_or_time_is_up<N>() {
        let endpoints = [(1, BOTH), (2, BOTH), (3, BOTH), (4, BOTH)];
        let mut tables = tables::<N>(&endpoints, Frontend::AFFINITY);
        let mut port = 40_000;
        let mut ask = |tables: &mut HostTables| {
            port += 1;
            let tuple = ends::<N>((pod(9), port), (service(), PORT));
            let (verdict, after) = send::<N>(tables, Scope::Inside, tuple, TCP);
            assert_eq!(verdict, Verdict::Deliver(Reason::New));
            let flow = half::<N>(tables).flows[&FlowKey::forward(tuple, TCP)];
            (after.dst, flow.flags & Flow::<N>::AFFINE != 0)
        };
        let (first, affine) = ask(&mut tables);
        assert!(!affine);
        // Each flow gives the client its time anew.
        for _ in 0..8 {
            tables.now_ns += 60 * NS_PER_S;
            assert_eq!(ask(&mut tables), (first, true));
        }
        tables.now_ns += 60 * NS_PER_S + 1;
        let (second, affine) = ask(&mut tables);
        assert!(!affine, "the time is up");
        assert_eq!(ask(&mut tables), (second, true));
        live(&mut tables, second[N - 1], Live::LOCAL);
        assert!(!ask(&mut tables).1, "the endpoint is in the other view only");
    }

    fn clients_and_services_have_their_own_affinity<N>() {
        let mut tables = tables::<N>(&[(1, BOTH), (2, BOTH)], Frontend::AFFINITY);
        for client in 1..40 {
            let tuple = ends::<N>((addr(9, client), 40_000), (service(), PORT));
            send::<N>(&mut tables, Scope::Outside, tuple, TCP);
        }
        assert_eq!(tables.affinity.len(), 39);
        let mut chosen: Vec<_> = tables.affinity.values().map(|client| client.endpoint).collect();
        chosen.sort_unstable();
        chosen.dedup();
        assert_eq!(chosen.len(), 2, "not all clients have the same endpoint");
        let last = |client: &Affinity| client.last_ns == tables.now_ns;
        assert!(tables.affinity.values().all(last));
        assert!(tables.affinity.keys().all(|key| key.service == SERVICE));
    }

    fn the_frontends_of_a_service_share_affinity_within_their_views<N>() {
        let mut tables = tables::<N>(&APART, Frontend::AFFINITY | Frontend::LOCAL_OUTSIDE);
        let key = FrontendKey::new(service(), PORT, TCP);
        let frontend = half::<N>(&mut tables).frontends.get_mut(&key).unwrap();
        // The cluster IP gives everybody the cluster-wide view.
        (frontend.outside, frontend.flags) = (frontend.inside, Frontend::AFFINITY);
        for (to, endpoint) in [((service::<N>(), PORT), pod::<N>(1)), ((node(), NODE_PORT), pod(2))] {
            let (_, after) = send::<N>(&mut tables, Scope::Outside, ends::<N>((addr(9, 9), 40_000), to), TCP);
            assert_eq!(after.dst, endpoint);
        }
    }
}

proptest! {
    #[test]
    fn a_client_is_served_if_it_shares_the_bits_of_a_range(
        range: [u8; 4],
        client: [u8; 4],
        same_bits in 0u32..=32,
        len in 0u32..=32,
    ) {
        let mask = |bits: u32| u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let start = u32::from_be_bytes(range) & mask(len);
        let near = (u32::from_be_bytes(range) & mask(same_bits))
            | (u32::from_be_bytes(client) & !mask(same_bits));
        let mut tables = tables::<4>(&[(1, BOTH)], Frontend::SOURCE_RANGES);
        tables.v4.sources.insert(SourceKey::range(SERVICE, start.to_be_bytes(), len));
        let tuple = ends::<4>((near.to_be_bytes(), 40_000), (service(), PORT));
        let (verdict, _) = send::<4>(&mut tables, Scope::Outside, tuple, TCP);
        let served = near & mask(len) == start;
        let reason = if served { Reason::New } else { Reason::SourceNotAllowed };
        prop_assert_eq!(verdict.reason(), reason);
    }
}
