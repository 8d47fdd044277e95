//! Refusals are whole packets that their receiver can believe.

use std::vec::Vec;

use super::*;
use crate::{
    host::{Frame, HostTables},
    samples::{Sample, checksum},
};

/// An INIT with its initiate tag, 9, behind the chunk's header.
const INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 3];

/// The packet that answers, and the bytes behind its IP header.
fn refused4(sample: &Sample<V4>) -> (Vec<u8>, Vec<u8>) {
    let mut frame = Frame(sample.build());
    assert_eq!(refuse4(&mut frame, &mut HostTables::default()), Verdict::Answer(Reason::Refused));
    let header = &frame.0[L3..L3 + ipv4::LEN];
    assert_eq!(checksum(header), [0, 0]);
    assert_eq!(usize::from(u16::from_be_bytes([header[2], header[3]])), frame.0.len() - L3);
    assert_eq!(header[12..16], sample.tuple.dst);
    assert_eq!(header[16..20], sample.tuple.src);
    (header.to_vec(), frame.0[L3 + ipv4::LEN..].to_vec())
}

fn refused6(sample: &Sample<V6>) -> (Vec<u8>, Vec<u8>) {
    let mut frame = Frame(sample.build());
    assert_eq!(refuse6(&mut frame, &mut HostTables::default()), Verdict::Answer(Reason::Refused));
    let (header, body) = frame.0[L3..].split_at(ipv6::LEN);
    assert_eq!(usize::from(u16::from_be_bytes([header[4], header[5]])), body.len());
    assert_eq!(header[8..24], sample.tuple.dst);
    assert_eq!(header[24..40], sample.tuple.src);
    // The checksum covers addresses, length and protocol.
    let mut covered = header[8..].to_vec();
    covered.extend([0, 0, header[4], header[5], 0, 0, 0, header[6]]);
    covered.extend(body);
    assert_eq!(checksum(&covered), [0, 0]);
    (header.to_vec(), body.to_vec())
}

/// Bytes of the transport that an error quotes.
fn quoted(protocol: u8, payload: &[u8]) -> (usize, usize) {
    let sample = Sample::<V4>::new(protocol, payload);
    let (header, body) = refused4(&sample);
    assert_eq!((header[9], &body[..2]), (icmp::V4, &icmp::PORT_UNREACHABLE4[..]));
    assert_eq!(checksum(&body), [0, 0]);
    let quote = &body[icmp::LEN..];
    assert_eq!(quote, &sample.build()[L3..L3 + quote.len()]);
    let len4 = quote.len() - ipv4::LEN;
    let sample = Sample::<V6>::new(protocol, payload);
    let (header, body) = refused6(&sample);
    assert_eq!((header[6], &body[..2]), (icmp::V6, &icmp::PORT_UNREACHABLE6[..]));
    let quote = &body[icmp::LEN..];
    assert_eq!(quote, &sample.build()[L3..L3 + quote.len()]);
    (len4, quote.len() - ipv6::LEN)
}

#[test]
fn an_init_is_refused_with_a_quote_that_has_its_tag() {
    assert_eq!(quoted(SCTP, &INIT), (20, 20));
    assert_eq!(INIT[4..8], [0, 0, 0, 9], "the last bytes of the quote are the initiate tag");
}

#[test]
fn a_shorter_sctp_packet_is_quoted_with_its_header() {
    for len in 0..8 {
        assert_eq!(quoted(SCTP, &INIT[..len]), (12, 12));
    }
    assert_eq!(quoted(SCTP, &INIT[..8]), (20, 20));
}

#[test]
fn udp_is_refused_with_a_quote_of_its_header() {
    assert_eq!(quoted(UDP, &[1; 30]), (8, 8));
    assert_eq!(quoted(UDP, &[]), (8, 8));
}

#[test]
fn a_quote_leaves_out_options_and_extensions() {
    let payload = INIT.to_vec();
    let plain = Sample::<V4> { payload: payload.clone(), ..Sample::new(SCTP, &[]) };
    let (_, body) = refused4(&Sample { extra: std::vec![1; 8], ..plain.clone() });
    let quote = &body[icmp::LEN..];
    assert_eq!(quote[0], ipv4::VERSION_LEN);
    assert_eq!(checksum(&quote[..ipv4::LEN]), [0, 0]);
    assert_eq!(quote[ipv4::LEN..], plain.build()[L3 + ipv4::LEN..][..20]);
    let plain = Sample::<V6> { payload, ..Sample::new(SCTP, &[]) };
    let (_, body) = refused6(&Sample { extra: std::vec![0; 8], ..plain.clone() });
    let quote = &body[icmp::LEN..];
    assert_eq!(quote[6], SCTP);
    assert_eq!(quote[ipv6::LEN..], plain.build()[L3 + ipv6::LEN..][..20]);
}

#[test]
fn a_syn_is_reset_with_the_number_that_it_waits_for() {
    let sample = Sample::<V4> { tcp_flags: tcp::SYN, ..Sample::new(TCP, &[1; 5]) };
    let (_, segment) = refused4(&sample);
    assert_eq!(segment[..4], [0, 80, 156, 64]);
    // Nine and the SYN and five bytes of data.
    assert_eq!(segment[8..12], [0, 0, 0, 15]);
    assert_eq!(segment[13], tcp::RST | tcp::ACK);
    let sample = Sample::<V6> { tcp_flags: tcp::ACK, ..Sample::new(TCP, &[]) };
    let (_, segment) = refused6(&sample);
    assert_eq!(segment[4..8], [0, 0, 0, 7], "the number that the ACK acknowledges");
    assert_eq!(segment[13], tcp::RST);
}

#[test]
fn a_reset_is_not_answered() {
    let sample = Sample::<V4> { tcp_flags: tcp::RST, ..Sample::new(TCP, &[]) };
    let mut frame = Frame(sample.build());
    assert_eq!(
        refuse4(&mut frame, &mut HostTables::default()),
        Verdict::Drop(Reason::RefusedSilently)
    );
}
