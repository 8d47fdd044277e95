//! What the packet programs are measured against: nothing at all, and a parse with one hash lookup.
//!
//! These programs are in the object so that one run measures all of them; only the benchmark loads
//! them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dataplane_common::FrontendKey;
use dataplane_ebpf::{
    headers::{self, Family, Headers},
    packet::Packet,
    tables::Tables,
};

use super::{
    packet::{Buffer, Skb},
    tables::Maps,
};

/// Go on (`TCX_NEXT`).
const NEXT: i32 = -1;

#[classifier]
fn bench_empty(_: TcContext) -> i32 {
    NEXT
}

#[classifier]
fn bench_lookup(context: TcContext) -> i32 {
    let maps = Maps { context: context.as_ptr(), ifindex: 0, is_xdp: false };
    if parse_and_look_up(&mut Skb(&context), &maps) { NEXT } else { 0 }
}

#[xdp]
fn bench_xdp_empty(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp]
fn bench_xdp_lookup(context: XdpContext) -> u32 {
    let maps = Maps { context: context.as_ptr(), ifindex: 0, is_xdp: true };
    let found = parse_and_look_up(&mut Buffer(&context), &maps);
    if found { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

#[inline(always)]
fn parse_and_look_up<P: Packet>(packet: &mut P, maps: &Maps) -> bool {
    match headers::family(packet) {
        Ok(Family::V4) => {
            headers::parse4(packet).is_ok_and(|headers| maps.frontend(&key(&headers)).is_some())
        }
        Ok(Family::V6) => {
            headers::parse6(packet).is_ok_and(|headers| maps.frontend(&key(&headers)).is_some())
        }
        Err(_) => false,
    }
}

#[inline(always)]
fn key<const N: usize>(headers: &Headers<N>) -> FrontendKey<N> {
    FrontendKey::new(headers.tuple.dst, headers.dst_port(), headers.protocol)
}
