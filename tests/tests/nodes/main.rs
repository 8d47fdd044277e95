//! Pods on real nodes: the binary under test, containerd and runc, in network namespaces of their own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cluster;
mod life;
mod pods;
mod traffic;

use hashplane_tests::skip;

/// Whether clusters cannot run here; says why.
fn is_skipped() -> bool {
    let missing = ["containerd", "runc", "ctr", "nft", "kubectl", "busybox", "nsenter"]
        .into_iter()
        .find(|name| !has_command(name));
    let reason = skip::why_no_lab().or_else(skip::why_no_ebpf).map(str::to_owned);
    let reason = reason.or_else(|| missing.map(|it| format!("the command `{it}` is missing")));
    skip::is_skipped(reason.as_deref())
}

fn has_command(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
