//! Every test there is, in the order in which a failure is cheapest to find, and one last line.

mod integration;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::{
    coverage, run, say, setup,
    tally::{self, Tally},
    tidy,
};

/// Cases of a property under Miri, which runs code about a hundred times slower than the machine.
const CASES_UNDER_MIRI: &str = "8";

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// What needs neither root nor BPF.
    #[value(name = "1")]
    First,
    /// Everything.
    All,
}

/// What has happened so far.
#[derive(Debug, Default)]
struct Report {
    tally: Tally,
    /// What failed, in words.
    failures: Vec<String>,
    /// Checks that could not run and are no tests, so the harness has not counted them.
    checks_skipped: usize,
    /// Tests that failed at first and passed when they ran alone.
    flaky: Vec<String>,
}

/// Runs the tests; a failure does not stop the rest. The summary is the last line printed.
pub(crate) fn run(level: Level) -> ExitCode {
    let mut report = Report::default();
    set_up(level, &mut report);
    checks(&mut report);
    let mut unit = cargo(&["test", "--workspace", "--exclude", "hashplane-tests"]);
    unit.arg("--no-fail-fast");
    tests("unit and property tests", unit, &mut report);
    if level == Level::All {
        integration::run(&mut report);
        coverage(&mut report);
        miri(&mut report);
    }
    summary(&report)
}

fn set_up(level: Level, report: &mut Report) {
    let Err(error) = setup::ensure(setup::For::Tests) else { return };
    // Without root or a network the first level still works; the tests skip themselves aloud.
    say::failure(&error);
    match level {
        Level::First => skip(report, "set-up", "it failed, and the first level needs none"),
        Level::All if run::is_root() => report.failed("set-up", &error),
        Level::All => skip(report, "set-up", "not root, and something is missing"),
    }
}

fn checks(report: &mut Report) {
    check("rules of the repository", report, tidy::run);
    check("format", report, || run::loud(cargo(&["fmt", "--all", "--check"])));
    check("clippy", report, || {
        let arguments = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        run::loud(cargo(&arguments))
    });
    if setup::has_rust_src() {
        check("clippy for the kernel", report, || run::loud(clippy_for_the_kernel()));
    } else {
        skip(report, "clippy for the kernel", "the component rust-src is missing");
    }
    if run::has_program("cargo-deny") {
        // Advisories stay out: one published today must not turn yesterday's commit red.
        let arguments = ["deny", "--all-features", "check", "licenses", "bans", "sources"];
        check("licences and sources", report, || run::loud(cargo(&arguments)));
    } else {
        let reason = "cargo-deny is missing (`cargo install cargo-deny --locked` adds it)";
        skip(report, "licences and sources", reason);
    }
}

/// Its tests are the unit tests once more, so they are not counted again.
fn coverage(report: &mut Report) {
    const WHAT: &str = "coverage of the packet library";
    match coverage::tools() {
        Ok(_) => _ = check(WHAT, report, coverage::run),
        Err(error) => skip(report, WHAT, &error.to_string()),
    }
}

fn miri(report: &mut Report) {
    const WHAT: &str = "packet library under Miri";
    if run::answer("cargo", &["+nightly", "--version"]).is_none() {
        return skip(report, WHAT, "no nightly toolchain (`rustup toolchain add nightly`)");
    }
    if run::answer("cargo", &["+nightly", "miri", "--version"]).is_none() {
        say::step("adding the component miri to the nightly toolchain");
        let arguments = ["component", "add", "--toolchain", "nightly", "miri", "rust-src"];
        if run::quiet(run::command("rustup", &arguments), "see above").is_err() {
            return skip(report, WHAT, "this nightly has no Miri (`rustup update nightly`)");
        }
    }
    let mut command = cargo(&["+nightly", "miri", "test", "--package", "dataplane-ebpf", "--lib"]);
    // Properties keep their seeds in files, which the isolated interpreter cannot see.
    command.env("MIRIFLAGS", "-Zmiri-disable-isolation").env("PROPTEST_CASES", CASES_UNDER_MIRI);
    // Its tests are the unit tests once more, so they are not counted again.
    check(WHAT, report, || run::loud(command));
}

fn cargo(arguments: &[&str]) -> Command {
    run::command("cargo", arguments)
}

fn clippy_for_the_kernel() -> Command {
    let mut command = cargo(&["clippy", "--package", "dataplane-ebpf", "--lib", "--bins"]);
    command.args(["--target", "bpfel-unknown-none", "-Zbuild-std=core", "--profile", "bpf"]);
    command.arg("--target-dir").arg(run::target_dir().join("clippy-bpf"));
    command.args(["--", "-D", "warnings"]);
    let arch = std::env::consts::ARCH;
    command.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\""));
    // `-Zbuild-std` on the stable compiler that builds everything else.
    command.env("RUSTC_BOOTSTRAP", "1");
    command
}

/// Runs something that is right or wrong as a whole.
fn check(what: &str, report: &mut Report, run: impl FnOnce() -> Result<()>) -> bool {
    say::step(what);
    match run() {
        Ok(()) => true,
        Err(error) => {
            say::failure(&error);
            report.failed(what, &error);
            false
        }
    }
}

/// Runs something that counts its tests.
fn tests(what: &str, command: Command, report: &mut Report) {
    say::step(what);
    let typed = run::typed(&command);
    match tally::run(command) {
        Ok((good, tally)) => {
            if !good {
                report.failures.push(format!("{what}: {} failed in `{typed}`", tally.failed));
            }
            report.tally.add(tally);
        }
        Err(error) => report.failed(what, &error),
    }
}

fn skip(report: &mut Report, what: &str, reason: &str) {
    say::line(&format!("SKIP {what}: {reason}"));
    report.tally.skips.insert(format!("{what}: {reason}"));
    report.checks_skipped += 1;
}

impl Report {
    /// Counts a run with failures together with the second run of what failed.
    fn settle(&mut self, first: Tally, again: Tally, what: &str) {
        let flaky = first.failing.difference(&again.failing);
        let flaky = flaky.filter(|_| again.passed > 0);
        self.flaky.extend(flaky.map(|test| format!("{test} ({what})")));
        self.tally.passed += first.passed + again.passed;
        self.tally.failed += again.failed;
        self.tally.skips.extend(first.skips);
        self.tally.skips.extend(again.skips);
        if again.failed > 0 {
            let failed = again.failed;
            self.failures.push(format!("{what}: {failed} failed twice"));
        }
    }

    fn failed(&mut self, what: &str, error: &anyhow::Error) {
        let first = error.to_string();
        self.failures.push(format!("{what}: {}", first.lines().next().unwrap_or_default()));
        self.tally.failed += 1;
    }

    /// The last line. A test that skipped itself has not passed, whatever the harness says.
    fn last_line(&self) -> String {
        let skipped = self.tally.skips.len();
        let passed = self.tally.passed.saturating_sub(skipped - self.checks_skipped);
        let word = if self.failures.is_empty() { "ok" } else { "FAILED" };
        let failed = self.tally.failed;
        format!("test result: {word}. {passed} passed; {failed} failed; {skipped} skipped")
    }
}

fn summary(report: &Report) -> ExitCode {
    say::step("summary");
    if !report.tally.skips.is_empty() {
        say::line(&format!("{} skipped:", report.tally.skips.len()));
    }
    for skip in &report.tally.skips {
        say::line(&format!("  {skip}"));
    }
    for test in &report.flaky {
        say::line(&format!("FLAKY {test}: it failed first and passed when it ran alone"));
    }
    if !report.failures.is_empty() {
        say::line("failed:");
    }
    for failure in &report.failures {
        say::line(&format!("  {failure}"));
    }
    say::line(&report.last_line());
    if report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_skipped_itself_has_not_passed() {
        let mut report = Report::default();
        report.tally.passed = 10;
        report.tally.skips.insert("agree: needs root".to_owned());
        report.tally.skips.insert("licences: cargo-deny is missing".to_owned());
        report.checks_skipped = 1;
        assert_eq!(report.last_line(), "test result: ok. 9 passed; 0 failed; 2 skipped");
    }

    #[test]
    fn a_test_that_fails_twice_fails_and_one_that_passes_alone_is_flaky() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let mut report = Report::default();
        let first = Tally { passed: 8, failed: 2, failing: names(&["a", "b"]), ..Tally::default() };
        let again = Tally { passed: 1, failed: 1, failing: names(&["b"]), ..Tally::default() };
        report.settle(first, again, "integration tests");
        assert_eq!(report.flaky, ["a (integration tests)"]);
        assert_eq!(report.failures, ["integration tests: 1 failed twice"]);
        assert_eq!(report.last_line(), "test result: FAILED. 9 passed; 1 failed; 0 skipped");
    }

    #[test]
    fn a_check_that_fails_makes_the_whole_fail() {
        let mut report = Report::default();
        let good = check("format", &mut report, || anyhow::bail!("not formatted\nat all"));
        assert!(!good);
        assert_eq!(report.failures, ["format: not formatted"]);
        assert_eq!(report.last_line(), "test result: FAILED. 0 passed; 1 failed; 0 skipped");
    }
}
