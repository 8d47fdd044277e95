//! What a machine must have for a test of real traffic, and how a skipped test says so.

use std::{io::Write as _, path::Path};

use dataplane_user::backend::Mode;

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

/// Why no daemon of this mode can run in a lab here, or `None` if it can.
pub fn why_no_datapath(mode: Mode) -> Option<String> {
    let reason = why_no_lab().or_else(|| match mode {
        Mode::Ebpf => why_no_ebpf(),
        Mode::Nftables => why_no_nftables(),
        Mode::Iptables => why_no_iptables(),
        Mode::Ipvs => why_no_nftables().or_else(why_no_ipvs),
    });
    // The same test may be skipped in several modes, each of which counts.
    reason.map(|reason| match mode {
        Mode::Ebpf => reason.to_owned(),
        Mode::Nftables | Mode::Iptables | Mode::Ipvs => format!("{mode}: {reason}"),
    })
}

/// Why no cluster can run pods here, or `None` if it can.
pub fn why_no_pods() -> Option<String> {
    let missing = ["containerd", "runc", "ctr", "nft", "kubectl", "nsenter"]
        .into_iter()
        .find(|name| !has_command(name));
    let reason = why_no_lab().or_else(why_no_ebpf).map(str::to_owned);
    reason.or_else(|| missing.map(|name| format!("the command `{name}` is missing")))
}

/// Why no SCTP association can be made here, or `None` if one can.
pub fn why_no_sctp() -> Option<&'static str> {
    let any = std::net::SocketAddr::from(([0; 4], 0));
    let socket = crate::agent::open_sctp(any);
    socket.is_err().then_some("the kernel has no SCTP")
}

/// Why no eBPF program can run here.
pub fn why_no_ebpf() -> Option<&'static str> {
    if !can_load_programs() {
        return Some("the kernel loads no eBPF programs");
    }
    if dataplane_user::ebpf::object::object().is_err() {
        return Some("built without eBPF programs: `cargo xtask setup` installs what builds them");
    }
    None
}

fn why_no_nftables() -> Option<&'static str> {
    // Opening the protocol loads the module where it is one.
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Netlink,
        nix::sys::socket::SockType::Raw,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        nix::sys::socket::SockProtocol::NetlinkNetFilter,
    );
    socket.is_err().then_some("the kernel has no nfnetlink")
}

fn why_no_iptables() -> Option<&'static str> {
    let needed = ["iptables-restore", "ip6tables-restore", "iptables-save", "ip6tables-save"];
    let missing = needed.iter().any(|command| !has_command(command));
    missing.then_some("the command `iptables-restore` is missing (package iptables)")
}

fn why_no_ipvs() -> Option<&'static str> {
    // The file is there once the module is, in every network namespace.
    let missing = !Path::new("/proc/net/ip_vs").exists();
    missing.then_some("the kernel has no IPVS; `cargo xtask vm` has one")
}

/// Whether a command is on `PATH`.
pub fn has_command(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// Whether the kernel loads eBPF programs for us.
pub(crate) fn can_load_programs() -> bool {
    aya::sys::is_program_supported(aya::programs::ProgramType::SchedClassifier).unwrap_or(false)
}

/// Whether the running test has to be skipped for `reason`; says so if it has.
pub fn is_skipped(reason: Option<&str>) -> bool {
    if let Some(reason) = reason {
        // The harness names each test's thread after it.
        let thread = std::thread::current();
        say_skipped(thread.name().unwrap_or("a test"), reason);
    }
    reason.is_some()
}
