//! Asks the loop to go on with another backend.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use crate::backend::Error;

/// The backend that served until now, or the one that could not be programmed and why.
pub(super) type Outcome<B> = Result<B, (B, Error)>;

/// A backend that wants to serve.
pub(super) struct Switch<B> {
    pub(super) backend: B,
    pub(super) done: oneshot::Sender<Outcome<B>>,
}

/// Asks the loop.
pub struct Switcher<B>(mpsc::Sender<Switch<B>>);

impl<B> fmt::Debug for Switcher<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switcher").finish_non_exhaustive()
    }
}

impl<B> Clone for Switcher<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> Switcher<B> {
    pub(super) fn new(ask: mpsc::Sender<Switch<B>>) -> Self {
        Self(ask)
    }

    /// Programs `backend` in full while the other one still serves, and gives back the other one,
    /// with all that it has put into the kernel. On an error that one goes on as if nothing had been,
    /// and `backend` comes back, perhaps half programmed. `None` when the loop has ended.
    pub async fn switch(&self, backend: B) -> Option<Outcome<B>> {
        let (done, outcome) = oneshot::channel();
        self.0.send(Switch { backend, done }).await.ok()?;
        outcome.await.ok()
    }
}
