//! Changes on their way to those who watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use super::types::Event;

/// Events that wait for a watcher before it counts as too slow.
const EVENTS_MAX: usize = 16_384;

/// What is told instead of a change, if anything.
pub(super) type Through = Arc<dyn Fn(&Event) -> Option<Arc<Event>> + Send + Sync>;

/// Changes, in order and each once. It ends when the store closes or the watcher is too slow, and
/// says which.
pub struct Watch {
    /// What had happened already when the watch began.
    past: std::vec::IntoIter<Arc<Event>>,
    events: mpsc::Receiver<Arc<Event>>,
    through: Option<Through>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Watch {
    /// The same watch, with every change put through a function.
    pub(super) fn through(mut self, through: Through) -> Self {
        self.through = Some(through);
        self
    }

    /// What is told of a change.
    fn told(&self, event: Arc<Event>) -> Option<Arc<Event>> {
        match &self.through {
            Some(through) => through(&event),
            None => Some(event),
        }
    }

    /// The next change; nothing when there will be none.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.past.next() {
                Some(event) => event,
                None => self.events.recv().await?,
            };
            if let Some(event) = self.told(event) {
                return Some(event);
            }
        }
    }

    /// The next change if there is one already.
    pub fn ready(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = self.past.next().or_else(|| self.events.try_recv().ok())?;
            if let Some(event) = self.told(event) {
                return Some(event);
            }
        }
    }
}

/// Everybody who watches, by the prefix that they watch.
#[derive(Debug, Default)]
pub(super) struct Watchers(Mutex<HashMap<String, Vec<mpsc::Sender<Arc<Event>>>>>);

impl Watchers {
    /// A watcher who knows of `past` and gets whatever is told from now on.
    pub(super) fn add(&self, prefix: &str, past: Vec<Arc<Event>>) -> Watch {
        let (send, events) = mpsc::channel(EVENTS_MAX);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(prefix.to_owned()).or_default().push(send);
        Watch { past: past.into_iter(), events, through: None }
    }

    /// Tells everybody whom it concerns. Who does not listen fast enough is let go: a watch with a
    /// gap would be a lie, and an ended one begins again where it stopped.
    pub(super) fn tell(&self, events: &[Arc<Event>]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|prefix, watchers| {
            for event in events.iter().filter(|event| event.key().starts_with(prefix.as_str())) {
                watchers.retain(|watcher| watcher.try_send(event.clone()).is_ok());
            }
            watchers.retain(|watcher| !watcher.is_closed());
            !watchers.is_empty()
        });
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
