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
    answer,
    headers::{self, Family},
    pipeline::{self, Hop, Step, Verdict, egress, known4, known6},
};

use super::{log::log, maps, maps::count, packet::Skb, tables::Maps};

/// Go on with the next program, and with the stack behind the last one (`TCX_NEXT`).
const NEXT: i32 = -1;
/// Drop (`TC_ACT_SHOT`).
const SHOT: i32 = 2;

#[classifier]
fn pod_ingress(context: TcContext) -> i32 {
    arrive(&context, Hook::PodIngress)
}

#[classifier]
fn nic_ingress(context: TcContext) -> i32 {
    arrive(&context, Hook::NicIngress)
}

#[classifier]
fn pod_egress(context: TcContext) -> i32 {
    leave(&context, Hook::PodEgress, &mut tables(&context))
}

#[classifier]
fn nic_egress(context: TcContext) -> i32 {
    let mut tables = tables(&context);
    // Only endpoints with the node's own address answer through the stack and a NIC.
    if maps::CONFIG.get(0).is_none_or(|config| config.flags & Config::HOST_ENDPOINTS == 0) {
        return finish(&context, Hook::NicEgress, Verdict::Pass(Reason::NotAReply));
    }
    leave(&context, Hook::NicEgress, &mut tables)
}

#[inline(always)]
fn arrive(context: &TcContext, hook: Hook) -> i32 {
    let mut packet = Skb(context);
    packet.pull_headers();
    let skb = context.skb.skb;
    let mut action = match headers::family(&mut packet) {
        Ok(Family::V4) => {
            let mut action = step4(skb, hook);
            if action >= FIRST {
                action = first4(skb, hook, action);
            }
            return if action == REFUSE { refuse4(skb, hook) } else { action };
        }
        Ok(Family::V6) => step6(skb, hook),
        Err(reason) => return finish(context, hook, Verdict::Pass(reason)),
    };
    if action >= FIRST {
        action = first6(skb, hook, action);
    }
    if action == REFUSE { refuse6(skb, hook) } else { action }
}

/// What a step returns beside an action: the flow begins ...
const FIRST: i32 = 0x101;
/// ... since the one before has lost its endpoint ...
const RESELECT: i32 = 0x102;
/// ... or the packet is refused.
const REFUSE: i32 = 0x100;

// Each step is a function of its own in the kernel too: see `Step`.

#[inline(never)]
fn step4(skb: *mut __sk_buff, hook: Hook) -> i32 {
    let context = TcContext::new(skb);
    let step = known4(&mut Skb(&context), &mut tables(&context));
    act(&context, hook, step)
}

#[inline(never)]
fn step6(skb: *mut __sk_buff, hook: Hook) -> i32 {
    let context = TcContext::new(skb);
    let step = known6(&mut Skb(&context), &mut tables(&context));
    act(&context, hook, step)
}

#[inline(never)]
fn first4(skb: *mut __sk_buff, hook: Hook, action: i32) -> i32 {
    let context = TcContext::new(skb);
    let reason = reason(action);
    let step = pipeline::first4(&mut Skb(&context), &mut tables(&context), reason);
    act(&context, hook, step)
}

#[inline(never)]
fn first6(skb: *mut __sk_buff, hook: Hook, action: i32) -> i32 {
    let context = TcContext::new(skb);
    let reason = reason(action);
    let step = pipeline::first6(&mut Skb(&context), &mut tables(&context), reason);
    act(&context, hook, step)
}

#[inline(never)]
fn refuse4(skb: *mut __sk_buff, hook: Hook) -> i32 {
    let context = TcContext::new(skb);
    let verdict = answer::refuse4(&mut Skb(&context));
    finish(&context, hook, verdict)
}

#[inline(never)]
fn refuse6(skb: *mut __sk_buff, hook: Hook) -> i32 {
    let context = TcContext::new(skb);
    let verdict = answer::refuse6(&mut Skb(&context));
    finish(&context, hook, verdict)
}

#[inline(always)]
fn act(context: &TcContext, hook: Hook, step: Step) -> i32 {
    match step {
        Step::Done(verdict) => finish(context, hook, verdict),
        Step::First(Reason::Reselected) => RESELECT,
        Step::First(_) => FIRST,
        Step::Refuse => REFUSE,
    }
}

#[inline(always)]
fn reason(action: i32) -> Reason {
    if action == RESELECT { Reason::Reselected } else { Reason::New }
}

#[inline(always)]
fn leave(context: &TcContext, hook: Hook, tables: &mut Maps) -> i32 {
    let mut packet = Skb(context);
    packet.pull_headers();
    let verdict = egress(&mut packet, tables);
    finish(context, hook, verdict)
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

#[inline(always)]
fn finish(context: &TcContext, hook: Hook, verdict: Verdict) -> i32 {
    count(hook, verdict.reason());
    log(context, hook, verdict.reason());
    match verdict {
        Verdict::Pass(_) | Verdict::Deliver(_) => NEXT,
        Verdict::Forward(_, Hop::Link(ifindex)) => redirect(ifindex),
        Verdict::Forward(_, Hop::Neighbour(ifindex)) => {
            // SAFETY: no next hop is given, so the kernel looks it up by the packet's destination.
            unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
        }
        Verdict::Answer(_) => redirect(ifindex(context)),
        Verdict::Drop(_) => SHOT,
    }
}

#[inline(always)]
fn redirect(ifindex: u32) -> i32 {
    // SAFETY: the helper takes two numbers.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}
