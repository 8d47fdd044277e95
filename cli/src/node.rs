//! `hashplane node`: this machine becomes a node of a cluster; and what `up` and `node` have in common.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use control_plane::{auth::tls::write_private, server};
use dataplane_user::daemon::Node;
use node_agent::{agent, join, network::Network, pressure::Thresholds, settings as agent_settings};
use serde::{Deserialize, Serialize};

use crate::{options, service};

/// How a node is made of this machine.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArguments {
    /// Where everything that lasts is kept: objects, keys, containers, images, volumes, logs.
    #[arg(long, default_value = "/var/lib/hashplane")]
    pub(crate) data_dir: PathBuf,
    /// Where sockets are.
    #[arg(long, default_value = "/run/hashplane")]
    pub(crate) run_dir: PathBuf,
    /// Name of this node [default: the host name].
    #[arg(long)]
    node_name: Option<String>,
    /// Addresses of this node, one per family [default: those it would send to others from].
    #[arg(long, value_delimiter = ',')]
    node_ip: Vec<IpAddr>,
    /// Labels of this node, as `key=value`.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// The socket of a container runtime [default: a containerd of our own].
    #[arg(long, value_name = "SOCKET")]
    runtime_endpoint: Option<PathBuf>,
    /// Archives of images (`*.tar`) that are there from the start [default: `images` in the data directory].
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Networks of pods, one per family; each node gets a part.
    #[arg(long, value_delimiter = ',', default_value = "10.244.0.0/16,fd00:0:0:244::/56")]
    pub(crate) cluster_cidr: Vec<Network>,
    /// Addresses of Services, one network per family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:0:0:60::/112")]
    pub(crate) service_cidr: Vec<Network>,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Where the API server asks this node for logs and commands: a port of the node's address.
    #[arg(long, default_value_t = 10_250)]
    agent_port: u16,
    /// The control group that pods are below.
    #[arg(long, default_value = "/kubepods")]
    pods_cgroup: String,
    /// Pods that this node takes.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Largest packets of pods, in bytes [default: 1500].
    #[arg(long)]
    mtu: Option<u32>,
    /// Seconds that a container waits which ends again and again: at first, and at most.
    #[arg(
        long,
        value_delimiter = ',',
        num_args = 2,
        default_value = "10,300",
        value_name = "FIRST,MOST"
    )]
    crash_loop_seconds: Vec<u64>,
    /// Seconds that the end of a pod waits for all nodes to stop sending to it; 0 does not wait.
    #[arg(long, default_value_t = 5)]
    drain_seconds: u64,
    /// Below what pods are sent away, as `signal<amount`: memory.available, nodefs.available,
    /// nodefs.inodesFree, pid.available. Nothing is sent away for signals that are not named.
    #[arg(
        long,
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%",
        value_name = "THRESHOLDS"
    )]
    eviction_hard: Thresholds,
    /// Seconds that the node says that something is short after it is not any more.
    #[arg(long, default_value_t = 300)]
    eviction_pressure_transition_seconds: u64,
    /// YAML file with settings of the dataplane, as for `hashplane proxy --config`.
    #[arg(long, value_name = "FILE")]
    proxy_config: Option<PathBuf>,
    /// What is logged, as for `RUST_LOG`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    pub(crate) log: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("{text:?} is not key=value"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Makes a node of a running cluster of this machine.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// The server, such as `https://192.0.2.1:6443`. A machine that has joined knows it.
    #[arg(long, value_name = "URL")]
    join: Option<String>,
    /// What `hashplane token create` has printed. A machine that has joined needs none.
    #[arg(long, env = "HASHPLANE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// What a node has to be one; kept in its data directory.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The way to the API.
    pub(crate) kubeconfig: String,
    /// The node's certificate.
    pub(crate) certificate: String,
    /// Its key.
    pub(crate) key: String,
    /// The authority of everybody.
    pub(crate) authority: String,
    /// Networks of pods and Services, DNS and its domain, if a server has told them.
    cluster: Option<Told>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Told {
    pods: Vec<String>,
    services: Vec<String>,
    domain: String,
}

impl From<server::NodeFiles> for Welcome {
    fn from(files: server::NodeFiles) -> Self {
        Self {
            kubeconfig: files.kubeconfig,
            certificate: files.pair.certificate,
            key: files.pair.key,
            authority: files.authority,
            cluster: None,
        }
    }
}

impl From<join::Welcome> for Welcome {
    fn from(welcome: join::Welcome) -> Self {
        let join::Cluster { pods, services, dns: _, domain } = welcome.cluster;
        Self {
            kubeconfig: welcome.kubeconfig,
            certificate: welcome.certificate,
            key: welcome.key,
            authority: welcome.authority,
            cluster: Some(Told { pods, services, domain }),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { mut node, join, token } = arguments;
    service::log_to_stderr(&node.log)?;
    let (name, addresses) = (node.name()?, node.addresses()?);
    service::block_on(async move {
        let mut stop = Box::pin(service::told_to_stop()?);
        let file = node.data_dir.join("node.json");
        let welcome = match fs::read_to_string(&file) {
            Ok(text) => {
                serde_json::from_str(&text).with_context(|| format!("{}", file.display()))?
            }
            Err(_none) => {
                let (join, token) =
                    join.zip(token).context("give --join and --token to join a cluster")?;
                let token = token.parse()?;
                let welcome = tokio::select! {
                    welcome = join::join(&join, &token, &name, &addresses) => welcome?,
                    () = &mut stop => return Ok(()),
                };
                let welcome = Welcome::from(welcome);
                let made = fs::create_dir_all(&node.data_dir);
                made.with_context(|| format!("cannot make {}", node.data_dir.display()))?;
                write_private(&file, &serde_json::to_string(&welcome)?)?;
                tracing::info!(server = join, "this machine has joined");
                welcome
            }
        };
        if let Some(told) = &welcome.cluster {
            let networks = |all: &[String]| -> anyhow::Result<Vec<Network>> {
                all.iter().map(|it| it.parse().map_err(|words: String| anyhow!(words))).collect()
            };
            node.cluster_cidr = networks(&told.pods)?;
            node.service_cidr = networks(&told.services)?;
            node.cluster_domain.clone_from(&told.domain);
        }
        Box::pin(node.run(&name, &addresses, &welcome, stop)).await?;
        tracing::info!("stopped; containers and programs go on, `hashplane down` ends them");
        Ok(())
    })
}

impl NodeArguments {
    pub(crate) fn server_data(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    pub(crate) fn agent_data(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    pub(crate) fn name(&self) -> anyhow::Result<String> {
        self.node_name.clone().map_or_else(options::host_name, Ok)
    }

    pub(crate) fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let own =
            if self.node_ip.is_empty() { agent::own_addresses() } else { self.node_ip.clone() };
        if own.is_empty() {
            return Err(anyhow!("this machine has no address for others; give --node-ip"));
        }
        Ok(own)
    }

    /// The tenth address of each network of Services, as upstream's tools have it.
    pub(crate) fn dns(&self) -> Vec<IpAddr> {
        self.service_cidr
            .iter()
            .map(|it| match it.address {
                IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() + 10)),
                IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() + 10)),
            })
            .collect()
    }

    /// Runs agent and dataplane until `stop` is done.
    pub(crate) async fn run(
        &self,
        name: &str,
        addresses: &[IpAddr],
        files: &Welcome,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let data = self.agent_data();
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let kubeconfig = data.join("kubeconfig");
        write_private(&kubeconfig, &files.kubeconfig)?;
        let agent = self.agent_settings(name, addresses, files, &kubeconfig);
        let proxy = self.proxy_settings(name, addresses, &kubeconfig)?;
        let dataplane = async {
            let node = Node::start(&proxy).await?;
            tracing::info!(instance = proxy.instance, "the dataplane runs");
            node.run().await?;
            anyhow::Ok(())
        };
        tokio::select! {
            ended = agent::run(agent, stop) => Ok(ended?),
            ended = dataplane => ended,
        }
    }

    fn agent_settings(
        &self,
        name: &str,
        addresses: &[IpAddr],
        files: &Welcome,
        kubeconfig: &Path,
    ) -> agent_settings::Settings {
        let seconds = |index: usize| self.crash_loop_seconds.get(index).copied().unwrap_or(10);
        let first = addresses.first().copied().unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into());
        agent_settings::Settings {
            node: name.to_owned(),
            labels: self.node_labels.clone(),
            addresses: addresses.to_vec(),
            kubeconfig: kubeconfig.to_owned(),
            data: self.agent_data(),
            run: self.run_dir.clone(),
            runtime: self.runtime_endpoint.clone(),
            images: self.images.clone().unwrap_or_else(|| self.data_dir.join("images")),
            pods: self.cluster_cidr.clone(),
            services: self.service_cidr.clone(),
            listen: SocketAddr::new(first, self.agent_port),
            tls: agent_settings::Tls {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
                authority: files.authority.clone(),
            },
            domain: self.cluster_domain.clone(),
            dns: self.dns(),
            cgroup: self.pods_cgroup.clone(),
            mtu: self.mtu,
            pods_max: self.max_pods,
            restart: (Duration::from_secs(seconds(0)), Duration::from_secs(seconds(1))),
            drain: Duration::from_secs(self.drain_seconds),
            eviction: self.eviction_hard.clone(),
            pressure_transition: Duration::from_secs(self.eviction_pressure_transition_seconds),
            dataplane_port: 10_256,
        }
    }

    fn proxy_settings(
        &self,
        name: &str,
        addresses: &[IpAddr],
        kubeconfig: &Path,
    ) -> anyhow::Result<dataplane_user::daemon::Settings> {
        let file = self.proxy_config.as_deref();
        let mut own = options::Options {
            kubeconfig: Some(kubeconfig.to_owned()),
            node_name: Some(name.to_owned()),
            node_ip: Some(options::OneOrMany::Many(addresses.to_vec())),
            ..options::Options::default()
        };
        let file = file.map(options::read).transpose()?.unwrap_or_default();
        if file.state_dir.is_none() {
            own.state_dir = Some(self.run_dir.clone());
        }
        Ok(own.or(file).settings()?.0)
    }
}
