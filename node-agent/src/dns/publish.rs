//! Says in the API that this node answers: one slice of `kube-dns` per family.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::{core::v1::Node, discovery::v1::EndpointSlice};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::sleep;

const SERVICE: &str = "kube-dns";
const NAMESPACE: &str = "kube-system";
/// Between tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Writes the slices, as often as it takes.
pub(crate) async fn publish(client: Client, node: Node, addresses: Vec<IpAddr>) {
    let name = node.metadata.name.clone().unwrap_or_default();
    let api = Api::<EndpointSlice>::namespaced(client, NAMESPACE);
    for address in addresses {
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        let slice_name = format!("{SERVICE}-{name}-{}", family.to_lowercase());
        let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": super::PORT});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": slice_name, "namespace": NAMESPACE,
                "labels": {
                    "kubernetes.io/service-name": SERVICE,
                    "endpointslice.kubernetes.io/managed-by": "hashplane-agent",
                },
                // It goes with the node.
                "ownerReferences": [{
                    "apiVersion": "v1", "kind": "Node", "name": name, "uid": node.metadata.uid,
                }],
            },
            "addressType": family,
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}, "nodeName": name}],
            "ports": [port("dns", "UDP"), port("dns-tcp", "TCP")],
        });
        let params = PatchParams::apply("hashplane-agent").force();
        while let Err(error) = api.patch(&slice_name, &params, &Patch::Apply(&slice)).await {
            tracing::warn!(%error, "pods of this node do not find its DNS yet");
            sleep(PAUSE).await;
        }
    }
}
