//! What eBPF programs of this kernel can be, and whether ours pass its verifier.

use std::io;

use super::{Answer, Feature, Probes, kernel, memory, sentence};
use crate::ebpf::{
    kernel::{HASH, create},
    load::{self, MapSizes},
    object::object,
};

/// `enum bpf_prog_type`.
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SOCK_ADDR: u32 = 18;
/// `enum bpf_attach_type`: the oldest and the newest of the socket hooks that cannot be left out.
const INET4_CONNECT: u32 = 10;
const UDP6_RECVMSG: u32 = 20;
const TCX_INGRESS: u32 = 46;
/// The loopback device, in every namespace.
const LOOPBACK: u32 = 1;

/// `r0 = value; exit`.
const fn returns(value: u64) -> [u64; 2] {
    [0xb7 | value << 32, 0x95]
}

/// `r1 = 0; call bpf_set_retval; r0 = 1; exit`.
const SETS_RETVAL: [u64; 4] = [0x1b7, 0x85 | 187 << 32, 0xb7 | 1 << 32, 0x95];

pub(super) fn run(probes: &mut Probes) {
    probes.set(Feature::Object, object().map(drop).into());
    let map = create::<u32, u32>(HASH, 16).map(drop);
    if let Err(error) = &map
        && is_absent(error)
    {
        let why = format!("this kernel offers no BPF, or a sandbox forbids it: {error}");
        probes.set(Feature::Bpf, Answer::Missing(why));
    } else {
        probes.set(Feature::Bpf, map.into());
    }
    probes.set(Feature::MapMemory, memory::maps(&MapSizes::default()));
    let load = |kind, attach_type, code: &[u64]| kernel::load(kind, attach_type, code).map(drop);
    let sockets = load(CGROUP_SOCK_ADDR, INET4_CONNECT, &returns(1))
        .and_then(|()| load(CGROUP_SOCK_ADDR, UDP6_RECVMSG, &returns(1)));
    probes.set(Feature::SocketPrograms, sockets.into());
    probes.set(Feature::SetRetval, load(CGROUP_SOCK_ADDR, INET4_CONNECT, &SETS_RETVAL).into());
    probes.set(Feature::TcPrograms, load(SCHED_CLS, 0, &returns(0)).into());
    probes.set(Feature::XdpPrograms, load(XDP, 0, &returns(2)).into());
    probes.set(Feature::Tcx, kernel::query(LOOPBACK, TCX_INGRESS).into());
    probes.set(Feature::Verified, verified(probes));
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

/// Loads every program that has no stand-in, without attaching or pinning any.
fn verified(probes: &Probes) -> Answer {
    for feature in [Feature::Object, Feature::Bpf, Feature::TcPrograms, Feature::SocketPrograms] {
        if !probes.has(feature) {
            return Answer::Untried(format!("{} is missing", feature.name()));
        }
    }
    match load::verify() {
        Ok(()) => Answer::yes(),
        Err(error) => Answer::Missing(sentence(&error)),
    }
}
