//! The registry as the server's own parts use it.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

use super::{Delete, Part, Registry, Scope, encoded};
use crate::{
    api::status::{Failure, Reason},
    client::{Answer, Change, Client, Deletion, Kind, Objects},
    object,
    resource::{self, Resource},
    store::{Event, Revision},
};

/// Changes that wait for a part of the server.
const WAITING_MAX: usize = 1_024;

fn known(kind: Kind) -> Result<&'static Resource, Failure> {
    let words = || format!("there is no resource {}.{}", kind.plural, kind.group);
    resource::by_id(kind).ok_or_else(|| Failure::new(Reason::NotFound, words()))
}

fn change_of(event: &Event) -> Option<Change> {
    match (&event.after, &event.before) {
        (Some(after), _) => Some(Change::Put(Arc::new(encoded::decoded(after)))),
        (None, Some(before)) => {
            Some(Change::Gone(Arc::new(encoded::decode(&before.value, event.revision))))
        }
        (None, None) => None,
    }
}

impl Client for Registry {
    fn get<'a>(&'a self, kind: Kind, namespace: &'a str, name: &'a str) -> Answer<'a, Arc<Value>> {
        Box::pin(async move {
            let scope = Scope::new(known(kind)?, namespace);
            Ok(Arc::new(Registry::get(self, &scope, name).await?))
        })
    }

    fn list<'a>(&'a self, kind: Kind, namespace: &'a str) -> Answer<'a, Objects> {
        Box::pin(async move {
            let scope = Scope::new(known(kind)?, namespace);
            let listing = Registry::list(self, &scope, None, 0, None).await?;
            let items = listing.entries.iter().map(|entry| Arc::new(encoded::decoded(entry)));
            Ok(Objects { items: items.collect(), revision: listing.revision })
        })
    }

    fn watch(&self, kind: Kind, after: Revision) -> Answer<'_, mpsc::Receiver<Change>> {
        Box::pin(async move {
            let scope = Scope::new(known(kind)?, "");
            let mut watch = Registry::watch(self, &scope, after).await?;
            let (send, changes) = mpsc::channel(WAITING_MAX);
            tokio::spawn(async move {
                loop {
                    let event = tokio::select! {
                        event = watch.next() => event,
                        () = send.closed() => None,
                    };
                    let Some(event) = event else { break };
                    if let Some(change) = change_of(&event)
                        && send.send(change).await.is_err()
                    {
                        break;
                    }
                }
            });
            Ok(changes)
        })
    }

    fn create(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(async move {
            let namespace = object::namespace(&object).to_owned();
            let scope = Scope::new(known(kind)?, &namespace);
            Ok(Arc::new(Registry::create(self, &scope, object, true).await?))
        })
    }

    fn update(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(self.put(kind, object, Part::Object))
    }

    fn update_status(&self, kind: Kind, object: Value) -> Answer<'_, Arc<Value>> {
        Box::pin(self.put(kind, object, Part::Status))
    }

    fn create_part<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        part: &'a str,
        body: Value,
    ) -> Answer<'a, Arc<Value>> {
        Box::pin(async move {
            let scope = Scope::new(known(kind)?, namespace);
            Ok(Arc::new(self.create_at(&scope, name, part, body).await?))
        })
    }

    fn delete<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
        deletion: Deletion,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let Deletion { uid, version, grace_s, propagation } = deletion;
            let how = Delete { uid, version, grace_s, propagation: Some(propagation) };
            let scope = Scope::new(known(kind)?, namespace);
            Registry::delete(self, &scope, name, &how).await.map(drop)
        })
    }
}

impl Registry {
    async fn put(&self, kind: Kind, object: Value, part: Part) -> Result<Arc<Value>, Failure> {
        let namespace = object::namespace(&object).to_owned();
        let name = object::name(&object).to_owned();
        let scope = Scope::new(known(kind)?, &namespace);
        let changed = self.change(&scope, &name, part, &|_| Ok(object.clone())).await?;
        Ok(Arc::new(changed))
    }
}
