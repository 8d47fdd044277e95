//! Events: what happened to pods and to the node, for people.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, Node, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::sync::mpsc;

/// Events that wait to be written; more are dropped.
const WAITING_MAX: usize = 1_000;
/// Different events that are counted together; then it begins anew.
const KNOWN_MAX: usize = 4_096;
const COMPONENT: &str = "hashplane-agent";

/// What happened.
#[derive(Clone, Debug)]
struct Report {
    about: ObjectReference,
    is_warning: bool,
    reason: &'static str,
    message: String,
}

/// Writes events in the background.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    send: mpsc::Sender<Report>,
}

impl Events {
    /// Starts to write.
    pub(crate) fn new(client: Client, node: String) -> Self {
        let (send, reports) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write(client, node, reports));
        Self { send }
    }

    fn report(
        &self,
        about: ObjectReference,
        is_warning: bool,
        reason: &'static str,
        message: String,
    ) {
        if self.send.try_send(Report { about, is_warning, reason, message }).is_err() {
            tracing::debug!(reason, "too many events: one is dropped");
        }
    }

    /// Something about a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Pod,
        container: Option<&str>,
        is_warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let is_init = |name: &str| {
            let inits = pod.spec.as_ref().and_then(|it| it.init_containers.as_ref());
            inits.into_iter().flatten().any(|it| it.name == name)
        };
        let path = container.map(|name| {
            let field = if is_init(name) { "initContainers" } else { "containers" };
            format!("spec.{field}{{{name}}}")
        });
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: path,
        };
        self.report(about, is_warning, reason, message.into());
    }

    /// Something about any object.
    pub(crate) fn about(
        &self,
        about: ObjectReference,
        is_warning: bool,
        reason: &'static str,
        message: String,
    ) {
        self.report(about, is_warning, reason, message);
    }

    /// Something about the node.
    pub(crate) fn node(
        &self,
        node: &Node,
        is_warning: bool,
        reason: &'static str,
        message: String,
    ) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.report(about, is_warning, reason, message);
    }
}

type Same = (String, String, String, &'static str, String);

async fn write(client: Client, node: String, mut reports: mpsc::Receiver<Report>) {
    let mut known: BTreeMap<Same, (String, i32)> = BTreeMap::new();
    while let Some(report) = reports.recv().await {
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let about = &report.about;
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".into());
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        let same = (
            namespace.clone(),
            text(&about.uid),
            text(&about.field_path),
            report.reason,
            report.message.clone(),
        );
        if known.len() > KNOWN_MAX {
            known.clear();
        }
        if let Some((name, count)) = known.get_mut(&same) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(Timestamp::now())});
            let done = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            if done.is_ok() {
                continue;
            }
        }
        let event = event(&report, &namespace, &node);
        let name = text(&event.metadata.name);
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => drop(known.insert(same, (name, 1))),
            Err(error) => {
                tracing::debug!(reason = report.reason, %error, "an event is not written");
            }
        }
    }
}

fn event(report: &Report, namespace: &str, node: &str) -> Event {
    let now = Timestamp::now();
    let about = report.about.name.as_deref().unwrap_or_default();
    let word = if report.is_warning { "Warning" } else { "Normal" };
    Event {
        metadata: ObjectMeta {
            // As client-go names them: by the object and the time.
            name: Some(format!("{about}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.into()),
            ..ObjectMeta::default()
        },
        involved_object: report.about.clone(),
        reason: Some(report.reason.into()),
        message: Some(report.message.clone()),
        type_: Some(word.into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.into()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}
