//! The lab's side of an agent: starts it, sends requests, hands each response to who waits for it.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use anyhow::Context as _;

use super::wait::slowed;
use crate::agent::protocol::{Failure, Op, Reply, Request, Response, Why};

/// Longer than any request may take.
const RESPONSE_WAIT: Duration = Duration::from_mins(1);

type Waiting = Arc<Mutex<BTreeMap<u64, mpsc::Sender<Result<Reply, Failure>>>>>;

/// A process inside the lab.
#[derive(Debug)]
pub(super) struct Agent {
    process: Mutex<Option<(Child, ChildStdin)>>,
    waiting: Waiting,
    ids: AtomicU64,
}

impl Agent {
    pub(super) fn start(tool: &Path, netns: &str, cgroup: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(cgroup)
            .with_context(|| format!("cannot make the cgroup {}", cgroup.display()))?;
        let mut child = Command::new(tool)
            .args(["lab-agent", netns])
            .arg(cgroup)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Ctrl-C is for the owner of the lab.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} as an agent", tool.display()))?;
        let stdin = child.stdin.take().context("the agent has no input")?;
        let stdout = child.stdout.take().context("the agent has no output")?;
        let waiting = Waiting::default();
        let readers = Arc::clone(&waiting);
        thread::spawn(move || hand_out(stdout, &readers));
        Ok(Self { process: Mutex::new(Some((child, stdin))), waiting, ids: AtomicU64::new(0) })
    }

    pub(super) fn call(&self, op: Op) -> Result<Reply, Failure> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        locked(&self.waiting).insert(id, sender);
        let mut line = serde_json::to_string(&Request { id, op }).map_err(|error| lost(&error))?;
        line.push('\n');
        match locked(&self.process).as_mut() {
            Some((_, stdin)) => stdin.write_all(line.as_bytes()).map_err(|error| lost(&error))?,
            None => return Err(lost(&"it has been ended")),
        }
        receiver.recv_timeout(slowed(RESPONSE_WAIT)).map_err(|error| lost(&error))?
    }

    pub(super) fn id(&self) -> Option<u32> {
        locked(&self.process).as_ref().map(|(child, _)| child.id())
    }

    /// Lets the process run on after this one.
    pub(super) fn leave(&self) -> Result<(), Failure> {
        self.call(Op::Outlive)?;
        locked(&self.process).take();
        Ok(())
    }

    /// Ends the process and all of its sockets.
    pub(super) fn end(&self) {
        if let Some((mut child, stdin)) = locked(&self.process).take() {
            drop(stdin);
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.end();
    }
}

fn hand_out(stdout: ChildStdout, waiting: &Waiting) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(Response { id, result }) = serde_json::from_str(&line) else { continue };
        if let Some(sender) = locked(waiting).remove(&id) {
            // Who has stopped waiting needs no answer.
            let _ = sender.send(result);
        }
    }
    // The agent is gone: whoever waits is told so by the end of its channel.
    locked(waiting).clear();
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn lost(error: &dyn std::fmt::Display) -> Failure {
    Failure { why: Why::Other, text: format!("the agent does not answer: {error}"), elapsed_ms: 0 }
}
