//! Work inside a namespace, and waiting for what takes a moment.

use std::{
    fs::File,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread inside a network namespace.
pub fn within<T: Send>(
    netns: &str,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let path = Path::new("/run/netns").join(netns);
    let namespace = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    let entered = || {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter the network namespace {netns}"))?;
        work()
    };
    let ended = thread::scope(|scope| scope.spawn(entered).join());
    ended.map_err(|_panic| anyhow!("the thread in {netns} has panicked"))?
}

/// Tries `attempt` until it succeeds, for at most `limit`; then its last error is the answer.
pub fn eventually<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if begun.elapsed() > limit => {
                return Err(error.context(format!("still so after {limit:?}")));
            }
            Err(_not_yet) => thread::sleep(Duration::from_millis(10)),
        }
    }
}
