//! From the source into the table: applies events, and keeps the report's problems true.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use dataplane_common::{Live, Peer, PeerKey, names};
use tokio::sync::{mpsc, watch};

use super::{Report, Settings, Shared, settings};
use crate::{
    ebpf::{
        Desired,
        maps::{KernelMaps, MapWriter as _},
        program::Departed,
        sockets::{SocketError, destroy_udp},
    },
    model::{
        HealthCheck, Kind, NodeIdentity, ObjectEvent, PortKey, PortState, Protocol, ServiceTable,
    },
    source::{
        self, Health, KubeSource, ManifestSource, ProblemScope, Source, SourceEvent, SourceProblem,
    },
    sync::Table,
};

/// Events that wait for the loop.
const EVENTS_MAX: usize = 1024;

/// The cluster autoscaler's mark on a node that it is about to delete.
const TAINT_TO_BE_DELETED: &str = "ToBeDeletedByClusterAutoscaler";

/// What reaches the table.
#[derive(Clone, Debug)]
pub enum Event {
    /// The source said something.
    Source(SourceEvent),
    /// The node has these addresses now.
    Addresses(BTreeSet<IpAddr>),
}

/// The table, and what is wrong with what it was fed.
#[derive(Debug)]
pub struct Fed {
    table: ServiceTable,
    unread: BTreeMap<ProblemScope, Vec<SourceProblem>>,
    /// Whether the last report named any problem.
    troubled: bool,
    shared: Shared,
    checks: watch::Sender<Vec<HealthCheck>>,
    /// [`ServiceTable::health_version`] of what `checks` holds.
    checks_version: Option<u64>,
}

impl Fed {
    /// An empty table for this node.
    pub fn new(settings: &Settings, shared: Shared) -> Self {
        let mut identity = NodeIdentity::new(&settings.node_name, []);
        identity.node_ports = settings.node_ports.clone();
        identity.zone = settings.zone.as_deref().map(Into::into);
        Self {
            table: ServiceTable::new(identity),
            unread: BTreeMap::new(),
            troubled: false,
            shared,
            checks: watch::Sender::new(Vec::new()),
            checks_version: None,
        }
    }

    /// What load balancers may ask about; nothing before the source has told everything.
    pub fn health_checks(&self) -> watch::Receiver<Vec<HealthCheck>> {
        self.checks.subscribe()
    }

    fn tell_health_checks(&mut self) {
        let version = Some(self.table.health_version());
        if !self.table.is_synced() || self.checks_version == version {
            return;
        }
        self.checks_version = version;
        let checks = self.table.health_checks();
        self.checks.send_if_modified(|told| {
            let changed = *told != checks;
            *told = checks;
            changed
        });
    }

    /// Looks whether the event says that this node is about to be deleted, or that it is not.
    fn look_at_node(&self, event: &ObjectEvent) {
        let ours = &self.table.node().name;
        let leaves = match event {
            ObjectEvent::Node { object, .. }
                if object.metadata.name.as_deref() == Some(&**ours) =>
            {
                is_leaving(object)
            }
            ObjectEvent::Gone(object) if object.kind == Kind::Node && object.name.name == *ours => {
                false
            }
            ObjectEvent::Node { .. }
            | ObjectEvent::Gone(_)
            | ObjectEvent::Service { .. }
            | ObjectEvent::EndpointSlice { .. }
            | ObjectEvent::Pod { .. }
            | ObjectEvent::ListBegin(_)
            | ObjectEvent::ListEnd(_)
            | ObjectEvent::Synced => return,
        };
        self.shared.update(|report| {
            if report.node_leaves != leaves {
                tracing::info!(leaves, "whether this node is about to be deleted has changed");
            }
            report.node_leaves = leaves;
        });
    }

    fn report_problems(&mut self) {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for (name, count) in self.table.problem_counts() {
            *counts.entry(name.to_owned()).or_default() += count as u64;
        }
        for problem in self.unread.values().flatten() {
            *counts.entry(problem.cause.name().to_owned()).or_default() += 1;
        }
        self.troubled = !counts.is_empty();
        self.shared.update(|report: &mut Report| report.problems = counts);
    }
}

impl Desired for Fed {
    fn keys(&self) -> impl Iterator<Item = PortKey> {
        self.table.keys().into_iter()
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.table.port(key)
    }
}

impl Table for Fed {
    type Event = Event;

    fn apply(&mut self, event: Event) {
        match event {
            Event::Addresses(addresses) => self.table.set_addresses(addresses),
            Event::Source(SourceEvent::Objects(objects)) => {
                let mut news = false;
                for object in objects {
                    self.look_at_node(&object);
                    for problem in self.table.apply(object) {
                        news = true;
                        tracing::warn!("{problem}");
                    }
                }
                // Counting costs O(problems and slices): only when there may be something to count.
                if news || self.troubled {
                    self.report_problems();
                }
            }
            Event::Source(SourceEvent::Problems { scope, list }) => {
                for problem in &list {
                    tracing::warn!("{problem}");
                }
                if list.is_empty() {
                    self.unread.remove(&scope);
                } else {
                    self.unread.insert(scope, list);
                }
                self.report_problems();
            }
        }
        self.tell_health_checks();
    }

    fn take_changed(&mut self) -> BTreeSet<PortKey> {
        self.table.take_changed()
    }

    fn is_synced(&self) -> bool {
        self.table.is_synced()
    }
}

/// Whether a Node is about to be deleted, as kube-proxy judges it (KEP-3836).
fn is_leaving(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let is_tainted = { taints }.any(|taint| taint.key == TAINT_TO_BE_DELETED);
    node.metadata.deletion_timestamp.is_some() || is_tainted
}

/// Opens the source and starts to read it; says its name in the report.
pub async fn start(
    settings: &Settings,
    mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
    shared: Shared,
) -> Result<mpsc::Receiver<Event>, source::Error> {
    let (source, name) = match &settings.source {
        settings::Source::Manifests(directory) => {
            (Source::Manifests(ManifestSource::open(directory)?), "manifests")
        }
        settings::Source::Kubernetes { kubeconfig } => {
            let source = KubeSource::open(kubeconfig.as_deref(), &settings.node_name).await?;
            (Source::Kube(source), "kubernetes")
        }
    };
    shared.update(|report| name.clone_into(&mut report.source));
    tokio::spawn(follow_health(source.health(), shared));
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (from_source, mut said) = mpsc::channel(EVENTS_MAX);
    tokio::spawn(source.run(from_source));
    tokio::spawn(async move {
        // The addresses first: with them the first compile places every endpoint.
        let now = addresses.borrow_and_update().clone();
        let mut next = Some(Event::Addresses(now));
        while let Some(event) = next {
            if events.send(event).await.is_err() {
                return;
            }
            next = tokio::select! {
                event = said.recv() => event.map(Event::Source),
                Ok(()) = addresses.changed() => {
                    Some(Event::Addresses(addresses.borrow_and_update().clone()))
                }
            };
        }
    });
    Ok(receiver)
}

async fn follow_health(mut health: watch::Receiver<Health>, shared: Shared) {
    loop {
        let connected = health.borrow_and_update().connected;
        shared.update(|report| report.source_connected = connected);
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Destroys the node's own connected UDP sockets whose endpoint has left, batch by batch.
pub async fn destroy_sockets(
    mut maps: KernelMaps,
    mut batches: mpsc::UnboundedReceiver<Vec<Departed>>,
) {
    while let Some(departed) = batches.recv().await {
        let result = tokio::task::block_in_place(|| destroy_batch(&mut maps, &departed));
        match result {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "destroyed UDP sockets whose endpoint has left"),
            Err(error) => {
                let error = crate::ebpf::attach::chain(&error);
                tracing::warn!(error, "UDP sockets may still be connected to endpoints that left");
            }
        }
    }
}

fn destroy_batch(maps: &mut KernelMaps, departed: &[Departed]) -> Result<usize, SocketError> {
    let udp = departed.iter().filter(|endpoint| endpoint.protocol == Protocol::Udp);
    let mut left: BTreeMap<u32, u32> = BTreeMap::new();
    for endpoint in udp.clone() {
        *left.entry(endpoint.id).or_default() |= endpoint.views;
    }
    let peers: BTreeSet<SocketAddr> =
        udp.map(|endpoint| SocketAddr::new(endpoint.address, endpoint.port)).collect();
    if peers.is_empty() {
        return Ok(0);
    }
    let maps = RefCell::new(maps);
    destroy_udp(&peers, |cookie, peer| {
        let key = PeerKey {
            cookie,
            addr: match peer.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            },
            port: peer.port().to_be_bytes(),
            protocol: dataplane_common::UDP,
            direction: 1,
            pad: [0; 4],
        };
        let shown = maps.borrow_mut().lookup::<PeerKey, Peer>(names::PEERS, &key);
        let Some(shown) = shown.ok().flatten() else { return false };
        // A socket that chose it in a view that it did not leave keeps it.
        let views = left.get(&shown.endpoint).copied().unwrap_or(0);
        views & u32::from(shown.views) != 0 || views == Live::CLUSTER | Live::LOCAL
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ObjectName, ObjectRef};

    fn fed() -> Fed {
        let source = settings::Source::Manifests("/nowhere".into());
        Fed::new(&Settings::new("here".into(), source), Shared::default())
    }

    fn node(name: &str, rest: &serde_json::Value) -> Event {
        let mut object = json!({"metadata": {"name": name}});
        object.as_object_mut().unwrap().extend(rest.as_object().cloned().unwrap());
        let object = serde_json::from_value(object).unwrap();
        Event::Source(SourceEvent::Objects(vec![ObjectEvent::Node { object, file: None }]))
    }

    #[test]
    fn a_node_leaves_when_it_is_deleted_or_the_autoscaler_has_marked_it() {
        let mut fed = fed();
        let taints = |key| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        let deleted =
            json!({"metadata": {"name": "here", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let gone = ObjectRef { kind: Kind::Node, name: ObjectName::new("", "here") };
        let gone = Event::Source(SourceEvent::Objects(vec![ObjectEvent::Gone(gone)]));
        for (event, leaves) in [
            (node("here", &json!({})), false),
            (node("there", &taints(TAINT_TO_BE_DELETED)), false),
            (node("here", &taints("node.kubernetes.io/not-ready")), false),
            (node("here", &taints(TAINT_TO_BE_DELETED)), true),
            (node("there", &json!({})), true),
            (node("here", &json!({})), false),
            (node("here", &deleted), true),
            (gone, false),
        ] {
            fed.apply(event.clone());
            assert_eq!(fed.shared.report().node_leaves, leaves, "{event:?}");
        }
    }
}
