//! Fuzzing with libFuzzer: coverage instrumentation on the stable compiler, one target at a time.

use anyhow::{Context as _, Result, bail};

use crate::{run, say, setup};

/// The crate of the fuzz targets.
const PACKAGE: &str = "dataplane-ebpf-fuzz";
/// Its folder.
const FOLDER: &str = "dataplane-ebpf/fuzz";
/// The longest input tried: a jumbo frame says nothing that this does not.
const INPUT_MAX: u32 = 512;

/// What makes a build report which branches an input took. No sanitizer: the library forbids
/// unsafe code, so what can be found are panics, overflows and broken promises.
const INSTRUMENT: [&str; 8] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
    "--cfg=fuzzing",
];

/// Runs `target`, or every target in turn, for `seconds` each.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<()> {
    setup::ensure(setup::For::Fuzz)?;
    let known = targets()?;
    let chosen: Vec<&String> =
        known.iter().filter(|name| target.is_none_or(|wanted| wanted == *name)).collect();
    if chosen.is_empty() {
        bail!("no fuzz target of that name; there are: {}", known.join(" "));
    }
    say::step("building the fuzz targets");
    build()?;
    for name in chosen {
        say::step(&format!("fuzzing {name} for {seconds} s"));
        fuzz(name, seconds)?;
    }
    Ok(())
}

/// The names of the fuzz targets: the files in their folder.
fn targets() -> Result<Vec<String>> {
    let folder = run::workspace().join(FOLDER).join("fuzz_targets");
    let entries =
        std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

fn build() -> Result<()> {
    let host = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };
    let target = format!("{host}-unknown-linux-gnu");
    let mut build = run::command("cargo", &["build", "--quiet", "--release", "--package", PACKAGE]);
    // With a target named, build scripts are compiled without the instrumentation.
    build.args(["--features", "engine", "--bins", "--target", &target]);
    build.arg("--target-dir").arg(run::target_dir().join("fuzz"));
    build.env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENT.join("\x1f"));
    run::loud(build)
}

fn fuzz(name: &str, seconds: u32) -> Result<()> {
    let folder = run::workspace().join(FOLDER);
    let (corpus, crashes) = (folder.join("corpus").join(name), folder.join("crashes").join(name));
    for folder in [&corpus, &crashes] {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
    }
    let host = if cfg!(target_arch = "aarch64") { "aarch64" } else { "x86_64" };
    let binary =
        run::target_dir().join(format!("fuzz/{host}-unknown-linux-gnu/release")).join(name);
    let mut fuzz = run::command(&binary.to_string_lossy(), &[]);
    fuzz.arg(format!("-max_total_time={seconds}"));
    fuzz.arg(format!("-max_len={INPUT_MAX}"));
    fuzz.arg(format!("-artifact_prefix={}/", crashes.display()));
    fuzz.args(["-print_final_stats=1".as_ref(), corpus.as_os_str(), crashes.as_os_str()]);
    run::loud(fuzz).with_context(|| {
        format!(
            "fuzz target {name} broke; the input is kept in {FOLDER}/crashes/{name}, and \
             `cargo test -p {PACKAGE}` replays it"
        )
    })
}
