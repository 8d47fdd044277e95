//! Which services are in the maps, told when somebody asks.
//!
//! The list costs O(services), so the loop makes it for a reader and never for a change.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use crate::{
    backend::{Backend, CapacityError, ServicePort},
    model::PortKey,
};

/// Questions that wait; who asks then waits too.
pub(super) const QUESTIONS_MAX: usize = 16;

/// The service ports in the maps, and those which are not.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Those in the maps, by number.
    pub ports: Vec<ServicePort>,
    /// Those which found no room, and why.
    pub left_out: BTreeMap<PortKey, CapacityError>,
    /// Those that the backend serves with less than their Service asks for, and what is missing.
    pub limits: BTreeMap<PortKey, Vec<&'static str>>,
}

/// Somebody who waits for a listing.
#[derive(Debug)]
pub(super) struct Question(oneshot::Sender<Listing>);

impl Question {
    /// Tells what `backend` holds; nothing while the kernel has not been read.
    pub(super) fn answer(self, backend: &impl Backend) {
        let listing = Listing {
            ports: backend.services(),
            left_out: backend.left_out().clone(),
            limits: backend.limits().cloned().unwrap_or_default(),
        };
        // Who asked may have gone.
        let _gone = self.0.send(listing);
    }
}

/// Asks the loop.
#[derive(Clone, Debug)]
pub struct Services(mpsc::Sender<Question>);

impl Services {
    pub(super) fn new(ask: mpsc::Sender<Question>) -> Self {
        Self(ask)
    }

    /// What is in the maps now; `None` when the loop has ended.
    pub async fn list(&self) -> Option<Listing> {
        let (answer, listing) = oneshot::channel();
        self.0.send(Question(answer)).await.ok()?;
        listing.await.ok()
    }
}
