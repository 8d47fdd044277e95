//! One endpoint of an `EndpointSlice`, with everything that a slice can say of it.

use serde_json::{Value, json};

use crate::lab::{Addresses, Family, NodeName, Place};

/// A pod, or a node for pods with `hostNetwork`, behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addresses: Addresses,
    only: Option<Family>,
    node: Option<String>,
    pub(super) targets: Option<u16>,
    ready: bool,
    serving: bool,
    terminating: bool,
    zone: Option<String>,
    for_zones: Vec<String>,
    for_nodes: Vec<String>,
}

impl Endpoint {
    /// The endpoint at a place of the lab: ready, and not about to leave.
    pub fn at(place: &Place) -> Self {
        Self {
            addresses: place.addresses(),
            only: None,
            node: place.node().map(|node| node.to_string()),
            targets: None,
            ready: true,
            serving: true,
            terminating: false,
            zone: None,
            for_zones: Vec::new(),
            for_nodes: Vec::new(),
        }
    }

    /// It has an address in one family only.
    #[must_use]
    pub fn only(self, family: Family) -> Self {
        Self { only: Some(family), ..self }
    }

    /// Every port of the Service leads to this one here.
    #[must_use]
    pub fn with_target(self, port: u16) -> Self {
        Self { targets: Some(port), ..self }
    }

    /// It takes no new connections.
    #[must_use]
    pub fn not_ready(self) -> Self {
        Self { ready: false, serving: false, ..self }
    }

    /// It was told to end, and still answers.
    #[must_use]
    pub fn terminating(self) -> Self {
        Self { ready: false, serving: true, terminating: true, ..self }
    }

    /// It was told to end, and answers no more.
    #[must_use]
    pub fn terminating_not_serving(self) -> Self {
        Self { ready: false, serving: false, terminating: true, ..self }
    }

    /// It is terminating and not ready, but its Service publishes such addresses: the control plane
    /// calls it ready.
    #[must_use]
    pub fn published(self) -> Self {
        Self { ready: true, serving: false, terminating: true, ..self }
    }

    /// The zone it is in.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        Self { zone: Some(zone.to_owned()), ..self }
    }

    /// The zones that should use it.
    #[must_use]
    pub fn for_zones(self, zones: &[&str]) -> Self {
        Self { for_zones: zones.iter().map(|zone| (*zone).to_owned()).collect(), ..self }
    }

    /// The nodes that should use it.
    #[must_use]
    pub fn for_nodes(self, nodes: &[NodeName]) -> Self {
        Self { for_nodes: nodes.iter().map(NodeName::to_string).collect(), ..self }
    }

    pub(super) fn has(&self, family: Family) -> bool {
        self.only.is_none_or(|only| only == family)
    }

    pub(super) fn object(&self, family: Family) -> Value {
        let mut object = json!({
            "addresses": [self.addresses.of(family)],
            "conditions": {
                "ready": self.ready,
                "serving": self.serving,
                "terminating": self.terminating,
            },
        });
        if let Some(node) = &self.node {
            object["nodeName"] = node.as_str().into();
        }
        if let Some(zone) = &self.zone {
            object["zone"] = zone.as_str().into();
        }
        for (field, names) in [("forZones", &self.for_zones), ("forNodes", &self.for_nodes)] {
            if !names.is_empty() {
                let names: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
                object["hints"][field] = names.into();
            }
        }
        object
    }
}
