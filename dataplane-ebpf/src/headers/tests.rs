//! What the parsers find, and why they refuse.

use std::{vec, vec::Vec};

use super::*;
use crate::{host::Frame, samples::Sample};

const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 3];

fn parsed4(frame: &[u8]) -> Result<Headers<V4>, Reason> {
    parse4(&mut Frame(frame.to_vec()))
}

fn parsed6(frame: &[u8]) -> Result<Headers<V6>, Reason> {
    parse6(&mut Frame(frame.to_vec()))
}

#[test]
fn ports_lengths_and_hops_are_found_in_every_protocol() {
    for (protocol, header_len, tcp_flags) in [(TCP, 20, 0x10), (UDP, 8, 0), (SCTP, 12, 0)] {
        let sample = Sample::<4>::new(protocol, &[3; 9]);
        let expected = Headers {
            tuple: sample.tuple,
            protocol,
            tcp_flags,
            hops: 64,
            l4: 34,
            l4_len: header_len + 9,
        };
        assert_eq!(parsed4(&sample.build()), Ok(expected));
        let sample = Sample::<16>::new(protocol, &[3; 9]);
        let expected = Headers {
            tuple: sample.tuple,
            protocol,
            tcp_flags,
            hops: 64,
            l4: 54,
            l4_len: header_len + 9,
        };
        assert_eq!(parsed6(&sample.build()), Ok(expected));
    }
}

#[test]
fn options_extensions_and_padding_are_not_counted() {
    for protocol in [TCP, UDP, SCTP] {
        let whole = parsed4(&Sample::<4>::new(protocol, &[3; 9]).build()).unwrap();
        let sample = Sample::<4> {
            extra: vec![1; 8],
            padding: vec![0; 7],
            ..Sample::new(protocol, &[3; 9])
        };
        assert_eq!(parsed4(&sample.build()), Ok(Headers { l4: 42, ..whole }));
        let whole = parsed6(&Sample::<16>::new(protocol, &[3; 9]).build()).unwrap();
        let mut extra = vec![0; 16];
        extra[1] = 1;
        let sample = Sample::<16> { extra, padding: vec![0; 7], ..Sample::new(protocol, &[3; 9]) };
        assert_eq!(parsed6(&sample.build()), Ok(Headers { l4: 70, ..whole }));
    }
}

#[test]
fn a_packet_that_ends_inside_its_transport_header_is_not_taken() {
    for (protocol, header_len) in [(TCP, 20), (UDP, 8), (SCTP, 12)] {
        let frame4 = Sample::<4>::new(protocol, &[]).build();
        let frame6 = Sample::<16>::new(protocol, &[]).build();
        assert!(parsed4(&frame4).is_ok() && parsed6(&frame6).is_ok());
        for cut in 1..=header_len {
            assert_eq!(parsed4(&frame4[..frame4.len() - cut]), Err(Reason::Short));
            assert_eq!(parsed6(&frame6[..frame6.len() - cut]), Err(Reason::Short));
        }
        // The length field says so, and the frame goes on.
        let mut claims_less = frame4;
        claims_less[17] -= 1;
        assert_eq!(parsed4(&claims_less), Err(Reason::Malformed));
        let mut claims_less = frame6;
        claims_less[19] -= 1;
        assert_eq!(parsed6(&claims_less), Err(Reason::Malformed));
    }
}

#[test]
fn init_opens_and_abort_and_shutdown_complete_end() {
    let flags = |chunk: u8| {
        let frame = Sample::<4>::new(SCTP, &[chunk, 0, 0, 4]).build();
        parsed4(&frame).unwrap().tcp_flags
    };
    assert_eq!(flags(sctp::INIT), tcp::SYN);
    assert_eq!(flags(sctp::ABORT), tcp::RST);
    assert_eq!(flags(sctp::SHUTDOWN_COMPLETE), tcp::RST);
    let others = (0..=u8::MAX)
        .filter(|chunk| ![sctp::INIT, sctp::ABORT, sctp::SHUTDOWN_COMPLETE].contains(chunk));
    for chunk in others {
        assert_eq!(flags(chunk), 0, "chunk {chunk}");
    }
}

#[test]
fn an_sctp_packet_need_not_have_a_chunk() {
    assert_eq!(parsed4(&Sample::<4>::new(SCTP, &[]).build()).unwrap().tcp_flags, 0);
    // Padding of the frame looks like an INIT.
    let padding = INIT.to_vec();
    let padded = Sample::<4> { padding: padding.clone(), ..Sample::new(SCTP, &[]) };
    assert_eq!(parsed4(&padded.build()).unwrap().tcp_flags, 0);
    let padded = Sample::<16> { padding, ..Sample::new(SCTP, &[]) };
    assert_eq!(parsed6(&padded.build()).unwrap().tcp_flags, 0);
}

#[test]
fn a_chunk_out_of_sight_neither_begins_nor_ends_an_association() {
    let frame = Sample::<4>::new(SCTP, &INIT).build();
    let header_end = 14 + 20 + sctp::LEN;
    for end in header_end..header_end + sctp::CHUNK_LEN {
        assert_eq!(parsed4(&frame[..end]).unwrap().tcp_flags, 0);
    }
    let seen = parsed4(&frame[..header_end + sctp::CHUNK_LEN]).unwrap();
    assert_eq!(seen.tcp_flags, tcp::SYN);
}

#[test]
fn fragments_are_not_taken() {
    for protocol in [TCP, UDP, SCTP] {
        let frame = Sample::<4>::new(protocol, &INIT).build();
        for (at, value) in [(20, 0x20), (20, 0x01), (21, 0x01)] {
            let mut fragment = frame.clone();
            fragment[at] = value;
            assert_eq!(parsed4(&fragment), Err(Reason::Fragment));
        }
        let sample = Sample::<16> { extra: vec![0; 8], ..Sample::new(protocol, &INIT) };
        let mut fragment = sample.build();
        fragment[20] = ipv6::FRAGMENT;
        assert_eq!(parsed6(&fragment), Err(Reason::Fragment));
    }
}

#[test]
fn other_protocols_are_not_taken() {
    for protocol in [1, 47, 50, 58] {
        assert_eq!(
            parsed4(&Sample::<4>::new(protocol, &[0; 40]).build()),
            Err(Reason::NotTransport)
        );
        assert_eq!(
            parsed6(&Sample::<16>::new(protocol, &[0; 40]).build()),
            Err(Reason::NotTransport)
        );
    }
}

#[test]
fn four_extension_headers_are_followed_and_no_more() {
    let chained = |count: usize| -> Vec<u8> {
        let mut extra = Vec::new();
        for number in 1..=count {
            extra.extend([if number == count { SCTP } else { ipv6::DESTINATION }, 0]);
            extra.extend([0; 6]);
        }
        let mut frame = Sample::<16> { extra, ..Sample::new(SCTP, &INIT) }.build();
        // The sample fills in the protocol at the first header; the chain has it at its last.
        frame[54] = if count == 1 { SCTP } else { ipv6::DESTINATION };
        frame
    };
    for count in 1..=ipv6::EXTENSIONS_MAX {
        let headers = parsed6(&chained(count)).unwrap();
        assert_eq!((headers.l4, headers.tcp_flags), (54 + 8 * count, tcp::SYN));
    }
    assert_eq!(parsed6(&chained(ipv6::EXTENSIONS_MAX + 1)), Err(Reason::Malformed));
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let frame = Sample::<4>::new(TCP, &[]).build();
    // Version 6, a header of 16 bytes, and a packet that ends inside its own header.
    for (at, value) in [(14, 0x65), (14, 0x44), (17, 19)] {
        let mut wrong = frame.clone();
        wrong[at] = value;
        assert_eq!(parsed4(&wrong), Err(Reason::Malformed));
    }
    let mut wrong = Sample::<16>::new(TCP, &[]).build();
    wrong[14] = 0x40;
    assert_eq!(parsed6(&wrong), Err(Reason::Malformed));
    let sample = Sample::<16> { extra: vec![0; 8], ..Sample::new(TCP, &[]) };
    let mut wrong = sample.build();
    wrong[19] = 7;
    assert_eq!(parsed6(&wrong), Err(Reason::Malformed), "shorter than its extension header");
}
