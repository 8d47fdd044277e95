//! Decides which of several servers acts: a Lease that one of them renews.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use super::Clock;
use crate::{
    api::status::{Failure, Reason},
    cache::kinds::LEASES,
    client::Client,
    object::{number, text},
};

/// Where the Lease is.
pub const NAMESPACE: &str = "kube-system";
/// Its name.
pub const NAME: &str = "hashplane-controllers";

/// Another server may act when the Lease has not changed for this long.
const LEASE: Duration = Duration::from_secs(15);
/// The holder stops by itself after this long without renewal. Writes end sooner than the rest.
const STOP: Duration = Duration::from_secs(9);
const RENEW: Duration = Duration::from_secs(2);

/// Whether this server may act.
#[derive(Clone)]
pub struct Leader {
    identity: Option<String>,
    clock: Clock,
    until: Arc<Mutex<Option<Instant>>>,
    changed: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Leader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leader").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// What was last seen of the Lease, and since when.
#[derive(Default)]
struct Seen {
    version: String,
    since: Option<Instant>,
}

impl Leader {
    /// The only server: it always acts.
    pub fn alone(clock: Clock) -> Self {
        let changed = Arc::new(watch::Sender::new(true));
        Self { identity: None, clock, until: Arc::default(), changed }
    }

    /// One of several.
    pub fn among(identity: String, clock: Clock) -> Self {
        let changed = Arc::new(watch::Sender::new(false));
        Self { identity: Some(identity), clock, until: Arc::default(), changed }
    }

    /// Whether we may write now.
    pub fn is_leading(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        self.identity.is_none() || until.is_some_and(|until| Instant::now() < until)
    }

    /// Waits until we may.
    pub async fn leading(&self) {
        let mut changed = self.changed.subscribe();
        while !self.is_leading() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Gets and renews the Lease, for ever.
    pub async fn run(self, client: Arc<dyn Client>) {
        let Some(identity) = self.identity.clone() else { return };
        let mut seen = Seen::default();
        loop {
            let begin = Instant::now();
            match self.attempt(&client, &identity, &mut seen).await {
                Ok(true) => {
                    *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(begin + STOP);
                    self.changed.send_replace(true);
                }
                Ok(false) => {
                    *self.until.lock().unwrap_or_else(PoisonError::into_inner) = None;
                }
                Err(failure) => tracing::debug!(?failure, "cannot renew the lease"),
            }
            tokio::time::sleep(RENEW).await;
        }
    }

    /// One try; whether the Lease is ours.
    async fn attempt(
        &self,
        client: &Arc<dyn Client>,
        identity: &str,
        seen: &mut Seen,
    ) -> Result<bool, Failure> {
        let lease = match client.get(LEASES, NAMESPACE, NAME).await {
            Ok(lease) => Some(lease),
            Err(failure) if failure.reason() == Reason::NotFound => None,
            Err(failure) => return Err(failure),
        };
        let version = lease
            .as_deref()
            .map(|lease| text(lease, &["metadata", "resourceVersion"]).to_owned())
            .unwrap_or_default();
        if seen.since.is_none() || seen.version != version {
            *seen = Seen { version, since: Some(Instant::now()) };
        }
        let is_stale = seen.since.is_some_and(|since| since.elapsed() >= LEASE);
        let Some(wish) = self.wish(lease.as_deref(), identity, is_stale) else { return Ok(false) };
        let answer = match lease {
            Some(_) => client.update(LEASES, wish).await,
            None => client.create(LEASES, wish).await,
        };
        match answer {
            Ok(_) => Ok(true),
            Err(failure)
                if matches!(failure.reason(), Reason::Conflict | Reason::AlreadyExists) =>
            {
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// The Lease as it should become, if it may become ours.
    fn wish(&self, lease: Option<&Value>, identity: &str, is_stale: bool) -> Option<Value> {
        let now = format!("{:.6}", (self.clock)());
        let holder = lease.map_or("", |lease| text(lease, &["spec", "holderIdentity"]));
        let is_ours = holder == identity;
        if !is_ours && !holder.is_empty() && !is_stale {
            return None;
        }
        let mut wish = lease.cloned().unwrap_or_else(|| {
            json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"namespace": NAMESPACE, "name": NAME},
            })
        });
        let turns = number(&wish, &["spec", "leaseTransitions"]).unwrap_or(0);
        let acquired =
            if is_ours { text(&wish, &["spec", "acquireTime"]).to_owned() } else { now.clone() };
        wish["spec"] = json!({
            "holderIdentity": identity,
            "leaseDurationSeconds": LEASE.as_secs(),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": if is_ours || lease.is_none() { turns } else { turns + 1 },
        });
        Some(wish)
    }
}
