//! Opens the source that the settings name, and reads from it.

use std::{collections::BTreeSet, net::IpAddr};

use tokio::sync::{mpsc, watch};

use super::{Settings, Shared, feed::Event, settings};
use crate::source::{self, Health, Herald, KubeSource, ManifestSource, Source};

/// Events that wait for the loop.
const EVENTS_MAX: usize = 1024;

/// A source that is being read.
#[derive(Debug)]
pub struct Started {
    /// What it says, and the node's addresses before all else.
    pub events: mpsc::Receiver<Event>,
    /// Who answers, where somebody can be told what is wrong with his Services.
    pub herald: Option<Herald>,
}

/// Opens the source and starts to read it; says its name in the report.
pub async fn start(
    settings: &Settings,
    mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
    shared: Shared,
) -> Result<Started, source::Error> {
    let (source, name, herald) = match &settings.source {
        settings::Source::Manifests(directory) => {
            (Source::Manifests(ManifestSource::open(directory)?), "manifests", None)
        }
        settings::Source::Kubernetes { kubeconfig } => {
            let source = KubeSource::open(kubeconfig.as_deref(), &settings.node_name).await?;
            let herald = source.herald();
            (Source::Kube(Box::new(source)), "kubernetes", Some(herald))
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
    Ok(Started { events: receiver, herald })
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
