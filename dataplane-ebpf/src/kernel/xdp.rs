//! The XDP program: what leaves by the NIC it came from, before the kernel makes a socket buffer.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{xdp_action, xdp_md},
    macros::xdp,
    programs::XdpContext,
};
use dataplane_common::{Hook, Reason};
use dataplane_ebpf::{
    answer,
    headers::{self, Family},
    pipeline::{self, Hop, Step, Verdict, known4, known6},
};

use super::{log::log, maps::count, packet::Buffer, tables::Maps};

#[xdp(frags)]
fn nic_xdp(context: XdpContext) -> u32 {
    let buffer = context.as_ptr().cast();
    match headers::family(&mut Buffer(&context)) {
        Ok(Family::V4) => {
            let mut action = step4(buffer);
            if action == FIRST {
                action = first4(buffer);
            }
            if action == REFUSE { refuse4(buffer) } else { action }
        }
        Ok(Family::V6) => {
            let mut action = step6(buffer);
            if action == FIRST {
                action = first6(buffer);
            }
            if action == REFUSE { refuse6(buffer) } else { action }
        }
        Err(reason) => finish(&context, Verdict::Pass(reason)),
    }
}

/// What a step returns beside an action: the flow begins ...
const FIRST: u32 = 0x101;
/// ... or the packet is refused.
const REFUSE: u32 = 0x100;

// Each step is a function of its own in the kernel too: see `Step`.

#[inline(never)]
fn step4(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    act(&context, known4(&mut Buffer(&context), &mut tables(&context)))
}

#[inline(never)]
fn step6(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    act(&context, known6(&mut Buffer(&context), &mut tables(&context)))
}

#[inline(never)]
fn first4(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    act(&context, pipeline::first4(&mut Buffer(&context), &mut tables(&context), Reason::New))
}

#[inline(never)]
fn first6(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    act(&context, pipeline::first6(&mut Buffer(&context), &mut tables(&context), Reason::New))
}

#[inline(never)]
fn refuse4(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    let verdict = answer::refuse4(&mut Buffer(&context));
    finish(&context, verdict)
}

#[inline(never)]
fn refuse6(buffer: *mut xdp_md) -> u32 {
    let context = XdpContext::new(buffer);
    let verdict = answer::refuse6(&mut Buffer(&context));
    finish(&context, verdict)
}

#[inline(always)]
fn act(context: &XdpContext, step: Step) -> u32 {
    match step {
        Step::Done(verdict) => finish(context, verdict),
        Step::First(_) => FIRST,
        Step::Refuse => REFUSE,
    }
}

#[inline(always)]
fn tables(context: &XdpContext) -> Maps {
    Maps { context: context.as_ptr(), ifindex: context.ingress_ifindex() as u32, is_xdp: true }
}

#[inline(always)]
fn finish(context: &XdpContext, verdict: Verdict) -> u32 {
    count(Hook::NicXdp, verdict.reason());
    log(context, Hook::NicXdp, verdict.reason());
    match verdict {
        // `ingress` hands nothing rewritten to the stack from here, and asks for no other device.
        Verdict::Pass(_) | Verdict::Deliver(_) => xdp_action::XDP_PASS,
        Verdict::Forward(_, Hop::Link(_) | Hop::Neighbour(_)) | Verdict::Answer(_) => {
            xdp_action::XDP_TX
        }
        Verdict::Drop(_) => xdp_action::XDP_DROP,
    }
}
