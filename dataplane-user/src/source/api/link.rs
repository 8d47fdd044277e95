//! How reading from the API server goes, for each kind of object.

use std::{
    error::Error,
    fmt::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::{Notify, mpsc, watch};

use crate::{
    model::Kind,
    source::{Health, ProblemScope, SourceCause, SourceEvent, SourceProblem},
};

/// The state of the connection, shared by everything that reads from it.
#[derive(Debug)]
pub(super) struct Link {
    server: Box<str>,
    health: watch::Sender<Health>,
    states: Mutex<States>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct States {
    /// By kind, in the order of [`Kind::ALL`].
    kinds: [State; Kind::ALL.len()],
    is_synced: bool,
}

/// One kind.
#[derive(Debug, Default)]
struct State {
    is_connected: bool,
    is_listed: bool,
    /// We may not read it, and go on without.
    is_done_without: bool,
    /// Why it is not connected.
    failure: Option<Box<str>>,
}

impl States {
    fn of(&mut self, kind: Kind) -> &mut State {
        &mut self.kinds[kind as usize]
    }

    fn is_connected(&self) -> bool {
        self.kinds.iter().all(|state| state.is_connected || state.is_done_without)
    }

    fn is_complete(&self) -> bool {
        self.kinds.iter().all(|state| state.is_listed || state.is_done_without)
    }

    fn problems(&self) -> Vec<SourceProblem> {
        let failures = self.kinds.iter().filter_map(|state| state.failure.clone());
        let problem = |failure| SourceProblem {
            file: None,
            document: None,
            object: None,
            cause: SourceCause::Server(failure),
        };
        failures.map(problem).collect()
    }
}

/// Whether Services can be served without objects of this kind: without Pods there are no host
/// ports, without the Node no zone, and nobody says when the node leaves.
const fn is_optional(kind: Kind) -> bool {
    match kind {
        Kind::Service | Kind::EndpointSlice => false,
        Kind::Pod | Kind::Node => true,
    }
}

/// What is read of a kind.
const fn whole(kind: Kind) -> &'static str {
    match kind {
        Kind::Service => "every Service",
        Kind::EndpointSlice => "every EndpointSlice",
        Kind::Pod => "the Pods of this node",
        Kind::Node => "the Node object of this node",
    }
}

impl Link {
    pub(super) fn new(server: Box<str>) -> Self {
        let health = watch::Sender::new(Health::UNKNOWN);
        Self { server, health, states: Mutex::default(), changed: Notify::new() }
    }

    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// The server accepted a list or a watch.
    pub(super) fn answered(&self, kind: Kind) {
        let mut states = self.states();
        let state = states.of(kind);
        if !state.is_connected {
            tracing::info!(server = %self.server, "reading {}", whole(kind));
        }
        (state.is_connected, state.is_done_without, state.failure) = (true, false, None);
        self.publish(&states, true);
    }

    /// Something came.
    pub(super) fn heard(&self) {
        self.health.send_modify(|health| health.last_event = Some(Instant::now()));
    }

    /// A list or a watch failed and will be tried again. A kind that we may not read must not keep
    /// the others from being served, if they can be.
    pub(super) fn failed(&self, kind: Kind, error: &dyn Error, is_forbidden: bool) {
        let mut states = self.states();
        let state = states.of(kind);
        let failure = sentence(kind, &self.server, error);
        // Retries are silent: one line when it begins, one when it ends.
        if state.is_connected || state.failure.is_none() {
            let go_on =
                if is_forbidden && is_optional(kind) { "going on without" } else { "trying on" };
            tracing::warn!("{failure}; {go_on}");
        }
        (state.is_connected, state.failure) = (false, Some(failure));
        state.is_done_without |= is_forbidden && is_optional(kind);
        self.publish(&states, false);
    }

    /// All objects of this kind were told.
    pub(super) fn listed(&self, kind: Kind) {
        self.states().of(kind).is_listed = true;
    }

    /// `true` once: when everything was told that can be.
    pub(super) fn is_complete_now(&self) -> bool {
        let mut states = self.states();
        states.is_complete() && !std::mem::replace(&mut states.is_synced, true)
    }

    /// Tells the problems whenever they change, until nobody takes them.
    pub(super) async fn tell_problems(&self, events: &mpsc::Sender<SourceEvent>) {
        let mut told = Vec::new();
        loop {
            let list = self.states().problems();
            if list != told {
                told.clone_from(&list);
                let event = SourceEvent::Problems { scope: ProblemScope::Source, list };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            self.changed.notified().await;
        }
    }

    fn publish(&self, states: &States, is_answer: bool) {
        let connected = states.is_connected();
        self.health.send_modify(|health| {
            health.connected = connected;
            health.last_event = is_answer.then(Instant::now).or(health.last_event);
        });
        self.changed.notify_one();
    }

    fn states(&self) -> MutexGuard<'_, States> {
        // Nothing is left half done while it is locked.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What failed, down to the cause; the outer errors alone say only that something did.
fn sentence(kind: Kind, server: &str, error: &dyn Error) -> Box<str> {
    let mut text = format!("cannot read {} from {server}: {error}", whole(kind));
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Many errors repeat their cause.
        if !text.contains(&reason) {
            let _ = write!(text, ": {reason}");
        }
        cause = error.source();
    }
    text.into()
}
