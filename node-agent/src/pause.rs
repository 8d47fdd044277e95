//! The image of the process that holds a pod's namespaces: it reaps children and does nothing else.
//!
//! It is made here, since a node without a registry could not fetch one.

use std::io;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

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

/// An archive of an image, as `ctr images import` takes it (OCI image layout 1.0), with one file in one layer.
pub fn archive(name: &str) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "pause", &executable(), 0o755)?;
    let layer = layer.into_inner()?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [name_of(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut image = tar::Builder::new(Vec::new());
    add(&mut image, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
    add(&mut image, "index.json", index.as_bytes(), 0o644)?;
    for blob in [&layer, &config, &manifest] {
        let path = format!("blobs/{}", name_of(blob).replace(':', "/"));
        add(&mut image, &path, blob, 0o644)?;
    }
    image.into_inner()
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, path, bytes)
}

fn name_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(digest(&SHA256, bytes).as_ref(), 32))
}

/// The first bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8], count: usize) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().take(count).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": name_of(bytes), "size": bytes.len()})
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

    #[test]
    fn an_archive_names_its_parts_by_what_is_in_them() {
        let archive = archive("x/y:1").expect("an archive");
        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).expect("its bytes");
            if let Some(hash) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(name_of(&bytes), format!("sha256:{hash}"));
            }
            names.push(path);
        }
        assert_eq!(names.len(), 5, "{names:?}");
    }
}
