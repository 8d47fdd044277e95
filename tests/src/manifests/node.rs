//! A Node, of which a daemon reads the zone.

use serde_json::json;

use super::{ManifestFolder, Written};
use crate::lab::NodeName;

/// Writes the Node object that says in which zone a node is, as `node-<name>.yaml`.
pub fn write_zone(folder: &ManifestFolder, node: NodeName, zone: &str) -> anyhow::Result<Written> {
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": node.as_str(), "labels": { "topology.kubernetes.io/zone": zone } },
    });
    folder.write_objects(&format!("node-{}", node.as_str().to_lowercase()), &[object])
}
