//! Runs `iptables-save` and `iptables-restore`, and says in one sentence what went wrong.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::restore::LIST;
use crate::model::Family;

/// How long a restore waits for the lock of iptables.
const LOCK_WAIT_S: u64 = 5;

/// After this a command is killed: 50,000 services take a fraction of it.
const TIME_MAX: Duration = Duration::from_mins(2);

/// Which implementation of iptables writes the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// The one on top of `nf_tables`.
    Nft,
    /// The one with tables of its own.
    Legacy,
    /// Whatever `iptables-restore` is.
    Default,
}

impl Variant {
    const fn suffix(self) -> &'static str {
        match self {
            Self::Nft => "-nft",
            Self::Legacy => "-legacy",
            Self::Default => "",
        }
    }
}

/// Why iptables did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("cannot find {program} in PATH: install iptables or choose another mode")]
    Missing {
        /// Its name.
        program: String,
    },
    /// It cannot be run.
    #[error("cannot run {program}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody else has the lock.
    #[error(
        "{program} waited {LOCK_WAIT_S} s for the lock of iptables, which another program holds"
    )]
    Locked {
        /// Its name.
        program: String,
    },
    /// It did not end.
    #[error("{program} did not end within {} s and was killed", TIME_MAX.as_secs())]
    Late {
        /// Its name.
        program: String,
    },
    /// It does not take a line.
    #[error("{program} refuses line {line}, `{rule}`: {said}")]
    Line {
        /// Its name.
        program: String,
        /// The number of the line, from 1 on.
        line: usize,
        /// What is in the line.
        rule: String,
        /// Its own words.
        said: String,
    },
    /// It failed otherwise.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// Its own words.
        said: String,
    },
}

/// Where the commands are found.
#[derive(Clone, Debug, Default)]
pub struct Tools {
    /// What `PATH` is for them, if it is not that of this process.
    pub path: Option<OsString>,
}

impl Tools {
    /// Everything that is in the kernel, as text.
    pub(super) fn save(&self, family: Family, variant: Variant) -> Result<String, CommandError> {
        let program = program(family, variant, "save");
        let output = self.run(&program, &[], String::new())?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(failed(program, &output))
    }

    /// Writes chains, one transaction per table.
    pub(super) fn restore(
        &self,
        family: Family,
        variant: Variant,
        text: &str,
    ) -> Result<(), CommandError> {
        let is_listed = variant != Variant::Legacy && text.lines().any(|line| line == LIST);
        if is_listed {
            match self.restore_as_it_is(family, variant, text) {
                // The legacy variant cannot list what it has not written yet, and needs not. A rule
                // that is refused will be refused again, with its number among the lines without.
                Err(CommandError::Line { .. } | CommandError::Failed { .. }) => {}
                result => return result,
            }
        }
        let lines = text.lines().filter(|line| *line != LIST);
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        self.restore_as_it_is(family, variant, &text)
    }

    fn restore_as_it_is(
        &self,
        family: Family,
        variant: Variant,
        text: &str,
    ) -> Result<(), CommandError> {
        let program = program(family, variant, "restore");
        let wait = LOCK_WAIT_S.to_string();
        let args = ["--noflush", "--wait", &wait];
        let output = self.run(&program, &args, text.to_owned())?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        // Exit status 4 is RESOURCE_PROBLEM, which the lock shares with little else.
        if output.status.code() == Some(4) && said.contains("lock") {
            return Err(CommandError::Locked { program });
        }
        match line_number(&said) {
            Some(line) => {
                let rule = text.lines().nth(line.saturating_sub(1)).unwrap_or_default().to_owned();
                Err(CommandError::Line { program, line, rule, said: one_line(&said) })
            }
            None => Err(failed(program, &output)),
        }
    }

    fn run(&self, program: &str, args: &[&str], input: String) -> Result<Output, CommandError> {
        let mut command = Command::new(program);
        command.args(args).env("LC_ALL", "C");
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|source| {
            let program = program.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                CommandError::Missing { program }
            } else {
                CommandError::Start { program, source }
            }
        })?;
        converse(child, input, program)
    }
}

/// Writes, reads and waits at once, so that no full pipe stops the other side.
fn converse(mut child: Child, input: String, program: &str) -> Result<Output, CommandError> {
    fn read(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read is missing in what we say about a failure, and no more than that.
            let _ = from.map(|mut from| from.read_to_end(&mut bytes));
            bytes
        })
    }
    let stdin = child.stdin.take();
    // A command that ends early does not read to the end; its status says why.
    let write =
        thread::spawn(move || drop(stdin.map(|mut stdin| stdin.write_all(input.as_bytes()))));
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < TIME_MAX => thread::sleep(pause),
            Ok(None) => {
                // Its pipes may live on in children of its own: nobody waits for them.
                let _ = child.kill();
                let _ = child.wait();
                return Err(CommandError::Late { program: program.to_owned() });
            }
            Err(source) => {
                return Err(CommandError::Start { program: program.to_owned(), source });
            }
        }
        pause = (pause * 2).min(Duration::from_millis(5));
    };
    let join = |of: thread::JoinHandle<Vec<u8>>| of.join().unwrap_or_default();
    let _ = write.join();
    Ok(Output { status, stdout: join(stdout), stderr: join(stderr) })
}

fn program(family: Family, variant: Variant, what: &str) -> String {
    let name = match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    };
    format!("{name}{}-{what}", variant.suffix())
}

fn failed(program: String, output: &Output) -> CommandError {
    let said = one_line(&String::from_utf8_lossy(&output.stderr));
    CommandError::Failed { program, status: output.status.to_string(), said }
}

/// The first of its words, without those about itself.
fn one_line(said: &str) -> String {
    /// More than any of its messages has.
    const LEN_MAX: usize = 300;
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !line.starts_with('#') && !line.starts_with("Try `"));
    let text: Vec<&str> = lines.collect();
    text.join("; ").chars().take(LEN_MAX).collect()
}

/// The number in `line 5 failed`, `line 5: RULE_APPEND failed` and `Error occurred at line: 5`.
fn line_number(said: &str) -> Option<usize> {
    let digits = |rest: &str| {
        let rest = rest.trim_start_matches(':').trim_start();
        let end = rest.find(|of: char| !of.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse().ok()
    };
    said.match_indices("line")
        .find_map(|(at, word)| digits(said.get(at + word.len()..)?.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_is_refused_is_found_in_the_words_of_each_variant() {
        for said in [
            "iptables-restore: line 12 failed\n",
            "iptables-restore v1.8.9 (nf_tables): \nline 12: RULE_APPEND failed (No such file)",
            "iptables-restore v1.8.9 (legacy): unknown option\nError occurred at line: 12\nTry `x'",
        ] {
            assert_eq!(line_number(said), Some(12), "{said}");
        }
        assert_eq!(line_number("Another app is currently holding the xtables lock"), None);
    }
}
