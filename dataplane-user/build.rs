//! Builds the eBPF object that this crate embeds, or an empty stub where the tools are missing.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let out_dir = PathBuf::from(variable("OUT_DIR"));
    let workspace = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("..");
    let object = out_dir.join("hashplane-ebpf");
    for source in ["dataplane-ebpf/src", "dataplane-ebpf/Cargo.toml", "dataplane-common/src"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    println!("cargo::rerun-if-env-changed=PATH");
    if let Some(missing) = missing_tool() {
        println!(
            "cargo::warning=the eBPF programs are not built ({missing}): the binary embeds an \
             empty stub and cannot program the kernel; `cargo xtask setup` installs what is missing"
        );
        // A file that never exists: the script runs again next time, when the tools may be there.
        println!("cargo::rerun-if-changed={}", out_dir.join("never").display());
        fs::write(&object, []).expect("OUT_DIR can be written");
        return;
    }
    // `target/<profile>/build/<crate>/out`: one directory for the object of every profile, since
    // its own profile does not depend on ours.
    let target_dir = out_dir.ancestors().nth(4).expect("OUT_DIR lies in target").join("bpf");
    build(&workspace, &target_dir);
    let built = target_dir.join("bpfel-unknown-none/bpf/hashplane-ebpf");
    fs::copy(&built, &object).expect("the eBPF build left its object");
}

fn build(workspace: &Path, target_dir: &Path) {
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clinker=bpf-linker".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit arithmetic and jumps (Linux 5.1), and loads of whole fields at any alignment, which
        // the verifier checks: byte by byte, addresses would not fit into registers and stack.
        "-Ctarget-cpu=v3".to_owned(),
        "-Clink-arg=--cpu-features=+allows-misaligned-mem-access".to_owned(),
    ];
    let status = Command::new(variable("CARGO"))
        .current_dir(workspace)
        .args(["build", "-Zbuild-std=core", "--profile=bpf", "--target=bpfel-unknown-none"])
        .args(["--package=dataplane-ebpf", "--bin=hashplane-ebpf"])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // `-Zbuild-std` on the stable compiler that builds everything else.
        .env("RUSTC_BOOTSTRAP", "1")
        // What the outer cargo sets for its own lints and targets is not meant for this build.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CLIPPY_ARGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTFLAGS")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("the eBPF build ended with {status}; its errors stand above")),
        Err(error) => fail(&format!("cannot start the eBPF build: {error}")),
    }
}

/// What is missing to build for the kernel, in words.
fn missing_tool() -> Option<&'static str> {
    let paths = env::var_os("PATH").unwrap_or_default();
    if !env::split_paths(&paths).any(|dir| dir.join("bpf-linker").is_file()) {
        return Some("bpf-linker is not on PATH");
    }
    let sysroot = Command::new(variable("RUSTC")).args(["--print", "sysroot"]).output().ok()?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    let core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core");
    (!core.is_dir()).then_some("the component rust-src is not installed")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

#[expect(clippy::exit, reason = "a build script ends so when cargo was told the error")]
fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1)
}
