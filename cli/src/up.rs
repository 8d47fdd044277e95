//! `hashplane up`: server, node agent, dataplane and DNS on this machine, in one process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use control_plane::{controllers::balancer::Pool, registry, server};
use dataplane_user::daemon::Node;
use node_agent::{agent, network::Network, settings as agent_settings};
use tokio::sync::{oneshot, watch};

use crate::{options, service};

/// How a node is made of this machine.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct NodeArguments {
    /// Where everything that lasts is kept: objects, keys, containers, images, volumes, logs.
    #[arg(long, default_value = "/var/lib/hashplane")]
    data_dir: PathBuf,
    /// Where sockets are.
    #[arg(long, default_value = "/run/hashplane")]
    run_dir: PathBuf,
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
    cluster_cidr: Vec<Network>,
    /// Addresses of Services, one network per family.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:0:0:60::/112")]
    service_cidr: Vec<Network>,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
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
    #[arg(long, value_delimiter = ',', num_args = 2, default_value = "10,300", value_name = "FIRST,MOST")]
    crash_loop_seconds: Vec<u64>,
    /// Seconds that the end of a pod waits for all nodes to stop sending to it; 0 does not wait.
    #[arg(long, default_value_t = 5)]
    drain_seconds: u64,
    /// YAML file with settings of the dataplane, as for `hashplane proxy --config`.
    #[arg(long, value_name = "FILE")]
    proxy_config: Option<PathBuf>,
    /// What is logged, as for `RUST_LOG`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

fn label(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| format!("{text:?} is not key=value"))?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Runs a whole cluster on this machine; others may join.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    node: NodeArguments,
    /// Where the API is served.
    #[arg(long, default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// Where the file for the administrator is written, once it serves.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Node ports of Services.
    #[arg(long, default_value = "30000-32767")]
    node_ports: String,
    /// Addresses for Services of type LoadBalancer: `192.0.2.0/28`, or `192.0.2.10-192.0.2.20`.
    #[arg(long, value_delimiter = ',')]
    load_balancer_pool: Vec<Pool>,
    /// Notes who did what in this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Encrypts Secrets in the store, by a key in the data directory.
    #[arg(long)]
    encrypt_secrets: bool,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    service::log_to_stderr(&arguments.node.log)?;
    let name = arguments.node.name()?;
    let addresses = arguments.node.addresses()?;
    let server_settings = server_settings(&arguments, &addresses)?;
    service::block_on(async move {
        let stop = service::told_to_stop()?;
        let (stopping, stopped) = watch::channel(false);
        let (tell, told) = oneshot::channel();
        let serving = tokio::spawn(server::run(server_settings, until(stopped.clone()), |address| {
            tracing::info!(%address, "the API is served");
            // Whoever waits for it may have given up.
            let _gone = tell.send(address);
        }));
        let node = async {
            let Ok(address) = told.await else { return Ok(()) };
            let at = SocketAddr::new(reached(address.ip()), address.port());
            let files = server::admit_node(&arguments.node.server_data(), at, &name, &addresses)?;
            let node = &arguments.node;
            node.run(&name, &addresses, &files, address.port(), until(stopped.clone())).await
        };
        let mut serving = serving;
        let result = tokio::select! {
            ended = &mut serving => ended.map_err(anyhow::Error::from).and_then(|it| Ok(it?)),
            ended = node => ended,
            () = stop => Ok(()),
        };
        stopping.send_replace(true);
        if !serving.is_finished() {
            serving.await??;
        }
        tracing::info!("stopped; containers and programs go on, `hashplane down` ends them");
        result
    })
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // The sender goes with everything else.
    let _ended = stopped.wait_for(|it| *it).await;
}

/// How this machine itself reaches what is bound to an address.
fn reached(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    }
}

fn server_settings(arguments: &Arguments, addresses: &[IpAddr]) -> anyhow::Result<server::Settings> {
    let node = &arguments.node;
    let ports = dataplane_user::daemon::settings::parse_port_range(&arguments.node_ports);
    let node_ports = ports.with_context(|| {
        format!("--node-ports {:?} is no range, such as 30000-32767", arguments.node_ports)
    })?;
    let pairs = |all: &[Network]| all.iter().map(|it| (it.address, it.prefix)).collect();
    let networks = registry::Networks { service_cidrs: pairs(&node.service_cidr), node_ports };
    let mut settings = server::Settings::new(node.server_data(), arguments.listen);
    settings.kubeconfig.clone_from(&arguments.kubeconfig);
    settings.advertise = addresses.first().copied();
    settings.audit.clone_from(&arguments.audit_log);
    settings.seals_secrets = arguments.encrypt_secrets;
    settings.registry = registry::Settings { networks };
    settings.pools.clone_from(&arguments.load_balancer_pool);
    settings.pods = pairs(&node.cluster_cidr);
    settings.dns = node.dns();
    Ok(settings)
}

impl NodeArguments {
    pub(crate) fn server_data(&self) -> PathBuf {
        self.data_dir.join("server")
    }

    fn agent_data(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    pub(crate) fn name(&self) -> anyhow::Result<String> {
        self.node_name.clone().map_or_else(options::host_name, Ok)
    }

    pub(crate) fn addresses(&self) -> anyhow::Result<Vec<IpAddr>> {
        let own = if self.node_ip.is_empty() { agent::own_addresses() } else { self.node_ip.clone() };
        if own.is_empty() {
            return Err(anyhow!("this machine has no address for others; give --node-ip"));
        }
        Ok(own)
    }

    /// The tenth address of each network of Services, as upstream's tools have it.
    fn dns(&self) -> Vec<IpAddr> {
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
        files: &server::NodeFiles,
        server_port: u16,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let data = self.agent_data();
        std::fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        let kubeconfig = data.join("kubeconfig");
        control_plane::auth::tls::write_private(&kubeconfig, &files.kubeconfig)?;
        let agent = self.agent_settings(name, addresses, files, &kubeconfig);
        let proxy = self.proxy_settings(name, addresses, &kubeconfig)?;
        tracing::debug!(server_port, "the node starts");
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
        files: &server::NodeFiles,
        kubeconfig: &Path,
    ) -> agent_settings::Settings {
        let seconds = |index: usize| self.crash_loop_seconds.get(index).copied().unwrap_or(10);
        let first = addresses.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
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
                certificate: files.pair.certificate.clone(),
                key: files.pair.key.clone(),
                authority: files.authority.clone(),
            },
            domain: self.cluster_domain.clone(),
            dns: self.dns(),
            cgroup: self.pods_cgroup.clone(),
            mtu: self.mtu,
            pods_max: self.max_pods,
            restart: (Duration::from_secs(seconds(0)), Duration::from_secs(seconds(1))),
            drain: Duration::from_secs(self.drain_seconds),
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
