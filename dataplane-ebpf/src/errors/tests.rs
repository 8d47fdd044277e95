//! What becomes of an error about a packet that was translated before, in both families.

pub(crate) mod world;

use proptest::prelude::*;
use std::vec::Vec;

use dataplane_common::{Reason, TCP, UDP};

use crate::{
    host::{Frame, HostTables},
    pipeline::{Hop, Verdict, egress, ingress},
    select::Scope,
};
use world::{CLIENT, ENDPOINT, NODE, Net, ROUTER, SERVICE, V4, V6};

/// A packet that a client has sent, the error about what it became, and who sends that.
#[derive(Clone, Debug)]
struct Story {
    protocol: u8,
    /// Whether the client asks a node port, so that its source is masqueraded.
    node_port: bool,
    client_port: u16,
    payload_len: usize,
    /// Bytes of the packet that the error quotes, from its IP header on; at least the minimum.
    quoted_len: usize,
    /// UDP: without a checksum.
    no_checksum: bool,
    kind: usize,
}

fn stories() -> impl Strategy<Value = Story> {
    let any = (
        prop::sample::select(&[TCP, UDP]),
        any::<bool>(),
        1_u16..,
        0_usize..40,
        // Half of TCP's checksum would be neither here nor there.
        (0_usize..80).prop_filter("half a checksum", |len| *len != 9),
        any::<bool>(),
        0_usize..4,
    );
    any.prop_map(|(protocol, node_port, client_port, payload_len, quoted_len, none, kind)| Story {
        protocol,
        node_port,
        client_port,
        payload_len,
        quoted_len,
        no_checksum: none && protocol == UDP,
        kind,
    })
}

/// Sends the client's packet; gives it as it was sent, and as it went on.
fn translated<N: Net>(tables: &mut HostTables, story: &Story) -> (Vec<u8>, Vec<u8>) {
    let to = if story.node_port { (NODE, 30_080) } else { (SERVICE, 80) };
    let mut sent = N::packet((CLIENT, story.client_port), to, story.protocol, story.payload_len);
    if story.no_checksum {
        let at = 14 + N::IP_LEN + 6;
        sent[at..at + 2].fill(0);
    }
    let mut frame = Frame(sent.clone());
    let verdict = ingress(&mut frame, tables, Scope::Outside);
    assert_eq!(verdict.reason(), Reason::New, "{story:?}");
    (sent, frame.0)
}

/// The error about `packet` that `from` sends to its source.
fn error<N: Net>(story: &Story, packet: &[u8], from: u8) -> Vec<u8> {
    let quoted = &packet[14..];
    let len = (N::IP_LEN + 8 + story.quoted_len).min(quoted.len());
    N::error(story.kind, from, &quoted[..len])
}

/// The error's quote is the start of `sent`, as a router sees it after some hops, and it adds up.
fn check<N: Net>(error: &[u8], sent: &[u8], from: u8, to: u8) {
    assert!(N::adds_up(error), "{error:02x?}");
    assert_eq!(N::ends(error), (N::addr(from), N::addr(to)));
    let quote = &error[14 + N::IP_LEN + 8..];
    let mut expected = sent[14..14 + quote.len()].to_vec();
    N::take_hops(&mut expected, quote);
    assert_eq!(quote, expected, "the quote is not what was sent");
}

fn an_error_about_a_forward_packet<N: Net>(story: &Story) {
    let mut tables = world::tables();
    let (sent, on_the_way) = translated::<N>(&mut tables, story);
    for from in [ENDPOINT, ROUTER] {
        let mut frame = Frame(error::<N>(story, &on_the_way, from));
        if story.node_port {
            let verdict = ingress(&mut frame, &mut tables, Scope::Outside);
            assert_eq!(verdict, Verdict::Forward(Reason::IcmpError, Hop::Link(3)), "{story:?}");
            check::<N>(&frame.0, &sent, NODE, CLIENT);
        } else {
            let before = frame.clone();
            let arrives = ingress(&mut frame, &mut tables, Scope::Outside);
            assert_eq!(arrives, Verdict::Pass(Reason::NotTransport), "on its way to the pod");
            assert_eq!(frame, before);
            let verdict = egress(&mut frame, &mut tables);
            assert_eq!(verdict, Verdict::Deliver(Reason::IcmpError), "{story:?}");
            let seen_as = if from == ENDPOINT { SERVICE } else { from };
            check::<N>(&frame.0, &sent, seen_as, CLIENT);
        }
    }
}

fn an_error_about_an_answer<N: Net>(story: &Story) {
    let mut tables = world::tables();
    let (_, on_the_way) = translated::<N>(&mut tables, story);
    let answer = N::answer(&on_the_way, story.payload_len);
    let mut frame = Frame(answer.clone());
    let verdict = if story.node_port {
        ingress(&mut frame, &mut tables, Scope::Outside)
    } else {
        egress(&mut frame, &mut tables)
    };
    assert_eq!(verdict.reason(), Reason::Reply, "{story:?}");
    let mut frame = Frame(error::<N>(story, &frame.0, CLIENT));
    let verdict = ingress(&mut frame, &mut tables, Scope::Outside);
    assert_eq!(verdict.reason(), Reason::IcmpError, "{story:?}");
    let from = if story.node_port { NODE } else { CLIENT };
    check::<N>(&frame.0, &answer, from, ENDPOINT);
}

fn what_is_not_an_error_about_a_flow<N: Net>(story: &Story) {
    let mut tables = world::tables();
    let (_, on_the_way) = translated::<N>(&mut tables, story);
    let error = error::<N>(story, &on_the_way, ROUTER);
    let at = 14 + N::IP_LEN;
    // An echo request; an error to somebody else than the packet's sender; one about other ports;
    // one that ends inside the quoted ports.
    let mut others = [error.clone(), error.clone(), error.clone(), error];
    others[0][at] = N::ECHO;
    others[1][at - 1] ^= 0x40;
    others[2][at + 8 + N::IP_LEN + 1] ^= 1;
    others[3].truncate(at + 8 + N::IP_LEN + 3);
    for before in others {
        for arrives in [true, false] {
            let mut frame = Frame(before.clone());
            let verdict = if arrives {
                ingress(&mut frame, &mut tables, Scope::Outside)
            } else {
                egress(&mut frame, &mut tables)
            };
            assert_eq!(verdict, Verdict::Pass(Reason::NotTransport), "{before:02x?}");
            assert_eq!(frame.0, before);
        }
    }
}

proptest! {
    #[test]
    fn an_error_about_a_translated_packet_is_about_what_the_client_sent(story in stories()) {
        an_error_about_a_forward_packet::<V4>(&story);
        an_error_about_a_forward_packet::<V6>(&story);
    }

    #[test]
    fn an_error_about_a_translated_answer_is_about_what_the_endpoint_sent(story in stories()) {
        an_error_about_an_answer::<V4>(&story);
        an_error_about_an_answer::<V6>(&story);
    }

    #[test]
    fn what_is_not_an_error_about_a_flow_stays_as_it_is(story in stories()) {
        what_is_not_an_error_about_a_flow::<V4>(&story);
        what_is_not_an_error_about_a_flow::<V6>(&story);
    }
}

#[test]
fn xdp_leaves_errors_to_tc() {
    let story = Story {
        protocol: UDP,
        node_port: true,
        client_port: 7,
        payload_len: 0,
        quoted_len: 0,
        no_checksum: false,
        kind: 0,
    };
    let mut tables = world::tables();
    let (_, on_the_way) = translated::<V4>(&mut tables, &story);
    tables.transmits_only_by = Some(3);
    let before = Frame(error::<V4>(&story, &on_the_way, ROUTER));
    let mut frame = before.clone();
    assert_eq!(
        ingress(&mut frame, &mut tables, Scope::Outside),
        Verdict::Pass(Reason::NotTransport)
    );
    assert_eq!(frame, before);
}

#[test]
fn an_error_whose_hops_end_here_is_dropped() {
    let story = Story {
        protocol: TCP,
        node_port: true,
        client_port: 7,
        payload_len: 0,
        quoted_len: 0,
        no_checksum: false,
        kind: 1,
    };
    let mut tables = world::tables();
    let (_, on_the_way) = translated::<V4>(&mut tables, &story);
    let mut frame = Frame(error::<V4>(&story, &on_the_way, ROUTER));
    frame.0[14 + 8] = 1;
    assert_eq!(ingress(&mut frame, &mut tables, Scope::Outside), Verdict::Drop(Reason::HopLimit));
}
