//! The TC programs: links of pods and NICs, both directions.

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::{bpf_redirect, bpf_redirect_neigh},
    macros::classifier,
    programs::TcContext,
};
use dataplane_common::{Config, Hook, Reason};
use dataplane_ebpf::{
    answer, errors,
    headers::{self, Family},
    pipeline::{self, Step, Verdict, known4, known6},
    select::Scope,
};

use super::{
    log::log,
    maps::{self, count},
    outcome::{Kind, Outcome},
    packet::Skb,
    tables::Maps,
};

/// Go on with the next program, and with the stack behind the last one (`TCX_NEXT`).
const NEXT: i32 = -1;
/// Drop (`TC_ACT_SHOT`).
const SHOT: i32 = 2;
/// What the first step says of a packet that may be an ICMP error.
const NOT_TRANSPORT: Outcome = Outcome::of(Step::NOT_TRANSPORT);

#[classifier]
fn pod_ingress(context: TcContext) -> i32 {
    arrive(&context, Hook::PodIngress, Scope::Inside)
}

#[classifier]
fn nic_ingress(context: TcContext) -> i32 {
    arrive(&context, Hook::NicIngress, Scope::Outside)
}

#[classifier]
fn pod_egress(context: TcContext) -> i32 {
    leave(&context, Hook::PodEgress)
}

#[classifier]
fn nic_egress(context: TcContext) -> i32 {
    // Only endpoints with the node's own address answer through the stack and a NIC.
    if maps::CONFIG.get(0).is_none_or(|config| config.flags & Config::NIC_REPLIES == 0) {
        count(Hook::NicEgress, Reason::NotAReply as u32);
        return NEXT;
    }
    leave(&context, Hook::NicEgress)
}

#[inline(always)]
fn arrive(context: &TcContext, hook: Hook, scope: Scope) -> i32 {
    let mut packet = Skb(context);
    packet.pull_headers();
    let skb = context.skb.skb;
    let outcome = match headers::family(&mut packet) {
        Ok(Family::V4) => arrive4(skb, scope),
        Ok(Family::V6) => arrive6(skb, scope),
        Err(reason) => Outcome::of(Step::Done(Verdict::Pass(reason))),
    };
    act(skb, hook, outcome.0)
}

#[inline(always)]
fn arrive4(skb: *mut __sk_buff, scope: Scope) -> Outcome {
    let mut outcome = Outcome(step4(skb));
    if outcome.0 == NOT_TRANSPORT.0 {
        return Outcome(error4(skb, 0));
    }
    if outcome.kind() == Kind::First {
        outcome = Outcome(first4(skb, scope, outcome.reason()));
    }
    if outcome.kind() == Kind::Refuse {
        outcome = Outcome(refuse4(skb));
    }
    outcome
}

#[inline(always)]
fn arrive6(skb: *mut __sk_buff, scope: Scope) -> Outcome {
    let mut outcome = Outcome(step6(skb));
    if outcome.0 == NOT_TRANSPORT.0 {
        return Outcome(error6(skb, 0));
    }
    if outcome.kind() == Kind::First {
        outcome = Outcome(first6(skb, scope, outcome.reason()));
    }
    if outcome.kind() == Kind::Refuse {
        outcome = Outcome(refuse6(skb));
    }
    outcome
}

// Each step is a function of its own in the kernel too: see `Step`.

#[inline(never)]
fn step4(skb: *mut __sk_buff) -> u64 {
    let context = TcContext::new(skb);
    Outcome::of(known4(&mut Skb(&context), &mut tables(&context))).0
}

#[inline(never)]
fn step6(skb: *mut __sk_buff) -> u64 {
    let context = TcContext::new(skb);
    Outcome::of(known6(&mut Skb(&context), &mut tables(&context))).0
}

#[inline(never)]
fn first4(skb: *mut __sk_buff, scope: Scope, reason: u32) -> u64 {
    let context = TcContext::new(skb);
    let reason = begun(reason);
    Outcome::of(pipeline::first4(&mut Skb(&context), &mut tables(&context), scope, reason)).0
}

#[inline(never)]
fn first6(skb: *mut __sk_buff, scope: Scope, reason: u32) -> u64 {
    let context = TcContext::new(skb);
    let reason = begun(reason);
    Outcome::of(pipeline::first6(&mut Skb(&context), &mut tables(&context), scope, reason)).0
}

#[inline(never)]
fn refuse4(skb: *mut __sk_buff) -> u64 {
    let context = TcContext::new(skb);
    Outcome::of(Step::Done(answer::refuse4(&mut Skb(&context), &mut tables(&context)))).0
}

#[inline(never)]
fn refuse6(skb: *mut __sk_buff) -> u64 {
    let context = TcContext::new(skb);
    Outcome::of(Step::Done(answer::refuse6(&mut Skb(&context), &mut tables(&context)))).0
}

/// Why a flow begins.
#[inline(always)]
fn begun(reason: u32) -> Reason {
    if reason == Reason::Reselected as u32 { Reason::Reselected } else { Reason::New }
}

#[inline(always)]
fn leave(context: &TcContext, hook: Hook) -> i32 {
    Skb(context).pull_headers();
    let skb = context.skb.skb;
    let mut outcome = answer_back(skb);
    if outcome == NOT_TRANSPORT.0 {
        outcome = match headers::family(&mut Skb(context)) {
            Ok(Family::V4) => error4(skb, 1),
            Ok(Family::V6) => error6(skb, 1),
            Err(reason) => Outcome::of(Step::Done(Verdict::Pass(reason))).0,
        };
    }
    act(skb, hook, outcome)
}

#[inline(never)]
fn error4(skb: *mut __sk_buff, leaves: u32) -> u64 {
    let context = TcContext::new(skb);
    let mut packet = Skb(&context);
    packet.pull(errors::HEADERS_LEN);
    let direction = direction(leaves);
    Outcome::of(Step::Done(errors::translate4(&mut packet, &mut tables(&context), direction))).0
}

#[inline(never)]
fn error6(skb: *mut __sk_buff, leaves: u32) -> u64 {
    let context = TcContext::new(skb);
    let mut packet = Skb(&context);
    packet.pull(errors::HEADERS_LEN);
    let direction = direction(leaves);
    Outcome::of(Step::Done(errors::translate6(&mut packet, &mut tables(&context), direction))).0
}

#[inline(always)]
fn direction(leaves: u32) -> errors::Direction {
    if leaves == 0 { errors::Direction::Arrives } else { errors::Direction::Leaves }
}

#[inline(never)]
fn answer_back(skb: *mut __sk_buff) -> u64 {
    let context = TcContext::new(skb);
    Outcome::of(Step::Done(pipeline::answer_back(&mut Skb(&context), &mut tables(&context)))).0
}

#[inline(always)]
fn tables(context: &TcContext) -> Maps {
    Maps { context: context.as_ptr(), ifindex: ifindex(context), is_xdp: false }
}

#[inline(always)]
fn ifindex(context: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's own and lives as long as the program runs.
    unsafe { (*context.skb.skb).ifindex }
}

/// A function of its own as well: its stack is not needed while the steps run.
#[inline(never)]
fn act(skb: *mut __sk_buff, hook: Hook, outcome: u64) -> i32 {
    let (context, outcome) = (&TcContext::new(skb), Outcome(outcome));
    count(hook, outcome.reason());
    log(context, hook, outcome.reason());
    match outcome.kind() {
        Kind::Stack => NEXT,
        Kind::Link => redirect(outcome.ifindex()),
        Kind::Neighbour => {
            // SAFETY: no next hop is given, so the kernel looks it up by the packet's destination.
            unsafe { bpf_redirect_neigh(outcome.ifindex(), core::ptr::null_mut(), 0, 0) as i32 }
        }
        Kind::Answer => redirect(ifindex(context)),
        Kind::Drop | Kind::First | Kind::Refuse => SHOT,
    }
}

#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
