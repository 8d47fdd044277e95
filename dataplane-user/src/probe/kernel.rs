//! Raw `bpf(2)` calls that load tiny programs and ask who is attached; all unsafe code of the probe.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

const PROG_LOAD: libc::c_int = 5;
const PROG_QUERY: libc::c_int = 16;

/// `union bpf_attr` for a new program (`include/uapi/linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    attach_type: u32,
}

/// `union bpf_attr` for the question who is attached.
#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    attach_type: u32,
    flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    link_ids: u64,
    link_flags: u64,
    revision: u64,
}

/// Loads a program of plain instructions, which ends with the descriptor.
pub(super) fn load(kind: u32, attach_type: u32, code: &[u64]) -> io::Result<OwnedFd> {
    let license = c"Dual MIT/GPL";
    let mut attr = Load {
        kind,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        code: code.as_ptr() as usize as u64,
        license: license.as_ptr() as usize as u64,
        attach_type,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &mut attr)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap_or(-1)) })
}

/// Whether the kernel knows this attachment to a device; nothing is changed.
pub(super) fn query(ifindex: u32, attach_type: u32) -> io::Result<()> {
    let mut attr = Query { target: ifindex, attach_type, ..Query::default() };
    bpf(PROG_QUERY, &mut attr).map(drop)
}

fn bpf<T>(command: libc::c_int, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is one of the structures above, of the size that is passed; the pointers inside
    // were made from slices that outlive the call and have the lengths that stand beside them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
