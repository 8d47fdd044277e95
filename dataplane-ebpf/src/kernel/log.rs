//! Debug records of what is rare enough to read: new flows, refusals and drops.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use dataplane_common::{Hook, Reason};

/// Send a record. Costs nothing while the loader keeps the level below debug: the verifier then
/// removes the branch.
#[inline(always)]
pub(super) fn log<C: EbpfContext>(context: &C, hook: Hook, reason: Reason) {
    let text = match reason {
        Reason::NotIp
        | Reason::Short
        | Reason::Malformed
        | Reason::Fragment
        | Reason::NotTcpOrUdp
        | Reason::NotAService
        | Reason::NotAReply
        | Reason::LeftToTc
        | Reason::NotConfigured
        | Reason::Established
        | Reason::LeftToPodLink
        | Reason::Reply => return,
        Reason::New => "new",
        Reason::Reselected => "reselected",
        Reason::Refused => "refused",
        Reason::RefusedSilently => "refused_silently",
        Reason::NoSourcePort => "no_source_port",
        Reason::NoSourceAddress => "no_source_address",
        Reason::NoRoute => "no_route",
        Reason::HopLimit => "hop_limit",
        Reason::NoSuchEndpoint => "no_such_endpoint",
        Reason::FlowTable => "flow_table",
        Reason::CannotAnswer => "cannot_answer",
    };
    debug!(context, "hook {}: {}", hook as u32, text);
}
