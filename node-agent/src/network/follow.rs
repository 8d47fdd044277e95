//! Follows nodes: this one gets its network, and routes lead to the pods of the others.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use tokio::{sync::watch, time::sleep};

use super::{Network, Plan, egress, routes};
use crate::{announce::Nodes, containerd::Places, shared::Shared};

/// Packets of pods unless somebody says otherwise, in bytes.
const MTU: u32 = 1_500;

/// Follows nodes: this one gets its network, and routes lead to the pods of the others.
pub(crate) async fn follow(
    shared: Arc<Shared>,
    places: Option<Places>,
    changed: watch::Sender<()>,
    ready: watch::Sender<Nodes>,
) {
    let api = Api::<Node>::all(shared.client.clone());
    let mut known: BTreeMap<String, Node> = BTreeMap::new();
    let mut events =
        std::pin::pin!(watcher::watcher(api, watcher::Config::default()).default_backoff());
    let handle = match rtnetlink::new_connection() {
        Ok((connection, handle, _)) => {
            tokio::spawn(connection);
            handle
        }
        Err(error) => {
            tracing::error!(%error, "cannot speak with the kernel about routes");
            return;
        }
    };
    let mut is_listing = false;
    let mut installed: Vec<Network> = Vec::new();
    let mut routed: BTreeMap<Network, IpAddr> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => {
                is_listing = true;
                known.clear();
            }
            Ok(Event::InitApply(node) | Event::Apply(node)) => {
                known.insert(node.metadata.name.clone().unwrap_or_default(), node);
            }
            Ok(Event::Delete(node)) => {
                known.remove(node.metadata.name.as_deref().unwrap_or_default());
            }
            Ok(Event::InitDone) => is_listing = false,
            Err(error) => {
                tracing::debug!(%error, "the watch of Nodes goes on later");
                continue;
            }
        }
        if is_listing {
            continue;
        }
        let alive = alive(&known);
        shared.drain.set_nodes(alive.values().copied().collect());
        ready.send_if_modified(|told| alive != std::mem::replace(told, alive.clone()));
        let own = known.get(&shared.settings.node);
        let networks = own.map(networks).unwrap_or_default();
        if let Some(places) = &places
            && !networks.is_empty()
            && networks != installed
        {
            match install(&shared, places, &networks).await {
                Ok(()) => {
                    tracing::info!(?networks, "the network of pods is ready");
                    installed = networks;
                    // The runtime takes a moment to see it.
                    sleep(Duration::from_millis(20)).await;
                    changed.send_replace(());
                }
                Err(words) => tracing::error!(words, "pods have no network"),
            }
        }
        let wished = routes::wished(&shared.settings.node, &known);
        if wished != routed {
            match routes::apply(&handle, &wished).await {
                Ok(()) => routed = wished,
                Err(error) => tracing::warn!(%error, "routes to other nodes' pods are not set"),
            }
        }
    }
}

fn alive(nodes: &BTreeMap<String, Node>) -> Nodes {
    let ready = nodes.iter().filter(|(_, node)| is_ready(node));
    ready.filter_map(|(name, node)| Some((name.clone(), address(node)?))).collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|it| it.conditions.as_ref());
    conditions.into_iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True")
}

fn address(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|it| it.type_ == "InternalIP")?.address.parse().ok()
}

fn networks(node: &Node) -> Vec<Network> {
    let all = node.spec.as_ref().and_then(|it| it.pod_cidrs.as_ref());
    all.into_iter().flatten().filter_map(|it| it.parse().ok()).collect()
}

async fn install(shared: &Shared, places: &Places, networks: &[Network]) -> Result<(), String> {
    let plan = Plan {
        networks: networks.to_vec(),
        state: shared.settings.data.join("addresses"),
        mtu: shared.settings.mtu.unwrap_or(MTU),
    };
    super::install(&plan, &places.cni_conf(), &places.cni_bin()).map_err(|it| it.to_string())?;
    let networks = networks.to_vec();
    let mut cluster = shared.settings.pods.clone();
    cluster.extend(&shared.settings.services);
    let allowed = tokio::task::spawn_blocking(move || egress::allow(&networks, &cluster)).await;
    match allowed {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
