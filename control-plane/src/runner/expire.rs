//! Ends Events an hour after they last happened.

use std::{sync::Arc, time::Duration};

use super::World;
use crate::{
    cache::kinds::EVENTS,
    client::Deletion,
    controllers::facts::{created, later, moment},
    object,
};

/// How long an Event is kept after it last happened.
const KEPT_S: i64 = 3600;
/// Events may be kept longer by this: they are too many to follow each.
const ROUND: Duration = Duration::from_mins(10);

/// Deletes what has expired, for ever.
pub async fn run(world: Arc<World>) {
    loop {
        tokio::time::sleep(ROUND).await;
        if world.leader.is_leading() {
            once(&world).await;
        }
    }
}

async fn once(world: &World) {
    let events = match world.client.list(EVENTS, "").await {
        Ok(events) => events,
        Err(failure) => {
            tracing::debug!(?failure, "cannot list events");
            return;
        }
    };
    let now = (world.clock)();
    for event in &events.items {
        let last = [&["lastTimestamp"][..], &["eventTime"], &["series", "lastObservedTime"]];
        let last = last.iter().filter_map(|path| moment(event, path)).max();
        if later(last.unwrap_or_else(|| created(event)), KEPT_S) > now {
            continue;
        }
        let (namespace, name) = (object::namespace(event), object::name(event));
        let uid = Some(object::uid(event).to_owned());
        let deletion = Deletion { uid, ..Deletion::default() };
        if let Err(failure) = world.client.delete(EVENTS, namespace, name, deletion).await {
            tracing::debug!(?failure, name, "cannot delete an event");
        }
    }
}
