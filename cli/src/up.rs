//! `hashplane up`: server, node agent, dataplane and DNS on this machine, in one process.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context as _;
use control_plane::{controllers::balancer::Pool, registry, server};
use node_agent::network::Network;
use tokio::sync::{oneshot, watch};

use crate::{
    node::{NodeArguments, Welcome},
    service,
};

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
        let serving =
            tokio::spawn(server::run(server_settings, until(stopped.clone()), |address| {
                tracing::info!(%address, "the API is served");
                // Whoever waits for it may have given up.
                let _gone = tell.send(address);
            }));
        let node = async {
            let Ok(address) = told.await else { return Ok(()) };
            let at = format!("https://{}", SocketAddr::new(reached(address.ip()), address.port()));
            let node = &arguments.node;
            let files = server::NodeFiles::new(&node.server_data(), &at, &name, &addresses)?;
            let files = Welcome::from(files);
            Box::pin(node.run(&name, &addresses, &files, until(stopped.clone()))).await
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
        IpAddr::V4(_) | IpAddr::V6(_) => ip,
    }
}

fn server_settings(
    arguments: &Arguments,
    addresses: &[IpAddr],
) -> anyhow::Result<server::Settings> {
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
    settings.domain.clone_from(&node.cluster_domain);
    Ok(settings)
}
