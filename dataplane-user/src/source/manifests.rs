//! Objects from a directory of YAML files, read again whenever the directory changes.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task,
    time::{sleep, timeout},
};

use self::{
    scan::{DirectoryId, Scan, Scanner},
    tree::Tree,
};
use super::{Error, Health, ProblemScope, SourceCause, SourceEvent, SourceProblem};

mod read;
mod scan;
mod tree;

#[cfg(test)]
mod tests;

/// Quiet for this long, a writer is taken to have finished.
const QUIET: Duration = Duration::from_millis(50);

/// Under steady writing the files are read this often.
const QUIET_WAIT_MAX: Duration = Duration::from_millis(500);

/// The kernel does not tell when the path leads to another directory; so we look.
const DIRECTORY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A directory of YAML files.
#[derive(Debug)]
pub struct ManifestSource {
    directory: PathBuf,
    watch: DirectoryWatch,
    health: watch::Sender<Health>,
}

impl ManifestSource {
    /// Begins to watch `directory`, which has to be there.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let name = || directory.display().to_string().into();
        let unusable = |cause| Error::Directory { directory: name(), cause };
        std::fs::read_dir(directory).map_err(unusable)?;
        let watch = match DirectoryWatch::new(directory) {
            Ok(watch) => watch,
            Err(WatchError::Directory(cause)) => return Err(unusable(cause)),
            Err(WatchError::Notify(cause)) => {
                return Err(Error::Watch { directory: name(), cause });
            }
        };
        Ok(Self { directory: directory.into(), watch, health: watch::Sender::new(Health::UNKNOWN) })
    }

    /// Whether the directory can be read.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// See [`super::Source::run`].
    pub async fn run(self, events: mpsc::Sender<SourceEvent>) {
        let mut state = State::default();
        let Self { directory, mut watch, health } = self;
        loop {
            let (next, told) = scan(state, directory.clone()).await;
            state = next;
            health.send_modify(|health| {
                health.connected = state.is_readable;
                health.last_event = state.is_readable.then(Instant::now).or(health.last_event);
            });
            for event in told {
                if events.send(event).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                () = watch.change(&directory, state.is_readable) => {}
                () = events.closed() => return,
            }
        }
    }
}

/// Everything a scan starts from.
#[derive(Debug, Default)]
struct State {
    scanner: Scanner,
    tree: Tree,
    source_problem: Option<SourceProblem>,
    is_readable: bool,
}

impl State {
    fn scan(&mut self, directory: &Path) -> Vec<SourceEvent> {
        let (cause, mut events) = match self.scanner.scan(directory) {
            Ok(Scan { contents, surplus }) => {
                self.is_readable = true;
                (surplus, self.tree.update(contents))
            }
            Err(error) => {
                self.is_readable = false;
                (Some(SourceCause::Unreadable(error.to_string().into())), Vec::new())
            }
        };
        let problem = cause.map(|cause| SourceProblem {
            file: Some(directory.display().to_string().into()),
            document: None,
            object: None,
            cause,
        });
        if problem != self.source_problem {
            let list = problem.iter().cloned().collect();
            events.insert(0, SourceEvent::Problems { scope: ProblemScope::Source, list });
            self.source_problem = problem;
        }
        events
    }
}

/// Parsing takes long at size, so it happens outside of the runtime's threads.
async fn scan(mut state: State, directory: PathBuf) -> (State, Vec<SourceEvent>) {
    let work = task::spawn_blocking(move || {
        let events = state.scan(&directory);
        (state, events)
    });
    work.await.expect("a scan does not panic and nobody aborts it")
}

/// Tells when something in the directory may have changed.
#[derive(Debug)]
struct DirectoryWatch {
    id: DirectoryId,
    signal: Arc<Signal>,
    /// Ends the watch when dropped.
    _watcher: RecommendedWatcher,
}

/// What the watching thread says.
#[derive(Debug, Default)]
struct Signal {
    changed: Notify,
    /// The watched directory was moved or removed. A new one at the path may have its inode.
    is_lost: AtomicBool,
}

enum WatchError {
    Directory(io::Error),
    Notify(notify::Error),
}

impl DirectoryWatch {
    fn new(directory: &Path) -> Result<Self, WatchError> {
        let signal = Arc::new(Signal::default());
        let (sender, path) = (Arc::clone(&signal), directory.to_owned());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.as_ref().is_ok_and(|event| is_loss(event, &path)) {
                sender.is_lost.store(true, Ordering::Release);
            }
            // An error is taken for a change: it may hide one.
            if event.map_or(true, |event| is_change(event.kind)) {
                sender.changed.notify_one();
            }
        });
        let mut watcher = watcher.map_err(WatchError::Notify)?;
        let id = DirectoryId::of(directory).map_err(WatchError::Directory)?;
        watcher.watch(directory, RecursiveMode::NonRecursive).map_err(WatchError::Notify)?;
        Ok(Self { id, signal, _watcher: watcher })
    }

    /// Waits until the directory should be read again.
    async fn change(&mut self, directory: &Path, was_readable: bool) {
        loop {
            let changed = timeout(DIRECTORY_CHECK_INTERVAL, self.signal.changed.notified()).await;
            if was_readable && !self.is_elsewhere(directory) {
                match changed {
                    Ok(()) => break,
                    Err(_) => continue,
                }
            }
            match Self::new(directory) {
                Ok(watch) => *self = watch,
                Err(_) if was_readable => {}
                Err(_) => continue,
            }
            return;
        }
        let quiet = async { while timeout(QUIET, self.signal.changed.notified()).await.is_ok() {} };
        tokio::select! {
            () = quiet => {}
            () = sleep(QUIET_WAIT_MAX) => {}
        }
    }

    /// Whether the path leads to another directory than the watched one, or nowhere.
    fn is_elsewhere(&self, directory: &Path) -> bool {
        let is_lost = self.signal.is_lost.load(Ordering::Acquire);
        is_lost || DirectoryId::of(directory).ok() != Some(self.id)
    }
}

/// Whether the watched directory itself went away.
fn is_loss(event: &notify::Event, directory: &Path) -> bool {
    let is_away =
        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
    is_away && event.paths.iter().any(|path| path == directory)
}

/// Our own reading is told as well and must not wake us. Neither does a write: half of a file may
/// be valid YAML with half of the objects, so it is read when the writer closes it.
fn is_change(kind: EventKind) -> bool {
    let is_closed = matches!(kind, EventKind::Access(AccessKind::Close(AccessMode::Write)));
    let is_noise = matches!(kind, EventKind::Access(_) | EventKind::Modify(ModifyKind::Data(_)));
    is_closed || !is_noise
}
