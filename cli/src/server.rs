//! `hashplane server`: the control plane.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use control_plane::{controllers::balancer::Pool, registry, server};

use crate::service;

/// What keeps the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Store {
    /// A file.
    Embedded,
    /// Servers of etcd.
    Etcd,
}

/// Serves the Kubernetes API.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where objects, keys and certificates are kept.
    #[arg(long, default_value = "/var/lib/hashplane")]
    data_dir: PathBuf,
    /// Where it listens. Port 0 is any free one.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Where the file for the administrator is written, once it serves.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Addresses of Services, one network per family; the first is that of single-stack Services.
    #[arg(long, value_delimiter = ',', default_value = "10.96.0.0/16,fd00:0:0:60::/112")]
    service_cidr: Vec<String>,
    /// Node ports of Services.
    #[arg(long, default_value = "30000-32767")]
    node_ports: String,
    /// Where objects are kept: `embedded` is a file in the data directory, `etcd` serves several servers.
    #[arg(long, value_enum, default_value_t = Store::Embedded)]
    store: Store,
    /// Servers of etcd, such as `http://192.0.2.1:2379`.
    #[arg(long, value_delimiter = ',', required_if_eq("store", "etcd"))]
    etcd_servers: Vec<String>,
    /// Notes who did what in this file, one JSON object per line.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// Encrypts Secrets in the store, by a key in the data directory; without it they are decrypted.
    #[arg(long)]
    encrypt_secrets: bool,
    /// Where pods reach it [default: the address it listens on, unless that is the loopback].
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Addresses for Services of type LoadBalancer: `192.0.2.0/28`, or `192.0.2.10-192.0.2.20`.
    #[arg(long, value_delimiter = ',')]
    load_balancer_pool: Vec<Pool>,
    /// What is logged, as for `RUST_LOG`.
    #[arg(long, env = "RUST_LOG", default_value = "info")]
    log: String,
}

pub(crate) fn run(arguments: Arguments) -> anyhow::Result<()> {
    service::log_to_stderr(&arguments.log)?;
    let settings = server::Settings {
        registry: registry::Settings { networks: networks(&arguments)? },
        etcd: match arguments.store {
            Store::Embedded => Vec::new(),
            Store::Etcd => arguments.etcd_servers,
        },
        data: arguments.data_dir,
        listen: arguments.listen,
        kubeconfig: arguments.kubeconfig,
        advertise: arguments.advertise_address,
        audit: arguments.audit_log,
        seals_secrets: arguments.encrypt_secrets,
        pools: arguments.load_balancer_pool,
        pods: Vec::new(),
        dns: Vec::new(),
        domain: "cluster.local".into(),
    };
    service::block_on(async {
        let stop = service::told_to_stop()?;
        let serving = |address| tracing::info!(%address, "the API is served");
        Ok(server::run(settings, stop, serving).await?)
    })
}

fn networks(arguments: &Arguments) -> anyhow::Result<registry::Networks> {
    let mut service_cidrs = Vec::new();
    for text in &arguments.service_cidr {
        let parse = || -> Option<(IpAddr, u8)> {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            let max = if address.is_ipv4() { 30 } else { 126 };
            (prefix <= max).then_some((address, prefix))
        };
        let cidr = parse().with_context(|| {
            format!("--service-cidr {text:?} is no network, such as 10.96.0.0/16")
        })?;
        service_cidrs.push(cidr);
    }
    let ports = || -> Option<(u16, u16)> {
        let (first, last) = arguments.node_ports.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    };
    let words =
        || format!("--node-ports {:?} is no range, such as 30000-32767", arguments.node_ports);
    let (first, last) = ports().with_context(words)?;
    if first == 0 || last < first {
        bail!(words());
    }
    Ok(registry::Networks { service_cidrs, node_ports: first..=last })
}
