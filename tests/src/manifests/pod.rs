//! A Pod with host ports.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{ManifestFolder, Written, protocol};
use crate::{
    agent::protocol::Transport,
    lab::{Family, Place},
};

/// A running Pod that asks for ports of its node.
#[derive(Clone, Debug)]
pub struct HostPorts {
    name: String,
    node: String,
    ips: [IpAddr; 2],
    phase: &'static str,
    ports: Vec<Value>,
}

impl HostPorts {
    /// The pod at a place of the lab.
    pub fn of(place: &Place) -> Self {
        Self {
            name: place.name().to_owned(),
            node: place.node().map_or(String::new(), |node| node.to_string()),
            ips: Family::ALL.map(|family| place.addresses().of(family)),
            phase: "Running",
            ports: Vec::new(),
        }
    }

    /// `host_port` of every address of the node leads to `container_port`.
    #[must_use]
    pub fn port(self, transport: Transport, host_port: u16, container_port: u16) -> Self {
        self.add(transport, host_port, container_port, &json!({}))
    }

    /// `host_port` of one address leads to `container_port`.
    #[must_use]
    pub fn port_on(
        self,
        host_ip: IpAddr,
        transport: Transport,
        host_port: u16,
        container_port: u16,
    ) -> Self {
        self.add(transport, host_port, container_port, &json!({ "hostIP": host_ip }))
    }

    /// Its phase, `Running` at first.
    #[must_use]
    pub fn phase(self, phase: &'static str) -> Self {
        Self { phase, ..self }
    }

    /// Writes the Pod as `pod-<name>.yaml`.
    pub fn write(&self, folder: &ManifestFolder) -> anyhow::Result<Written> {
        folder.write_objects(&format!("pod-{}", self.name), &[self.object()])
    }

    fn add(mut self, transport: Transport, host: u16, container: u16, more: &Value) -> Self {
        let mut port = json!({
            "protocol": protocol(transport),
            "hostPort": host,
            "containerPort": container,
        });
        if let Some(host_ip) = more.get("hostIP") {
            port["hostIP"] = host_ip.clone();
        }
        self.ports.push(port);
        self
    }

    fn object(&self) -> Value {
        let ips: Vec<Value> = self.ips.iter().map(|ip| json!({ "ip": ip })).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": self.name, "namespace": "default" },
            "spec": {
                "nodeName": self.node,
                "containers": [{ "name": "server", "image": "server", "ports": self.ports }],
            },
            "status": { "phase": self.phase, "podIP": self.ips[0], "podIPs": ips },
        })
    }
}
