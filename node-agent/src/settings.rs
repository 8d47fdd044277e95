//! What a node agent can be told.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use crate::{network::Network, pressure::Thresholds};

/// What a node agent is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// Labels of the node, beside the usual ones.
    pub labels: Vec<(String, String)>,
    /// Its addresses; empty is what it would send to others from.
    pub addresses: Vec<IpAddr>,
    /// The file with the way to the API and the node's certificate.
    pub kubeconfig: PathBuf,
    /// Where pods' files, logs and the runtime's data are.
    pub data: PathBuf,
    /// Where sockets are.
    pub run: PathBuf,
    /// The runtime's socket; none starts a containerd.
    pub runtime: Option<PathBuf>,
    /// Archives of images that our own containerd is given at its start.
    pub images: PathBuf,
    /// Networks of all pods of the cluster.
    pub pods: Vec<Network>,
    /// Networks of Services.
    pub services: Vec<Network>,
    /// Where the API server asks for logs and commands.
    pub listen: SocketAddr,
    /// Certificate and key for that, as PEM, and the authority of who may ask.
    pub tls: Tls,
    /// The cluster's DNS domain.
    pub domain: String,
    /// The cluster's DNS addresses.
    pub dns: Vec<IpAddr>,
    /// The control group that pods are below.
    pub cgroup: String,
    /// The largest packet of pods, in bytes; none is that of the device with the default route.
    pub mtu: Option<u32>,
    /// Pods that the node takes.
    pub pods_max: u32,
    /// How long a container that ends again and again waits first, and at most.
    pub restart: (Duration, Duration),
    /// How long the end of a container waits for all nodes to stop sending to its pod; zero does not wait.
    pub drain: Duration,
    /// Below what the node sends pods away.
    pub eviction: Thresholds,
    /// How long the node says that something is short after it is not any more.
    pub pressure_transition: Duration,
    /// Where dataplanes of nodes answer whether they still send to an endpoint.
    pub dataplane_port: u16,
}

/// Certificates, as PEM.
#[derive(Clone, Default)]
pub struct Tls {
    /// The agent's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority of clients.
    pub authority: String,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}
