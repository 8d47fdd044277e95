//! Runs tests, shows their output as it comes and counts what it says.

use std::{
    collections::BTreeSet,
    io::{self, BufRead as _, BufReader, Read},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{run, say};

/// What a run of tests came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that ran to their end; one that skipped itself counts here, as the harness sees it.
    pub(crate) passed: usize,
    /// Tests that failed.
    pub(crate) failed: usize,
    /// What was skipped and why, `what: reason`, once each.
    pub(crate) skips: BTreeSet<String>,
    /// Names of the tests that failed.
    pub(crate) failing: BTreeSet<String>,
}

impl Tally {
    /// Takes one line of output into account.
    fn read(&mut self, line: &str) {
        if let Some(skip) = skip(line) {
            self.skips.insert(skip.to_owned());
        }
        let named = line.strip_prefix("test ").and_then(|line| line.strip_suffix(" ... FAILED"));
        self.failing.extend(named.map(str::to_owned));
        let Some(counts) = line.trim_start().strip_prefix("test result: ") else { return };
        let Some((_, counts)) = counts.split_once(". ") else { return };
        for count in counts.split("; ") {
            match count.split_once(' ').map(|(n, what)| (n.parse().unwrap_or(0), what)) {
                Some((n, "passed")) => self.passed += n,
                Some((n, "failed")) => self.failed += n,
                Some(_) | None => {}
            }
        }
    }

    /// The same, with the skips of a place that others are not to be mistaken for.
    pub(crate) fn skipped_in(mut self, place: &str) -> Self {
        self.skips = self.skips.iter().map(|skip| format!("{place}: {skip}")).collect();
        self
    }

    /// Adds what another run came to.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skips.extend(other.skips);
        self.failing.extend(other.failing);
    }
}

/// What a line says was skipped, and why. The harness may have begun the line with a test's name.
fn skip(line: &str) -> Option<&str> {
    let at = line.find("SKIP ")?;
    let begins = at == 0 || line[..at].ends_with("... ");
    let skip = &line[at + "SKIP ".len()..];
    (begins && skip.contains(": ")).then_some(skip)
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, or by a signal of somebody else.
    Exited(ExitStatus),
    /// It was killed after so long.
    TookTooLong(Duration),
}

/// Runs `command`, shows what it prints and counts it. The flag says whether it succeeded.
pub(crate) fn run(command: Command) -> Result<(bool, Tally)> {
    let (end, mut tally) = watch(command, None, &say::line)?;
    let good = matches!(end, End::Exited(status) if status.success());
    if !good && tally.failed == 0 {
        // It did not build, or it died before it could count.
        tally.failed = 1;
    }
    Ok((good, tally))
}

/// Runs `command` for at most `bound`, gives `show` each line that it prints, and counts.
pub(crate) fn watch(
    mut command: Command,
    bound: Option<Duration>,
    show: &(dyn Fn(&str) + Sync),
) -> Result<(End, Tally)> {
    let typed = run::typed(&command);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{typed}`"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let err = scope.spawn(move || err.map(|pipe| read(pipe, &say::error_line)));
        let out = scope.spawn(move || out.map(|pipe| read(pipe, show)));
        let end = wait(&mut child, bound).with_context(|| format!("cannot wait for `{typed}`"))?;
        let mut tally = Tally::default();
        for reader in [out, err] {
            tally.add(reader.join().ok().flatten().unwrap_or_default());
        }
        Ok((end, tally))
    })
}

fn wait(child: &mut Child, bound: Option<Duration>) -> io::Result<End> {
    let Some(bound) = bound else { return child.wait().map(End::Exited) };
    let begun = Instant::now();
    while begun.elapsed() < bound {
        if let Some(status) = child.try_wait()? {
            return Ok(End::Exited(status));
        }
        thread::sleep(Duration::from_millis(50));
    }
    child.kill()?;
    child.wait()?;
    Ok(End::TookTooLong(bound))
}

fn read(pipe: impl Read, show: &dyn Fn(&str)) -> Tally {
    let mut tally = Tally::default();
    for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line);
        show(&line);
        tally.read(&line);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(lines: &[&str]) -> Tally {
        let mut tally = Tally::default();
        for line in lines {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn a_test_that_fails_is_known_by_its_name() {
        let seen = tally(&[
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test result: FAILED. 1 passed; 1 failed",
        ]);
        assert_eq!(seen.failing.into_iter().collect::<Vec<_>>(), ["a::c"]);
    }

    #[test]
    fn the_results_of_several_binaries_are_added() {
        let seen = tally(&[
            "test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished",
            "a line about a test result: nothing",
            "test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
        ]);
        assert_eq!((seen.passed, seen.failed), (7, 2));
    }

    #[test]
    fn a_skip_is_seen_also_behind_the_name_of_its_test() {
        let seen = tally(&[
            "SKIP units: systemd-analyze is missing",
            "test deploy::units ... SKIP units: systemd-analyze is missing",
            "test agree ... SKIP agree: bpf() needs root",
            "nobody may SKIP this: it is prose",
        ]);
        let skips: Vec<&str> = seen.skips.iter().map(String::as_str).collect();
        assert_eq!(skips, ["agree: bpf() needs root", "units: systemd-analyze is missing"]);
    }

    #[test]
    fn a_command_that_dies_without_counting_has_failed_once() {
        let (good, tally) = run(run::command("sh", &["-c", "echo dead >&2; exit 101"])).unwrap();
        assert!(!good);
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }

    #[test]
    fn a_command_that_does_not_end_is_killed() {
        let mut sleep = run::command("sh", &["-c", "echo begun; exec sleep 60"]);
        sleep.stdin(Stdio::null());
        let bound = Duration::from_millis(200);
        let begun = Instant::now();
        let (end, _) = watch(sleep, Some(bound), &|_line| ()).unwrap();
        assert_eq!(end, End::TookTooLong(bound));
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
