//! Changes on their way to those who watch.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

use super::types::Event;

/// Events that wait for a watcher before it counts as too slow.
const EVENTS_MAX: usize = 16_384;

/// Changes, in order and each once. It ends when the store closes or the watcher is too slow, and
/// says which.
#[derive(Debug)]
pub struct Watch {
    /// What had happened already when the watch began.
    past: std::vec::IntoIter<Arc<Event>>,
    events: mpsc::Receiver<Arc<Event>>,
}

impl Watch {
    /// The next change; nothing when there will be none.
    pub async fn next(&mut self) -> Option<Arc<Event>> {
        match self.past.next() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    /// The next change if there is one already.
    pub fn ready(&mut self) -> Option<Arc<Event>> {
        self.past.next().or_else(|| self.events.try_recv().ok())
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
        Watch { past: past.into_iter(), events }
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
