//! Follows a kind: lists it, watches it from there, and lists again when the watch ends.

use std::{sync::Arc, time::Duration};

use tokio::sync::mpsc;
use tracing::debug;

use crate::client::{Change, Client, Kind, Objects};

/// What following a kind tells.
#[derive(Debug)]
pub enum Told {
    /// All there is.
    Listed(Kind, Objects),
    /// One change.
    Changed(Kind, Change),
}

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Follows a kind until nobody listens.
pub async fn follow(client: Arc<dyn Client>, kind: Kind, tell: mpsc::Sender<Told>) {
    let mut pause = PAUSE_MIN;
    loop {
        match once(&client, kind, &tell).await {
            Ok(true) => pause = PAUSE_MIN,
            Ok(false) => pause = (pause * 2).min(PAUSE_MAX),
            Err(Closed) => return,
        }
        tokio::time::sleep(pause).await;
    }
}

/// Nobody listens any more.
struct Closed;

/// One list and one watch; whether they told anything.
async fn once(
    client: &Arc<dyn Client>,
    kind: Kind,
    tell: &mpsc::Sender<Told>,
) -> Result<bool, Closed> {
    let objects = match client.list(kind, "").await {
        Ok(objects) => objects,
        Err(failure) => {
            debug!(?kind, ?failure, "cannot list");
            return Ok(false);
        }
    };
    let revision = objects.revision;
    tell.send(Told::Listed(kind, objects)).await.map_err(|_closed| Closed)?;
    let mut changes = match client.watch(kind, revision).await {
        Ok(changes) => changes,
        Err(failure) => {
            debug!(?kind, ?failure, "cannot watch");
            return Ok(false);
        }
    };
    let mut told = false;
    while let Some(change) = changes.recv().await {
        told = true;
        tell.send(Told::Changed(kind, change)).await.map_err(|_closed| Closed)?;
    }
    Ok(told)
}
