//! Runs the iptables programs of either variant, bounded in time, and finds which ones there are.

use std::{
    io::{self, Read, Write as _},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// A program takes milliseconds for a few rules and seconds for a hundred thousand.
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at whether it has ended.
const STEP: Duration = Duration::from_millis(1);

/// An implementation behind the same commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// On `nf_tables`.
    Nft,
    /// On the interface that came before.
    Legacy,
}

/// The programs of one family and one variant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Writes rules.
    pub restore: String,
    /// Prints rules.
    pub save: String,
    /// As it says itself, such as `v1.8.9`.
    pub version: String,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No program of this variant.
    #[error("there is no {program} of the {variant} variant")]
    Absent {
        /// Under its shortest name.
        program: String,
        /// `nf_tables` or `legacy`.
        variant: &'static str,
    },
    /// The program does not run.
    #[error("cannot run {program}")]
    Run {
        /// Which one.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program said no.
    #[error("{program}: {said}")]
    Refused {
        /// Which one.
        program: String,
        /// Its first line.
        said: String,
    },
}

impl Variant {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nft, Self::Legacy];

    /// As the programs name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nft => "nf_tables",
            Self::Legacy => "legacy",
        }
    }

    /// The programs for IPv4 (`iptables`) or IPv6 (`ip6tables`).
    pub fn tools(self, family: &str) -> Result<Tools, Error> {
        let infix = match self {
            Self::Nft => "nft-",
            Self::Legacy => "legacy-",
        };
        for infix in [infix, ""] {
            let restore = format!("{family}-{infix}restore");
            let Ok(said) = run(&restore, &["--version"], "", None) else { continue };
            // Versions from before there were two say nothing.
            if said.contains("nf_tables") != (self == Self::Nft) {
                continue;
            }
            let version = said.split_whitespace().find(|word| word.starts_with('v'));
            return Ok(Tools {
                save: format!("{family}-{infix}save"),
                version: version.unwrap_or("of unknown version").to_owned(),
                restore,
            });
        }
        Err(Error::Absent { program: format!("{family}-restore"), variant: self.name() })
    }
}

/// What `program` prints. With a lock file it takes that in the place of the host's lock.
pub fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
    lock_file: Option<&str>,
) -> Result<String, Error> {
    let failed = |source| Error::Run { program: program.to_owned(), source };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(path) = lock_file {
        command.env("XTABLES_LOCKFILE", path);
    }
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (status, out, err) = thread::scope(|scope| {
        // All three at once: a pipe that nobody empties stops the program.
        let feed = scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input.as_bytes())));
        let out = scope.spawn(|| drain(stdout));
        let err = scope.spawn(|| drain(stderr));
        let status = wait(&mut child);
        // One that ends without reading says by its status why.
        let _unread = feed.join();
        (status, out.join().unwrap_or_default(), err.join().unwrap_or_default())
    });
    if status.map_err(failed)? {
        return Ok(out);
    }
    let line = err.lines().map(str::trim).find(|line| !line.is_empty());
    let said = line.unwrap_or("it failed and did not say why");
    let said = said.strip_prefix(program).map_or(said, |rest| rest.trim_start_matches([':', ' ']));
    Err(Error::Refused { program: program.to_owned(), said: said.to_owned() })
}

fn drain(pipe: Option<impl Read>) -> String {
    let mut bytes = Vec::new();
    // What was read before an error is still worth showing.
    let _lost = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether it ended well; one that hangs is killed.
fn wait(child: &mut Child) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it hangs"));
        }
        thread::sleep(STEP);
    }
}
