//! What a machine must have for a test of real traffic, and how a skipped test says so.

use std::{io::Write as _, path::Path};

/// Says aloud that `test` was skipped and why; `cargo xtask test` counts these lines.
///
/// It writes past the test harness, which would swallow the output of a test that passes.
pub fn say_skipped(test: &str, reason: &str) {
    let line = format!("SKIP {test}: {reason}\n");
    // Nobody is left to tell when standard error is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Why no lab can be built here, or `None` if it can.
pub fn why_no_lab() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces need root");
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Some("the kernel has no network namespaces");
    }
    if crate::lab::cgroup2_root().is_none() {
        return Some("no cgroup2 is mounted");
    }
    if !has_command("ip") {
        return Some("the command `ip` is missing (package iproute2)");
    }
    if !has_command("ethtool") {
        return Some("the command `ethtool` is missing (package ethtool)");
    }
    None
}

/// Why no daemon can run in a lab here, or `None` if it can.
pub fn why_no_datapath() -> Option<&'static str> {
    if let Some(reason) = why_no_lab() {
        return Some(reason);
    }
    if !can_load_programs() {
        return Some("the kernel loads no eBPF programs");
    }
    if dataplane_user::ebpf::object::object().is_err() {
        return Some("built without eBPF programs: `cargo xtask setup` installs what builds them");
    }
    None
}

fn has_command(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether the kernel loads eBPF programs for us.
pub(crate) fn can_load_programs() -> bool {
    aya::sys::is_program_supported(aya::programs::ProgramType::SchedClassifier).unwrap_or(false)
}

/// Whether the running test has to be skipped for `reason`; says so if it has.
pub fn is_skipped(reason: Option<&'static str>) -> bool {
    if let Some(reason) = reason {
        // The harness names each test's thread after it.
        let thread = std::thread::current();
        say_skipped(thread.name().unwrap_or("a test"), reason);
    }
    reason.is_some()
}
