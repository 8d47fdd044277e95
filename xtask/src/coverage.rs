//! How many lines of the packet library its own tests run, from the compiler's instrumentation.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{run, say};

/// The crate.
const PACKAGE: &str = "dataplane-ebpf";
/// Its sources.
const SOURCES: &str = "dataplane-ebpf/src/";
/// What is not the packet path: the host's tables, tests and what they share; and the programs, which
/// only the kernel runs.
const LEFT_OUT: [&str; 5] = ["host.rs", "samples.rs", "main.rs", "kernel.rs", "kernel/"];
/// Least share of lines, in percent.
const LEAST: f64 = 90.0;
/// Where apt installs the tools that read what this compiler's LLVM writes.
const TOOLS: [&str; 2] = ["llvm-profdata-22", "llvm-cov-22"];

/// Lines of one file: how many there are, and how many ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    count: usize,
    run: usize,
}

impl Lines {
    #[expect(clippy::cast_precision_loss, reason = "files have fewer than 2^52 lines")]
    fn percent(self) -> f64 {
        if self.count == 0 { 100.0 } else { 100.0 * self.run as f64 / self.count as f64 }
    }
}

/// Runs the library's tests, prints the share of each file, and fails under [`LEAST`].
pub(crate) fn run() -> Result<()> {
    let tools = tools()?;
    let folder = run::target_dir().join("coverage");
    let profiles = folder.join("profiles");
    if profiles.exists() {
        fs::remove_dir_all(&profiles)
            .with_context(|| format!("cannot empty {}", profiles.display()))?;
    }
    say::step("tests of the packet library, with instrumentation");
    let test = instrumented(&folder, &profiles)?;
    let merged = folder.join("merged.profdata");
    let mut merge = Command::new(&tools[0]);
    merge.args(["merge", "-sparse", "-o"]).arg(&merged);
    merge.args(files_in(&profiles)?);
    run::quiet(merge, "see above")?;
    let mut export = Command::new(&tools[1]);
    export.args(["export", "-format=lcov", "-instr-profile"]).arg(&merged).arg(&test);
    let lcov = export.output().context("cannot start llvm-cov")?;
    ensure!(lcov.status.success(), "llvm-cov: {}", String::from_utf8_lossy(&lcov.stderr));
    report(&lines(&String::from_utf8_lossy(&lcov.stdout), before_tests))
}

/// The programs `llvm-profdata` and `llvm-cov`: of the toolchain, or else of the system.
pub(crate) fn tools() -> Result<[OsString; 2]> {
    let sysroot = run::answer("rustc", &["--print", "sysroot"]).unwrap_or_default();
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let bin = Path::new(sysroot.trim()).join("lib/rustlib").join(host).join("bin");
    let own = ["llvm-profdata", "llvm-cov"].map(|name| bin.join(name));
    if own.iter().all(|program| program.is_file()) {
        return Ok(own.map(PathBuf::into_os_string));
    }
    if TOOLS.iter().all(|program| run::has_program(program)) {
        return Ok(TOOLS.map(OsString::from));
    }
    bail!(
        "llvm-cov is missing: `rustup component add llvm-tools` or `apt-get install llvm-22` adds it"
    )
}

/// Builds and runs the tests; tells the program that was run.
fn instrumented(folder: &Path, profiles: &Path) -> Result<PathBuf> {
    let mut build = run::command("cargo", &["test", "--package", PACKAGE, "--lib", "--no-run"]);
    build.args(["--message-format=json", "--quiet"]).arg("--target-dir").arg(folder);
    build.env("CARGO_ENCODED_RUSTFLAGS", "-Cinstrument-coverage");
    build.env("LLVM_PROFILE_FILE", folder.join("build.profraw"));
    let output = build.output().context("cannot start cargo")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let test = run::built_program(&String::from_utf8_lossy(&output.stdout))
        .context("cargo names no test program")?;
    let mut tests = run::command(&test.to_string_lossy(), &["--quiet"]);
    tests.env("LLVM_PROFILE_FILE", profiles.join("%p-%m.profraw"));
    tests.current_dir(run::workspace().join(PACKAGE));
    run::loud(tests)?;
    Ok(test)
}

fn files_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
}

/// Lines of each file of the packet path, in LCOV's format: `SF:` file, `DA:` line and how often.
///
/// Of a file, only the first `len(file)` lines count.
fn lines(lcov: &str, len: impl Fn(&str) -> usize) -> BTreeMap<String, Lines> {
    let mut files: BTreeMap<String, Lines> = BTreeMap::new();
    let mut current = None;
    for record in lcov.lines() {
        if let Some(path) = record.strip_prefix("SF:") {
            let file = path.split_once(SOURCES).map(|(_, file)| file.to_owned());
            current = file.filter(|file| is_packet_path(file)).map(|file| (file, len(path)));
        } else if let (Some((file, len)), Some(line)) = (&current, record.strip_prefix("DA:")) {
            let mut numbers = line.split(',').map(|number| number.parse().unwrap_or(0));
            let (at, runs): (usize, usize) =
                (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
            if at <= *len {
                let lines = files.entry(file.clone()).or_default();
                lines.count += 1;
                lines.run += usize::from(runs > 0);
            }
        }
    }
    files
}

/// Lines of a file above its tests, which stand last.
fn before_tests(path: &str) -> usize {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().take_while(|line| *line != "mod tests {").count()
}

fn is_packet_path(file: &str) -> bool {
    !LEFT_OUT.iter().any(|start| file.starts_with(start)) && !file.contains("tests")
}

fn report(files: &BTreeMap<String, Lines>) -> Result<()> {
    let mut all = Lines::default();
    for (file, lines) in files {
        say::line(&format!(
            "{:>6.1} %  {:>5} of {:>5}  {file}",
            lines.percent(),
            lines.run,
            lines.count
        ));
        all.count += lines.count;
        all.run += lines.run;
    }
    say::line(&format!("{:>6.1} %  {:>5} of {:>5}  in all", all.percent(), all.run, all.count));
    ensure!(all.count > 0, "no line of the packet library was seen");
    ensure!(
        all.percent() >= LEAST,
        "the packet library's tests run {:.1} % of its lines, and {LEAST} % are wanted",
        all.percent()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_file_and_only_on_the_packet_path() {
        let lcov = "SF:/x/dataplane-ebpf/src/wire/udp.rs\nDA:1,5\nDA:2,0\nDA:10,7\n\
                    end_of_record\nSF:/x/dataplane-ebpf/src/host.rs\nDA:1,0\nend_of_record\n\
                    SF:/x/core/src/option.rs\nDA:1,0\nend_of_record\n";
        let files = lines(lcov, |_| 9);
        let expected = Lines { count: 2, run: 1 };
        assert_eq!(files, BTreeMap::from([("wire/udp.rs".to_owned(), expected)]));
        let error = report(&files).unwrap_err().to_string();
        assert!(error.contains("50.0 %"), "{error}");
    }
}
