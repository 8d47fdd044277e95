//! The XDP program: what leaves by the NIC it came from, before the kernel makes a socket buffer.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use dataplane_common::{Hook, Reason};
use dataplane_ebpf::{
    headers::{self, Family},
    pipeline::{self, Step, Verdict, known4, known6},
    select::Scope,
    unfinished::is_unfinished,
};

use super::{
    log::log,
    maps::count,
    outcome::{Kind, Outcome},
    packet::Buffer,
    tables::Maps,
};

/// In the driver.
#[xdp(frags)]
fn nic_xdp(context: XdpContext) -> u32 {
    run(&context)
}

/// In the network stack.
///
/// Without fragments: with them the kernel copies packets and forgets the length of their Ethernet
/// header (`mac_len`, which `skb_pp_cow_data` in net/core/skbuff.c leaves at zero; since Linux 6.9,
/// seen on 6.18). Every TC program behind it then sees frames that begin with the IP header.
#[xdp]
fn nic_xdp_generic(context: XdpContext) -> u32 {
    let buffer = context.as_ptr().cast();
    if unfinished(buffer) != 0 {
        return act(buffer, LEFT_TO_TC.0);
    }
    run(&context)
}

/// A function of its own as well, for the stack.
#[inline(never)]
fn unfinished(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    let mut packet = Buffer(&context);
    match headers::family(&mut packet) {
        Ok(family) => u32::from(is_unfinished(&mut packet, family)),
        Err(_) => 0,
    }
}

const LEFT_TO_TC: Outcome = Outcome::of(Step::Done(Verdict::Pass(Reason::LeftToTc)));

#[inline(always)]
fn run(context: &XdpContext) -> u32 {
    let buffer = context.as_ptr().cast();
    let outcome = match headers::family(&mut Buffer(context)) {
        Ok(Family::V4) => arrive4(buffer),
        Ok(Family::V6) => arrive6(buffer),
        Err(reason) => Outcome::of(Step::Done(Verdict::Pass(reason))),
    };
    act(buffer, outcome.0)
}

/// A function of its own as well: its stack is not needed while the steps run.
#[inline(never)]
fn act(buffer: *mut xdp_md, outcome: u64) -> u32 {
    let mut outcome = Outcome(outcome);
    if outcome.kind() == Kind::Refuse {
        // Drivers may have no room for an answer that is longer than the packet; TC has.
        outcome = LEFT_TO_TC;
    }
    count(Hook::NicXdp, outcome.reason());
    log(&XdpContext::new(buffer), Hook::NicXdp, outcome.reason());
    match outcome.kind() {
        Kind::Stack => xdp_action::XDP_PASS,
        // No other device and no unknown neighbour: `Node::can_leave_by` says so.
        Kind::Link | Kind::Neighbour => xdp_action::XDP_TX,
        Kind::Answer | Kind::Drop | Kind::First | Kind::Refuse => xdp_action::XDP_DROP,
    }
}

#[inline(always)]
fn arrive4(buffer: *mut xdp_md) -> Outcome {
    let outcome = Outcome(step4(buffer));
    if outcome.kind() == Kind::First { Outcome(first4(buffer)) } else { outcome }
}

#[inline(always)]
fn arrive6(buffer: *mut xdp_md) -> Outcome {
    let outcome = Outcome(step6(buffer));
    if outcome.kind() == Kind::First { Outcome(first6(buffer)) } else { outcome }
}

// Each step is a function of its own in the kernel too: see `Step`.

#[inline(never)]
fn step4(buffer: *mut xdp_md) -> u64 {
    let context = XdpContext::new(buffer);
    Outcome::of(known4(&mut Buffer(&context), &mut tables(&context))).0
}

#[inline(never)]
fn step6(buffer: *mut xdp_md) -> u64 {
    let context = XdpContext::new(buffer);
    Outcome::of(known6(&mut Buffer(&context), &mut tables(&context))).0
}

#[inline(never)]
fn first4(buffer: *mut xdp_md) -> u64 {
    let context = XdpContext::new(buffer);
    let (packet, tables) = (&mut Buffer(&context), &mut tables(&context));
    let step = pipeline::first4(packet, tables, Scope::Outside, Reason::New);
    Outcome::of(step).0
}

#[inline(never)]
fn first6(buffer: *mut xdp_md) -> u64 {
    let context = XdpContext::new(buffer);
    let (packet, tables) = (&mut Buffer(&context), &mut tables(&context));
    let step = pipeline::first6(packet, tables, Scope::Outside, Reason::New);
    Outcome::of(step).0
}

#[inline(always)]
fn tables(context: &XdpContext) -> Maps {
    Maps { context: context.as_ptr(), ifindex: context.ingress_ifindex() as u32, is_xdp: true }
}
