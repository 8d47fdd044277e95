//! Services and their `EndpointSlices` as YAML in the folder that the daemons watch.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::{
    agent::protocol::Transport,
    lab::{Addresses, CLUSTER_IPS, Family, Place},
};

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct ManifestFolder {
    path: PathBuf,
}

impl ManifestFolder {
    /// Makes the folder.
    pub fn new(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file whole: a daemon sees the old text or the new one.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.path.with_extension("draft");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        let path = self.path.join(file);
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A Service with its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    number: u8,
    ports: Vec<ServicePort>,
    endpoints: Vec<Endpoint>,
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

/// A pod, or a node for pods with `hostNetwork`, behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    addresses: Addresses,
    node: String,
    targets: Option<u16>,
    ready: bool,
}

impl Endpoint {
    /// The endpoint at a place of the lab.
    pub fn at(place: &Place) -> Self {
        let node = place.node().map_or(String::new(), |node| node.to_string());
        Self { addresses: place.addresses(), node, targets: None, ready: true }
    }

    /// Every port of the Service leads to this one here.
    #[must_use]
    pub fn with_target(self, port: u16) -> Self {
        Self { targets: Some(port), ..self }
    }

    /// It takes no new connections.
    #[must_use]
    pub fn not_ready(self) -> Self {
        Self { ready: false, ..self }
    }
}

impl Service {
    /// A Service without ports and endpoints, on the first `ClusterIP`s.
    pub fn new(name: &str, folder: ManifestFolder) -> Self {
        Self { name: name.to_owned(), number: 1, ports: vec![], endpoints: vec![], folder }
    }

    /// Puts it on `10.96.0.<number>` and `fd96::<number>`.
    #[must_use]
    pub fn number(self, number: u8) -> Self {
        Self { number, ..self }
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

    /// Every `ClusterIP` frontend, as (address, port, protocol).
    pub fn frontends(&self) -> Vec<(IpAddr, u16, Transport)> {
        let ports = |family| {
            self.ports
                .iter()
                .map(move |port| (self.cluster_ip(family), port.number, port.transport))
        };
        Family::ALL.into_iter().flat_map(ports).collect()
    }

    /// Everyone who takes new connections, as (address, target port, protocol).
    pub fn ready_endpoints(&self) -> BTreeSet<(IpAddr, u16, Transport)> {
        let ready = self.endpoints.iter().filter(|endpoint| endpoint.ready);
        let each = |endpoint: &Endpoint, family| {
            let address = endpoint.addresses.of(family);
            let targets = endpoint.targets;
            self.ports
                .iter()
                .map(move |port| (address, targets.unwrap_or(port.target), port.transport))
                .collect::<Vec<_>>()
        };
        ready
            .flat_map(|endpoint| Family::ALL.map(|family| each(endpoint, family)))
            .flatten()
            .collect()
    }

    /// Writes Service and `EndpointSlices` into the folder, as `<name>.yaml`.
    pub fn write(&self) -> anyhow::Result<()> {
        self.folder.write(&self.file(), &self.to_yaml()?)
    }

    /// Removes the file.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.folder.remove(&self.file())
    }

    /// Service and `EndpointSlices` as YAML.
    pub fn to_yaml(&self) -> anyhow::Result<String> {
        let mut documents = vec![self.service()];
        documents.extend(self.slices());
        serde_saphyr::to_string_multiple(&documents).context("cannot write a manifest as YAML")
    }

    fn file(&self) -> String {
        format!("{}.yaml", self.name)
    }

    fn add_port(mut self, name: &str, number: u16, target: u16, on_nodes: Option<u16>) -> Self {
        for (transport, suffix) in [(Transport::Tcp, "tcp"), (Transport::Udp, "udp")] {
            let target_name = format!("{name}-{suffix}-at");
            let name = format!("{name}-{suffix}");
            self.ports.push(ServicePort { name, transport, number, target_name, target, on_nodes });
        }
        self
    }

    fn service(&self) -> Value {
        let ports: Vec<Value> = self
            .ports
            .iter()
            .map(|port| {
                let mut object = json!({
                    "name": port.name,
                    "protocol": protocol(port.transport),
                    "port": port.number,
                    "targetPort": port.target_name,
                });
                if let Some(node_port) = port.on_nodes {
                    object["nodePort"] = node_port.into();
                }
                object
            })
            .collect();
        let on_nodes = self.ports.iter().any(|port| port.on_nodes.is_some());
        let ips = Family::ALL.map(|family| self.cluster_ip(family).to_string());
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "namespace": "default" },
            "spec": {
                "type": if on_nodes { "NodePort" } else { "ClusterIP" },
                "clusterIP": ips[0],
                "clusterIPs": ips,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "RequireDualStack",
                "selector": { "app": self.name },
                "ports": ports,
            },
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
            for family in Family::ALL {
                slices.push(self.slice(slices.len(), family, *targets, endpoints));
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
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|endpoint| {
                json!({
                    "addresses": [endpoint.addresses.of(family).to_string()],
                    "nodeName": endpoint.node,
                    "conditions": {
                        "ready": endpoint.ready,
                        "serving": endpoint.ready,
                        "terminating": false,
                    },
                })
            })
            .collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{number}", self.name),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": self.name },
            },
            "addressType": match family { Family::V4 => "IPv4", Family::V6 => "IPv6" },
            "ports": ports,
            "endpoints": endpoints,
        })
    }
}

/// The protocol's name in Kubernetes.
pub(crate) const fn protocol(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "TCP",
        Transport::Udp => "UDP",
    }
}
