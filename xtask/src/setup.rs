//! What the machine must have, and how it gets there: apt packages, rust-src, bpf-linker.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{run, say};

/// The bpf-linker that the programs are known to link with.
const LINKER: &str = "0.13";
/// Versions of LLVM that this bpf-linker can be built with.
const LLVM: std::ops::RangeInclusive<u32> = 21..=23;
/// What a virtual machine is made of and with.
const VIRTUAL_MACHINE: [&str; 6] =
    ["qemu-system-x86", "busybox-static", "kmod", "tar", "util-linux", "iproute2"];
/// What a cluster is made of that runs pods, the store of several servers, and what the fallback modes and
/// tests call.
const CLUSTER: [&str; 7] =
    ["etcd-server", "containerd", "runc", "nftables", "iptables", "busybox-static", "curl"];
/// The target of a static binary.
pub(crate) const MUSL: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-musl"
} else {
    "x86_64-unknown-linux-musl"
};

/// What the machine is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum For {
    /// Builds, tests and the demo: also the static target, for what containers run.
    Tests,
    /// A release: also the static target.
    Dist,
    /// Tests in a virtual machine: also qemu, and what makes its first file system.
    VirtualMachine,
    /// Fuzzing: also the C++ compiler of the fuzzer's engine.
    Fuzz,
}

/// Installs what is missing, saying each thing it does; says nothing if nothing is missing.
pub(crate) fn ensure(purpose: For) -> Result<()> {
    let llvm = llvm_of_rustc()?;
    apt(&packages(purpose, llvm))?;
    if !has_rust_src() {
        rustup("component", "rust-src")?;
    }
    if matches!(purpose, For::Dist | For::Tests) && !has_target(MUSL) {
        rustup("target", MUSL)?;
    }
    if !has_linker() {
        install_linker(llvm)?;
    }
    Ok(())
}

/// Whether the standard library's source is there, which the kernel's target is built from.
pub(crate) fn has_rust_src() -> bool {
    sysroot()
        .is_some_and(|root| Path::new(&root).join("lib/rustlib/src/rust/library/core").is_dir())
}

fn packages(purpose: For, llvm: u32) -> Vec<String> {
    let mut packages: Vec<String> =
        ["gcc", "libc6-dev", "iproute2", "ethtool", "procps"].map(str::to_owned).into();
    if !has_linker() {
        packages.extend([format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")]);
        packages.extend(["g++", "libzstd-dev", "zlib1g-dev"].map(str::to_owned));
    }
    match purpose {
        For::Tests => {
            packages.extend(CLUSTER.map(str::to_owned));
            if !run::has_program("kubectl") {
                packages.push("kubernetes-client".to_owned());
            }
        }
        For::VirtualMachine => packages.extend(VIRTUAL_MACHINE.map(str::to_owned)),
        For::Dist => packages.push("musl-tools".to_owned()),
        For::Fuzz => packages.push("g++".to_owned()),
    }
    packages
}

fn apt(wanted: &[String]) -> Result<()> {
    if !run::has_program("dpkg-query") {
        let missing: Vec<&str> =
            ["cc", "ip", "ethtool"].into_iter().filter(|name| !run::has_program(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        bail!(
            "this machine has no apt, and these programs are missing: {}\n\
             to go on: install them with the machine's own package manager",
            missing.join(" ")
        );
    }
    let mut query = vec!["-W", "-f", "${Package} ${db:Status-Status}\n"];
    query.extend(wanted.iter().map(String::as_str));
    // It fails when a package is unknown, and still lists the others.
    let output = run::command("dpkg-query", &query).output().context("cannot ask dpkg")?;
    let missing = missing(wanted, &String::from_utf8_lossy(&output.stdout));
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install {}", missing.join(" "));
    if !run::is_root() {
        bail!("packages are missing, and only root can install them\nto go on: sudo {install}");
    }
    say::step(&format!("installing packages: {}", missing.join(" ")));
    let advice = "repair apt (`apt-get -f install`), or the sources in /etc/apt/sources.list.d; \
                  LLVM has an apt repository of its own for releases that Debian lacks";
    run::quiet(run::command("apt-get", &["update", "-qq"]), advice)?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(missing);
    let mut install = run::command("apt-get", &install);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    run::quiet(install, advice)
}

/// Those of `wanted` that `listing`, lines of package and status, does not call installed.
fn missing<'a>(wanted: &'a [String], listing: &str) -> Vec<&'a str> {
    let installed =
        |name: &str| listing.lines().any(|line| line.split_once(' ') == Some((name, "installed")));
    wanted.iter().map(String::as_str).filter(|name| !installed(name)).collect()
}

fn rustup(kind: &str, name: &str) -> Result<()> {
    if !run::has_program("rustup") {
        bail!(
            "the {kind} {name} is missing, and rustup is not there to add it\n\
             to go on: install Rust with rustup (https://rustup.rs), then run this again"
        );
    }
    say::step(&format!("adding the {kind} {name} to the Rust toolchain"));
    let advice = format!("check the network, then `rustup {kind} add {name}`");
    run::quiet(run::command("rustup", &[kind, "add", name]), &advice)
}

fn install_linker(llvm: u32) -> Result<()> {
    if !LLVM.contains(&llvm) {
        bail!(
            "rustc uses LLVM {llvm}, and bpf-linker {LINKER} knows {} to {}\n\
             to go on: use the Rust release that this repository is tested with, for example\n    \
             rustup override set {}",
            LLVM.start(),
            LLVM.end(),
            env!("CARGO_PKG_RUST_VERSION"),
        );
    }
    say::step(&format!("building bpf-linker {LINKER} with LLVM {llvm} (about a minute)"));
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let (version, feature) = (format!("^{LINKER}"), format!("llvm-{llvm}"));
    let mut install = run::command("cargo", &["install", "bpf-linker", "--version", &version]);
    install.args(["--locked", "--no-default-features", "--features", &feature]);
    install.env("LLVM_PREFIX", &prefix).env("RUSTFLAGS", format!("-L native={prefix}/lib"));
    run::quiet(install, &format!("check that llvm-{llvm}-dev is installed, then run this again"))?;
    if !has_linker() {
        bail!(
            "bpf-linker is installed but not on PATH\n\
             to go on: export PATH=\"$HOME/.cargo/bin:$PATH\""
        );
    }
    Ok(())
}

fn has_linker() -> bool {
    run::answer("bpf-linker", &["--version"])
        .is_some_and(|version| version.trim().starts_with(&format!("bpf-linker {LINKER}.")))
}

fn has_target(target: &str) -> bool {
    sysroot().is_some_and(|root| Path::new(&root).join("lib/rustlib").join(target).is_dir())
}

fn sysroot() -> Option<String> {
    run::answer("rustc", &["--print", "sysroot"]).map(|root| root.trim().to_owned())
}

fn llvm_of_rustc() -> Result<u32> {
    let version = run::answer("rustc", &["-vV"])
        .context("cannot run rustc\nto go on: install Rust with rustup (https://rustup.rs)")?;
    llvm_major(&version).context("rustc does not say which LLVM it uses")
}

fn llvm_major(version: &str) -> Option<u32> {
    let line = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_that_are_unknown_or_removed_are_missing() {
        let wanted = ["gcc", "ethtool", "nosuch", "gc"].map(str::to_owned);
        let listing = "gcc installed\nethtool config-files\n";
        assert_eq!(missing(&wanted, listing), ["ethtool", "nosuch", "gc"]);
    }

    #[test]
    fn the_llvm_of_rustc_is_read_from_its_version() {
        assert_eq!(llvm_major("rustc 1.95.0\nrelease: 1.95.0\nLLVM version: 22.1.2\n"), Some(22));
        assert_eq!(llvm_major("rustc 1.95.0\n"), None);
    }
}
