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
    services: State,
    slices: State,
    pods: State,
    nodes: State,
    is_synced: bool,
}

/// One kind.
#[derive(Debug, Default)]
struct State {
    is_connected: bool,
    is_listed: bool,
    /// Why it is not connected.
    failure: Option<Box<str>>,
}

impl States {
    fn of(&mut self, kind: Kind) -> &mut State {
        match kind {
            Kind::Service => &mut self.services,
            Kind::EndpointSlice => &mut self.slices,
            Kind::Pod => &mut self.pods,
            Kind::Node => &mut self.nodes,
        }
    }

    fn is_connected(&self) -> bool {
        self.services.is_connected && self.slices.is_connected
    }

    fn problems(&self) -> Vec<SourceProblem> {
        let failures = [&self.services.failure, &self.slices.failure];
        let problem = |failure| SourceProblem {
            file: None,
            document: None,
            object: None,
            cause: SourceCause::Server(failure),
        };
        failures.into_iter().flatten().cloned().map(problem).collect()
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
            tracing::info!(server = %self.server, "reading every {}", kind.name());
        }
        (state.is_connected, state.failure) = (true, None);
        self.publish(&states, true);
    }

    /// Something came.
    pub(super) fn heard(&self) {
        self.health.send_modify(|health| health.last_event = Some(Instant::now()));
    }

    /// A list or a watch failed and will be tried again.
    pub(super) fn failed(&self, kind: Kind, error: &dyn Error) {
        let mut states = self.states();
        let state = states.of(kind);
        let failure = sentence(kind, &self.server, error);
        // Retries are silent: one line when it begins, one when it ends.
        if state.is_connected || state.failure.is_none() {
            tracing::warn!("{failure}; trying on");
        }
        (state.is_connected, state.failure) = (false, Some(failure));
        self.publish(&states, false);
    }

    /// All objects of this kind were told. `true` once: when that makes everything told.
    pub(super) fn listed(&self, kind: Kind) -> bool {
        let mut states = self.states();
        states.of(kind).is_listed = true;
        let is_complete = states.services.is_listed && states.slices.is_listed;
        is_complete && !std::mem::replace(&mut states.is_synced, true)
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
    let mut text = format!("cannot read every {} from {server}: {error}", kind.name());
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
