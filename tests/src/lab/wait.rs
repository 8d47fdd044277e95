//! Work inside a namespace, and waiting for what takes a moment.

use std::{
    fs::File,
    path::Path,
    sync::LazyLock,
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

/// How many times longer everything may take than on a machine of its own, from
/// `HASHPLANE_TEST_SLOWNESS`: an emulated processor needs that.
static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
    let said = std::env::var("HASHPLANE_TEST_SLOWNESS").ok();
    said.and_then(|said| said.parse().ok()).unwrap_or(1).max(1)
});

/// `limit` on this machine.
pub fn slowed(limit: Duration) -> Duration {
    limit * *SLOWNESS
}

/// [`slowed`] for milliseconds.
pub fn slowed_ms(limit_ms: u64) -> u64 {
    limit_ms * u64::from(*SLOWNESS)
}

/// Tries `attempt` until it succeeds, for at most `limit` (see [`slowed`]); then its last error is
/// the answer.
pub fn eventually<T>(
    limit: Duration,
    mut attempt: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begun = Instant::now();
    // On a slow machine those who ask keep those who answer from their work.
    let (limit, pause) = (slowed(limit), slowed(Duration::from_millis(10)));
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if begun.elapsed() > limit => {
                return Err(error.context(format!("still so after {limit:?}")));
            }
            Err(_not_yet) => thread::sleep(pause),
        }
    }
}
