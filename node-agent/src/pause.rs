//! The image of the process that holds a pod's namespaces: it reaps children and does nothing else.
//!
//! It is made here, since a node without a registry could not fetch one.

use std::io;

use crate::image::{self, File};

/// Its name in the runtime.
pub const IMAGE: &str = "hashplane.local/pause:1";

/// The program of x86-64, position independent: block all signals, then wait for one, end on SIGTERM and
/// SIGINT, otherwise reap children that have ended, and wait again.
#[rustfmt::skip]
const PROGRAM: [u8; 91] = [
    // push -1 (all signals); rt_sigprocmask(SIG_BLOCK, rsp, NULL, 8)
    0x6a, 0xff, 0x48, 0x89, 0xe6, 0x31, 0xff, 0x31, 0xd2, 0x41, 0xba, 0x08, 0x00, 0x00, 0x00,
    0xb8, 0x0e, 0x00, 0x00, 0x00, 0x0f, 0x05,
    // rt_sigtimedwait(rsp, NULL, NULL, 8)
    0x48, 0x89, 0xe7, 0x31, 0xf6, 0x31, 0xd2, 0x41, 0xba, 0x08, 0x00, 0x00, 0x00,
    0xb8, 0x80, 0x00, 0x00, 0x00, 0x0f, 0x05,
    // SIGTERM or SIGINT: to the end
    0x83, 0xf8, 0x0f, 0x74, 0x23, 0x83, 0xf8, 0x02, 0x74, 0x1e,
    // wait4(-1, NULL, WNOHANG, NULL), again while it reaps
    0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, 0x31, 0xf6, 0xba, 0x01, 0x00, 0x00, 0x00,
    0x45, 0x31, 0xd2, 0xb8, 0x3d, 0x00, 0x00, 0x00, 0x0f, 0x05, 0x85, 0xc0, 0x7f, 0xe4, 0xeb, 0xc4,
    // exit(0)
    0x31, 0xff, 0xb8, 0x3c, 0x00, 0x00, 0x00, 0x0f, 0x05,
];

/// Where the program is in memory: any page will do.
const BASE: u64 = 0x40_0000;
/// Bytes of the headers before it.
const HEADERS: u64 = 64 + 56;

/// The program as a file: an ELF header, one loadable segment, the code.
fn executable() -> Vec<u8> {
    let mut file = Vec::new();
    // 64 bit, little endian, version 1, no ABI of its own.
    file.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]);
    file.extend([0; 8]);
    // Executable, x86-64, version 1.
    file.extend(2_u16.to_le_bytes());
    file.extend(62_u16.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for address in [BASE + HEADERS, 64, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    // Sizes: this header, a program header, how many; no sections.
    for size in [64_u16, 56, 1, 64, 0, 0] {
        file.extend(size.to_le_bytes());
    }
    // Load all of it, readable and executable.
    file.extend(1_u32.to_le_bytes());
    file.extend(5_u32.to_le_bytes());
    let size = HEADERS + PROGRAM.len() as u64;
    for value in [0, BASE, BASE, size, size, 0x1000] {
        file.extend(value.to_le_bytes());
    }
    file.extend(PROGRAM);
    file
}

/// The image as an archive.
pub fn archive() -> io::Result<Vec<u8>> {
    let file = File::program("pause", executable());
    image::archive(IMAGE, &[file], &["/pause"], "65535:65535")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt as _,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn the_program_ends_when_it_is_told_to_and_only_then() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pause");
        fs::write(&path, executable()).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().expect("it starts");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
        std::thread::sleep(std::time::Duration::from_millis(50));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCHLD).expect("a signal");
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(child.try_wait().expect("its state"), None);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("a signal");
        assert_eq!(child.wait().expect("its end").code(), Some(0));
    }
}
