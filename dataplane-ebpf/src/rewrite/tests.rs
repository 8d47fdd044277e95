//! A rewritten packet is the one that would have been built for its new ends.

use std::vec::Vec;

use dataplane_common::UDP;
use proptest::prelude::*;

use super::*;
use crate::{headers, host::Frame, samples::Sample};

fn parsed<const N: usize>(frame: &mut Frame) -> Headers<N>
where
    Frame: Parse<N>,
{
    frame.parse()
}

/// The parser of a family.
trait Parse<const N: usize> {
    fn parse(&mut self) -> Headers<N>;
}

impl Parse<V4> for Frame {
    fn parse(&mut self) -> Headers<V4> {
        headers::parse4(self).unwrap()
    }
}

impl Parse<V6> for Frame {
    fn parse(&mut self) -> Headers<V6> {
        headers::parse6(self).unwrap()
    }
}

/// The frame of `sample` after its rewrite to other ends.
fn rewritten<const N: usize>(sample: &Sample<N>, to: &Tuple<N>, forward: bool) -> Vec<u8>
where
    Frame: Parse<N>,
    [u8; N]: Address,
{
    let mut frame = Frame(sample.build());
    let headers = parsed(&mut frame);
    rewrite(&mut frame, &headers, to, forward).unwrap();
    frame.0
}

/// The frame that would have been built for these ends.
fn built<const N: usize>(sample: &Sample<N>, to: &Tuple<N>, forward: bool) -> Vec<u8> {
    let hops = sample.hops - u8::from(forward);
    Sample { tuple: *to, hops, ..sample.clone() }.build()
}

fn any_tuple<const N: usize>() -> impl Strategy<Value = Tuple<N>>
where
    [u8; N]: Arbitrary,
{
    any::<([u8; N], [u8; N], [u8; 2], [u8; 2])>().prop_map(|(src, dst, src_port, dst_port)| Tuple {
        src,
        dst,
        src_port,
        dst_port,
    })
}

/// Lengths that a frame of up to 2000 bytes of transport has, with and without padding.
fn any_sample<const N: usize>(extra_unit: usize) -> impl Strategy<Value = Sample<N>>
where
    [u8; N]: Arbitrary,
{
    let protocols = prop_oneof![Just(SCTP), Just(SCTP), Just(TCP), Just(UDP)];
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..=max);
    let extra = (0..4usize).prop_map(move |units| std::vec![1; units * extra_unit]);
    let parts = (any_tuple::<N>(), protocols, bytes(1988), bytes(20), extra, any::<bool>());
    parts.prop_map(|(tuple, protocol, payload, padding, mut extra, no_checksum)| {
        if N == V6 && !extra.is_empty() {
            extra[1] = u8::try_from(extra.len() / 8 - 1).unwrap();
        }
        let no_checksum = no_checksum && protocol != TCP;
        Sample { tuple, extra, padding, no_checksum, ..Sample::new(protocol, &payload) }
    })
}

proptest! {
    #[test]
    fn a_rewritten_ipv4_packet_is_the_one_built_for_its_ends(
        sample in any_sample::<4>(4), to in any_tuple::<4>(), forward: bool,
    ) {
        prop_assert_eq!(rewritten(&sample, &to, forward), built(&sample, &to, forward));
    }

    #[test]
    fn a_rewritten_ipv6_packet_is_the_one_built_for_its_ends(
        sample in any_sample::<16>(8), to in any_tuple::<16>(), forward: bool,
    ) {
        prop_assert_eq!(rewritten(&sample, &to, forward), built(&sample, &to, forward));
    }
}

#[test]
fn every_length_of_sctp_keeps_a_right_crc() {
    // Miri is slow, and no length is special to it.
    for len in (0..=1988_usize).step_by(if cfg!(miri) { 331 } else { 1 }) {
        let payload: Vec<u8> = (0..=252).cycle().take(len).collect();
        let (v4, v6) = (Sample::<4>::new(SCTP, &payload), Sample::<16>::new(SCTP, &payload));
        let to = Tuple { dst_port: [0x36, 0x2c], ..v4.tuple };
        assert_eq!(rewritten(&v4, &to, false), built(&v4, &to, false), "{len} bytes");
        let to = Tuple { src_port: [1, 2], ..v6.tuple };
        assert_eq!(rewritten(&v6, &to, false), built(&v6, &to, false), "{len} bytes");
    }
}

#[test]
fn an_sctp_packet_whose_ports_stay_keeps_even_a_wrong_crc() {
    let sample = Sample::<4>::new(SCTP, &[0, 3, 0, 4]);
    let mut frame = Frame(sample.build());
    frame.0[42] ^= 1;
    let headers = parsed(&mut frame);
    let before = frame.0[34..].to_vec();
    let to = Tuple { dst: [10, 1, 2, 3], ..sample.tuple };
    rewrite(&mut frame, &headers, &to, false).unwrap();
    assert_eq!(frame.0[34..], before);
}

#[test]
fn a_wrong_crc_stays_wrong() {
    let sample = Sample::<4>::new(SCTP, &[0, 3, 0, 4]);
    let to = Tuple { dst_port: [1, 2], ..sample.tuple };
    let mut frame = Frame(sample.build());
    frame.0[42] ^= 1;
    let headers = parsed(&mut frame);
    rewrite(&mut frame, &headers, &to, false).unwrap();
    frame.0[42] ^= 1;
    assert_eq!(frame.0, built(&sample, &to, false), "the same bit is wrong as before");
}
