//! A Service with its `EndpointSlices`.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{Endpoint, ManifestFolder, Written, protocol};
use crate::{
    agent::protocol::Transport,
    lab::{CLUSTER_IPS, Family, Place},
};

/// A Service with its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    number: u8,
    families: Vec<Family>,
    ports: Vec<ServicePort>,
    endpoints: Vec<Endpoint>,
    labels: Map<String, Value>,
    annotations: Map<String, Value>,
    spec: Map<String, Value>,
    ingress: Vec<Value>,
    folder: ManifestFolder,
}

#[derive(Clone, Debug)]
struct ServicePort {
    name: String,
    transport: Transport,
    number: u16,
    target_name: String,
    target: u16,
    on_nodes: Option<u16>,
}

impl Service {
    /// A Service without ports and endpoints, on the first `ClusterIP`s.
    pub fn new(name: &str, folder: ManifestFolder) -> Self {
        Self {
            name: name.to_owned(),
            number: 1,
            families: Family::ALL.to_vec(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            labels: Map::new(),
            annotations: Map::new(),
            spec: Map::new(),
            ingress: Vec::new(),
            folder,
        }
    }

    /// Puts it on `10.96.0.<number>` and `fd96::<number>`.
    #[must_use]
    pub fn number(self, number: u8) -> Self {
        Self { number, ..self }
    }

    /// Has it in these families only, the first one first.
    #[must_use]
    pub fn families(self, families: &[Family]) -> Self {
        Self { families: families.to_vec(), ..self }
    }

    /// Adds a port for TCP and for UDP.
    #[must_use]
    pub fn port(self, name: &str, port: u16, target: u16) -> Self {
        self.add_port(name, port, target, None)
    }

    /// Adds a port for TCP and for UDP, on every node too.
    #[must_use]
    pub fn node_port(self, name: &str, port: u16, target: u16, node_port: u16) -> Self {
        self.add_port(name, port, target, Some(node_port))
    }

    /// Adds a port for one protocol.
    #[must_use]
    pub fn port_of(self, transport: Transport, name: &str, port: u16, target: u16) -> Self {
        self.add_port_of(transport, name, (port, target), None)
    }

    /// Adds a port for one protocol, on every node too.
    #[must_use]
    pub fn node_port_of(
        self,
        transport: Transport,
        name: &str,
        ports: (u16, u16),
        node_port: u16,
    ) -> Self {
        self.add_port_of(transport, name, ports, Some(node_port))
    }

    fn add_port_of(
        mut self,
        transport: Transport,
        name: &str,
        (number, target): (u16, u16),
        on_nodes: Option<u16>,
    ) -> Self {
        let (name, target_name) = (name.to_owned(), format!("{name}-at"));
        self.ports.push(ServicePort { name, transport, number, target_name, target, on_nodes });
        self
    }

    /// Sets a field of the spec, in place of what would be there.
    #[must_use]
    pub fn spec(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec.insert(field.to_owned(), value.into());
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.into());
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.into());
        self
    }

    /// `sessionAffinity: ClientIP` for some seconds.
    #[must_use]
    pub fn affinity(self, timeout_s: u32) -> Self {
        self.spec("sessionAffinity", "ClientIP")
            .spec("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": timeout_s } }))
    }

    /// Makes it a `LoadBalancer` that has got these addresses.
    #[must_use]
    pub fn load_balancer(self, addresses: impl IntoIterator<Item = IpAddr>) -> Self {
        let ingress = addresses.into_iter().map(|ip| json!({ "ip": ip }));
        Self { ingress: ingress.collect(), ..self }.spec("type", "LoadBalancer")
    }

    /// Makes it a `LoadBalancer` whose addresses have an `ipMode`.
    #[must_use]
    pub fn load_balancer_in_mode(
        self,
        addresses: impl IntoIterator<Item = IpAddr>,
        mode: &str,
    ) -> Self {
        let ingress = addresses.into_iter().map(|ip| json!({ "ip": ip, "ipMode": mode }));
        Self { ingress: ingress.collect(), ..self }.spec("type", "LoadBalancer")
    }

    /// Adds an endpoint at a place of the lab.
    #[must_use]
    pub fn endpoint(self, place: &Place) -> Self {
        self.with_endpoint(Endpoint::at(place))
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn with_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// Replaces all endpoints; [`Self::write`] makes it known.
    pub fn set_endpoints(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.endpoints = endpoints.into_iter().collect();
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The `ClusterIP` of a family.
    pub fn cluster_ip(&self, family: Family) -> IpAddr {
        let number = self.number;
        let (v4, v6) = CLUSTER_IPS;
        match family {
            Family::V4 => Ipv4Addr::from(v4.to_bits() + u32::from(number)).into(),
            Family::V6 => Ipv6Addr::from(v6.to_bits() + u128::from(number)).into(),
        }
    }

    /// The `ClusterIP` of a family with the service port `port`.
    pub fn frontend(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.cluster_ip(family), port)
    }

    /// Writes Service and `EndpointSlices` into the folder, as `<name>.yaml`.
    pub fn write(&self) -> anyhow::Result<Written> {
        self.folder.write_objects(&self.name, &self.objects())
    }

    /// Removes the file.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.folder.remove(&format!("{}.yaml", self.name))
    }

    /// Service and `EndpointSlices` as YAML.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        let yaml = serde_saphyr::to_string_multiple(&self.objects());
        yaml.context("cannot write a manifest as YAML")
    }

    fn add_port(mut self, name: &str, number: u16, target: u16, on_nodes: Option<u16>) -> Self {
        for (transport, suffix) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
            let target_name = format!("{name}-{suffix}-at");
            let name = format!("{name}-{suffix}");
            self.ports.push(ServicePort { name, transport, number, target_name, target, on_nodes });
        }
        self
    }

    fn objects(&self) -> Vec<Value> {
        let mut documents = vec![self.service()];
        documents.extend(self.slices());
        documents
    }

    fn service(&self) -> Value {
        let on_nodes = self.ports.iter().any(|port| port.on_nodes.is_some());
        let kind = self.spec.get("type").and_then(Value::as_str);
        let kind = kind.unwrap_or(if on_nodes { "NodePort" } else { "ClusterIP" });
        // As the API server does it, which takes the ports of nodes from a Service without a use
        // for them.
        let ports: Vec<Value> =
            self.ports.iter().map(|port| port.object(kind == "ClusterIP")).collect();
        let names = self.families.iter().map(|family| family_name(*family));
        let ips: Vec<String> =
            self.families.iter().map(|family| self.cluster_ip(*family).to_string()).collect();
        let mut spec = json!({
            "type": kind,
            "clusterIP": ips[0],
            "clusterIPs": ips,
            "ipFamilies": names.collect::<Vec<_>>(),
            "ipFamilyPolicy": if ips.len() > 1 { "RequireDualStack" } else { "SingleStack" },
            "selector": { "app": self.name },
            "ports": ports,
        });
        for (field, value) in &self.spec {
            spec[field] = value.clone();
        }
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": "default",
                "labels": self.labels,
                "annotations": self.annotations,
            },
            "spec": spec,
            "status": { "loadBalancer": { "ingress": self.ingress } },
        })
    }

    /// One slice per family and set of target ports, as Kubernetes makes them.
    fn slices(&self) -> Vec<Value> {
        let mut groups: BTreeMap<Option<u16>, Vec<&Endpoint>> = BTreeMap::new();
        for endpoint in &self.endpoints {
            groups.entry(endpoint.targets).or_default().push(endpoint);
        }
        let mut slices = Vec::new();
        for (targets, endpoints) in &groups {
            for family in &self.families {
                slices.push(self.slice(slices.len(), *family, *targets, endpoints));
            }
        }
        slices
    }

    fn slice(
        &self,
        number: usize,
        family: Family,
        targets: Option<u16>,
        endpoints: &[&Endpoint],
    ) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let target = targets.unwrap_or(port.target);
                json!({ "name": port.name, "protocol": protocol(port.transport), "port": target })
            })
            .collect();
        let endpoints = endpoints.iter().filter(|endpoint| endpoint.has(family));
        let endpoints: Vec<Value> = endpoints.map(|endpoint| endpoint.object(family)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{number}", self.name),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": family_name(family),
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}

impl ServicePort {
    fn object(&self, only_in_cluster: bool) -> Value {
        let mut object = json!({
            "name": self.name,
            "protocol": protocol(self.transport),
            "port": self.number,
            "targetPort": self.target_name,
        });
        if let Some(node_port) = self.on_nodes.filter(|_| !only_in_cluster) {
            object["nodePort"] = node_port.into();
        }
        object
    }
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}
