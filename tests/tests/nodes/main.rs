//! Pods on real nodes: the binary under test, containerd and runc, in network namespaces of their own.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cluster;
mod demo;
mod life;
mod pods;
mod traffic;

use hashplane_tests::skip;

/// Whether clusters cannot run here; says why.
fn is_skipped() -> bool {
    let busybox = || (!skip::has_command("busybox")).then(|| "busybox is missing".to_owned());
    skip::is_skipped(skip::why_no_pods().or_else(busybox).as_deref())
}
