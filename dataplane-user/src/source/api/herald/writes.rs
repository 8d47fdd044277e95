//! The writes themselves, and what they were allowed to do.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{ObjectReference, Service},
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{Condition, MicroTime, ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource as _,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::{
    model::ObjectName,
    source::verdict::{CONDITION, Complaint, Verdict, Warning, correction},
};

/// Who writes, in `managedFields` and in Events.
const CONTROLLER: &str = "hashplane";
/// After a refusal the server is left alone for so long.
const FORBIDDEN_PAUSE: Duration = Duration::from_mins(10);
/// For everything about one Service.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Events whose number of occurrences is known; beyond, counting begins anew.
const COUNTED_MAX: usize = 1024;

/// What became of one Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its condition says what it should, or it is gone.
    NothingToDo,
    /// Something was written, or nothing may be.
    Written,
    /// The server did not take it.
    Failed,
}

/// A kind of write that the server may refuse.
#[derive(Debug)]
struct Permission {
    what: &'static str,
    until: Option<Instant>,
    is_said: bool,
}

impl Permission {
    const fn new(what: &'static str) -> Self {
        Self { what, until: None, is_said: false }
    }

    fn is_given(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    fn refused(&mut self, error: &kube::Error) {
        self.until = Some(Instant::now() + FORBIDDEN_PAUSE);
        if !self.is_said {
            tracing::warn!("may not write {} of Services, going on without: {error}", self.what);
            self.is_said = true;
        }
    }
}

pub(super) struct Writes {
    client: Client,
    node_name: String,
    conditions: Permission,
    events: Permission,
    /// How often an Event was seen, by its name.
    counted: BTreeMap<String, i32>,
    /// A failure was logged and no success came since.
    is_failing: bool,
}

impl Writes {
    pub(super) fn new(client: Client, node_name: &str) -> Self {
        Self {
            client,
            node_name: node_name.to_owned(),
            conditions: Permission::new("conditions"),
            events: Permission::new("Events"),
            counted: BTreeMap::new(),
            is_failing: false,
        }
    }

    pub(super) fn may_write_conditions(&self) -> bool {
        self.conditions.is_given()
    }

    /// Looks at the Service as it is now, and corrects its condition.
    pub(super) async fn correct(
        &mut self,
        name: &ObjectName,
        wanted: Option<&Complaint>,
    ) -> Outcome {
        let result = timeout(TIMEOUT, self.try_correct(name, wanted)).await;
        let why = match result {
            Ok(Ok(outcome)) => {
                self.is_failing = false;
                return outcome;
            }
            Ok(Err(error)) => error.to_string(),
            Err(elapsed) => elapsed.to_string(),
        };
        if !std::mem::replace(&mut self.is_failing, true) {
            let ObjectName { namespace, name } = name;
            tracing::warn!("cannot report on Service {namespace}/{name}: {why}; trying on");
        }
        Outcome::Failed
    }

    async fn try_correct(
        &mut self,
        name: &ObjectName,
        wanted: Option<&Complaint>,
    ) -> Result<Outcome, kube::Error> {
        let services: Api<Service> = Api::namespaced(self.client.clone(), &name.namespace);
        let Some(service) = services.get_opt(&name.name).await? else {
            return Ok(Outcome::NothingToDo);
        };
        let Some(verdict) = correction(wanted, Verdict::seen(&service).as_ref()) else {
            return Ok(Outcome::NothingToDo);
        };
        if self.conditions.is_given() {
            match write_condition(&services, name, &service, &verdict).await {
                Err(kube::Error::Api(status)) if status.code == 403 => {
                    self.conditions.refused(&kube::Error::Api(status));
                }
                result => result?,
            }
        }
        for warning in wanted.iter().flat_map(|complaint| &complaint.warnings) {
            self.warn(&service, warning).await?;
        }
        Ok(Outcome::Written)
    }

    async fn warn(&mut self, service: &Service, warning: &Warning) -> Result<(), kube::Error> {
        if !self.events.is_given() {
            return Ok(());
        }
        match self.count(service, warning).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {
                self.events.refused(&kube::Error::Api(status));
                Ok(())
            }
            result => result,
        }
    }

    /// Makes the Event, or counts it once more. The same problem has the same Event on every node.
    async fn count(&mut self, service: &Service, warning: &Warning) -> Result<(), kube::Error> {
        let event = event(service, warning, &self.node_name);
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = event.metadata.namespace.clone().unwrap_or_default();
        let events: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if self.counted.len() >= COUNTED_MAX {
            self.counted.clear();
        }
        let mut count = self.counted.get(&name).copied().unwrap_or(0).saturating_add(1);
        if count == 1 {
            match events.create(&PostParams::default(), &event).await {
                Err(kube::Error::Api(status)) if status.code == 409 => count = 2,
                result => {
                    result?;
                    self.counted.insert(name, 1);
                    return Ok(());
                }
            }
        }
        let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
        let patch = Patch::Merge(json!({ "series": series }));
        match events.patch(&name, &PatchParams::default(), &patch).await {
            // The server keeps Events for an hour or so.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                events.create(&PostParams::default(), &event).await?;
                count = 1;
            }
            result => drop(result?),
        }
        self.counted.insert(name, count);
        Ok(())
    }
}

/// Server-side apply: other conditions, and whoever writes them, are left alone.
async fn write_condition(
    services: &Api<Service>,
    name: &ObjectName,
    service: &Service,
    verdict: &Verdict,
) -> Result<(), kube::Error> {
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let before = { conditions }.find(|condition| condition.type_ == CONDITION);
    let status = if verdict.is_good { "True" } else { "False" };
    let same = before.filter(|before| before.status == status);
    let condition = Condition {
        type_: CONDITION.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.clone(),
        message: verdict.message.clone(),
        observed_generation: service.metadata.generation,
        last_transition_time: same
            .map_or_else(|| Time(Timestamp::now()), |same| same.last_transition_time.clone()),
    };
    let patch = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": &*name.name, "namespace": &*name.namespace },
        "status": { "conditions": [condition] },
    });
    let parameters = PatchParams::apply(CONTROLLER).force();
    services.patch_status(&name.name, &parameters, &Patch::Apply(patch)).await.map(drop)
}

fn event(service: &Service, warning: &Warning, node_name: &str) -> Event {
    let regarding: ObjectReference = service.object_ref(&());
    let mut hasher = DefaultHasher::new();
    (&regarding.uid, &warning.reason, &warning.note).hash(&mut hasher);
    let of = regarding.name.as_deref().unwrap_or_default();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{of}.{:016x}", hasher.finish())),
            namespace: regarding.namespace.clone(),
            ..ObjectMeta::default()
        },
        action: Some("Program".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        note: Some(warning.note.clone()),
        reason: Some(warning.reason.clone()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}
