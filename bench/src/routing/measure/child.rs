//! A worker as the run sees it: a process that answers one task after the other.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{self, ChildStdin, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, anyhow};

use super::worker::{Answer, Part};
use crate::routing::{lab::objects::Size, plan::Task, results::Route};

/// The word that makes the program a worker.
pub(super) const WORKER: &str = "routes-worker";

/// Why a worker has no samples.
#[derive(Debug)]
pub(super) enum Failure {
    /// It took longer than it may.
    Late(Duration),
    /// The task failed; the worker goes on.
    Task(String),
    /// The worker is gone.
    Other(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(limit) => write!(f, "it takes more than {} s", limit.as_secs()),
            Self::Task(said) => f.write_str(said),
            Self::Other(error) => write!(f, "{error:#}"),
        }
    }
}

/// A worker. Dropping it ends it, and with it all of its namespaces.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) route: Route,
    process: process::Child,
    stdin: ChildStdin,
    answers: mpsc::Receiver<String>,
}

impl Child {
    pub(super) fn start(program: &Path, route: Route, size: Size) -> anyhow::Result<Self> {
        let mut process = Command::new(program)
            .args(["bench", WORKER, route.name()])
            .args([size.services, size.endpoints, process::id()].map(|number| number.to_string()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the run, which ends its workers.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} as a worker", program.display()))?;
        let stdin = process.stdin.take().context("the worker has no input")?;
        let stdout = process.stdout.take().context("the worker has no output")?;
        let (send, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { route, process, stdin, answers })
    }

    /// Gives it a task and waits for what comes of it.
    pub(super) fn ask(&mut self, task: Task, limit: Duration) -> Result<Vec<Part>, Failure> {
        let gone = |error: anyhow::Error| Failure::Other(error.context("the worker has ended"));
        let line = serde_json::to_string(&task).map_err(|error| gone(error.into()))?;
        writeln!(self.stdin, "{line}").map_err(|error| gone(error.into()))?;
        let line = self.answers.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => Failure::Late(limit),
            RecvTimeoutError::Disconnected => gone(anyhow!("it said nothing; see above")),
        })?;
        match serde_json::from_str(&line).map_err(|error| gone(error.into()))? {
            Answer::Done(parts) => Ok(parts),
            Answer::Failed(said) => Err(Failure::Task(said)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
