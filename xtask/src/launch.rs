//! Build a program of the workspace and hand over to it: demo and benchmarks.

use std::{os::unix::process::CommandExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

use crate::{run, setup};

/// Builds the crate that embeds the eBPF programs; its build script compiles them.
pub(crate) fn build_ebpf() -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    run::loud(run::command("cargo", &["build", "--package", "dataplane-user"]))
}

/// Builds the daemon and what shows it, then becomes the demo.
pub(crate) fn demo(dataplane: bool, keep: bool) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    // `--workspace` gives every crate the features that the tests build it with, so that neither
    // command builds again what the other has built.
    run::loud(run::command("cargo", &["build", "--quiet", "--workspace", "--bins"]))?;
    let debug = run::target_dir().join("debug");
    let mut demo = run::command(&debug.join("demo").to_string_lossy(), &[]);
    demo.env("HASHPLANE_BIN", debug.join("hashplane"));
    demo.env("HASHPLANE_TEST_POD", build_test_pod()?);
    demo.args(dataplane.then_some("--dataplane")).args(keep.then_some("--keep"));
    become_it(demo)
}

/// Builds what containers of tests and of the demo run, without shared libraries; where it is.
pub(crate) fn build_test_pod() -> Result<PathBuf> {
    let build = ["build", "--quiet", "--package", "hashplane-test-pod", "--target", setup::MUSL];
    run::loud(run::command("cargo", &build))?;
    Ok(test_pod())
}

/// Where that is once it is built.
pub(crate) fn test_pod() -> PathBuf {
    run::target_dir().join(setup::MUSL).join("debug/test-pod")
}

/// Builds the optimised binary, then becomes its benchmark.
pub(crate) fn bench(arguments: &[String]) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    // `bench` has the program that counts heap.
    let build = ["build", "--quiet", "--release", "--package", "hashplane", "--package", "bench"];
    run::loud(run::command("cargo", &build))?;
    let binary = run::target_dir().join("release/hashplane");
    let mut bench = run::command(&binary.to_string_lossy(), &["bench"]);
    bench.args(arguments);
    become_it(bench)
}

/// Builds the optimised binary and a cluster's parts, then becomes the benchmark of pods.
pub(crate) fn bench_pods(arguments: &[String]) -> Result<()> {
    setup::ensure(setup::For::Tests)?;
    let build =
        ["build", "--quiet", "--release", "--package", "hashplane", "--package", "hashplane-tests"];
    run::loud(run::command("cargo", &build))?;
    let release = run::target_dir().join("release");
    let mut bench = run::command(&release.join("bench-pods").to_string_lossy(), &[]);
    bench.env("HASHPLANE_BIN", release.join("hashplane"));
    bench.env("HASHPLANE_TEST_POD", build_test_pod()?).args(arguments);
    become_it(bench)
}

/// Replaces this process, so that signals such as Ctrl-C reach the program alone.
fn become_it(mut command: std::process::Command) -> Result<()> {
    let typed = run::typed(&command);
    Err(command.exec()).with_context(|| format!("cannot start `{typed}`"))
}
