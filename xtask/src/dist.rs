//! A release: one static binary with the eBPF programs inside.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{run, say, setup};

/// The ELF program header that names a dynamic loader; a static binary has none.
const PT_INTERP: u32 = 3;

/// The ELF machine of eBPF objects.
const EM_BPF: u16 = 247;

/// Builds `dist/hashplane` and proves that it needs no library of the machine it runs on.
pub(crate) fn run() -> Result<()> {
    setup::ensure(setup::For::Dist)?;
    say::step(&format!("building hashplane for {}", setup::MUSL));
    let mut build = run::command("cargo", &["build", "--quiet", "--release"]);
    build.args(["--package", "hashplane", "--target", setup::MUSL]);
    run::loud(build)?;
    let built = run::target_dir().join(setup::MUSL).join("release/hashplane");
    let folder = run::workspace().join("dist");
    std::fs::create_dir_all(&folder).context("cannot create dist/")?;
    let binary = folder.join("hashplane");
    std::fs::copy(&built, &binary).context("cannot write dist/hashplane")?;
    check(&binary)?;
    say::step("an image: docker build -f deploy/Containerfile -t hashplane:0.1.0 .");
    Ok(())
}

fn check(binary: &Path) -> Result<()> {
    let bytes = std::fs::read(binary).context("cannot read dist/hashplane")?;
    match is_static(&bytes) {
        Some(true) => {}
        Some(false) => bail!("dist/hashplane names a dynamic loader, so it is not static"),
        None => bail!("dist/hashplane is not a 64-bit little-endian ELF file"),
    }
    if !has_bpf_object(&bytes) {
        bail!("dist/hashplane has no eBPF programs inside; `cargo xtask setup` says why");
    }
    let (kib, path) = (bytes.len() / 1024, "dist/hashplane");
    say::step(&format!("{path}: {kib} KiB, static, with its eBPF programs inside"));
    Ok(())
}

/// Whether an ELF file for the kernel's BPF machine lies anywhere in `bytes`.
fn has_bpf_object(bytes: &[u8]) -> bool {
    let magic = b"\x7fELF\x02\x01";
    let mut headers = bytes.windows(20).filter(|window| window.starts_with(magic));
    headers.any(|header| field(header, 18).map(u16::from_le_bytes) == Some(EM_BPF))
}

/// Whether an ELF file runs without a dynamic loader; `None` if it is none that we read.
fn is_static(elf: &[u8]) -> Option<bool> {
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let offset = usize::try_from(u64::from_le_bytes(field(elf, 32)?)).ok()?;
    let size = usize::from(u16::from_le_bytes(field(elf, 54)?));
    let count = usize::from(u16::from_le_bytes(field(elf, 56)?));
    let mut is_static = true;
    for index in 0..count {
        let kind = u32::from_le_bytes(field(elf, offset + index * size)?);
        is_static &= kind != PT_INTERP;
    }
    Some(is_static)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_is_dynamic_and_a_header_without_loader_is_static() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(is_static(&own), Some(false));
        let mut bare = own[..64].to_vec();
        bare[56..58].fill(0);
        assert_eq!(is_static(&bare), Some(true));
        assert_eq!(is_static(b"#!/bin/sh"), None);
        assert_eq!(is_static(&own[..60]), None);
    }

    #[test]
    fn a_binary_with_a_stub_inside_is_found_out() {
        let mut binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(!has_bpf_object(&binary));
        let mut object = binary[..64].to_vec();
        object[18..20].copy_from_slice(&EM_BPF.to_le_bytes());
        binary.extend(object);
        assert!(has_bpf_object(&binary));
    }
}
