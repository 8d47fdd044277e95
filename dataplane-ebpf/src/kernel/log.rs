//! Debug records of what is rare enough to read: new flows, refusals and drops.

use aya_ebpf::EbpfContext;
use aya_log_ebpf::debug;
use dataplane_common::{Hook, Reason};

/// Send a record. Costs nothing while the loader keeps the level below debug: the verifier then
/// removes the branch.
#[inline(always)]
pub(super) fn log<C: EbpfContext>(context: &C, hook: Hook, reason: u32) {
    let common = [Reason::Established, Reason::Reply, Reason::LeftToPodLink];
    let rare = reason >= Reason::New as u32 && common.iter().all(|other| *other as u32 != reason);
    if rare {
        debug!(context, "hook {}: reason {}", hook as u32, reason);
    }
}
