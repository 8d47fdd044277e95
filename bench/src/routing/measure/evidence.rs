//! How it is known that packets took the route that is measured: what the kernel counts.

use std::net::SocketAddr;

use anyhow::ensure;

use crate::routing::{
    lab::{
        NODE_IP, NODE_IP6,
        dataplane::{Dataplane, Seen},
        objects::NODE_PORT,
    },
    results::Route,
};

/// Where there are no services there is nothing to count.
pub(super) const NOTHING: &str = "nothing translates on this node";

/// How it is known that this many connections to `to` took the route; an error if they did not.
pub(super) fn connections(
    dataplane: &Dataplane,
    before: Seen,
    count: u64,
    to: SocketAddr,
) -> anyhow::Result<String> {
    let now = dataplane.seen()?;
    let name = dataplane.route().name();
    match dataplane.route() {
        Route::EbpfSocket => {
            let seen = now.sockets - before.sockets;
            ensure!(seen >= count, "{seen} of {count} connections went through {name}");
            Ok(format!("{seen} calls translated by the socket hooks"))
        }
        Route::EbpfTc | Route::EbpfXdp => {
            let seen = now.pod - before.pod;
            ensure!(seen >= count, "{seen} of {count} connections went through {name}");
            Ok(format!("{seen} packets translated by TC on the pod's link"))
        }
        Route::Ipvs => {
            let seen = now.ipvs - before.ipvs;
            ensure!(seen >= count, "{seen} of {count} connections went through {name}");
            Ok(format!("{seen} connections counted by IPVS"))
        }
        Route::Iptables
        | Route::Nftables
        | Route::KubeProxyIptables
        | Route::KubeProxyIpvs
        | Route::KubeProxyNftables
        | Route::Direct
        | Route::DirectAgain
        | Route::Target => {
            let (ours, all) = dataplane.tracked(to)?;
            ensure!(ours > 0, "no tracked connection to {to} was translated by {name}");
            Ok(format!("{ours} of {all} tracked connections lead from {to} to an endpoint"))
        }
    }
}

/// The same for packets that went through the node port.
pub(super) fn packets(
    dataplane: &Dataplane,
    before: Seen,
    count: u64,
    ipv6: bool,
) -> anyhow::Result<String> {
    let now = dataplane.seen()?;
    let (seen, how) = match dataplane.route() {
        Route::EbpfXdp => (now.xdp - before.xdp, "XDP on the NIC"),
        Route::EbpfTc | Route::EbpfSocket => (now.nic - before.nic, "TC on the NIC"),
        Route::Ipvs
        | Route::Iptables
        | Route::Nftables
        | Route::KubeProxyIptables
        | Route::KubeProxyIpvs
        | Route::KubeProxyNftables
        | Route::Direct
        | Route::DirectAgain
        | Route::Target => {
            let to = if ipv6 {
                SocketAddr::from((NODE_IP6, NODE_PORT))
            } else {
                SocketAddr::from((NODE_IP, NODE_PORT))
            };
            let (ours, _) = dataplane.tracked(to)?;
            ensure!(ours > 0, "no tracked flow to {to} was translated");
            return Ok(format!("{ours} tracked flow from {to} to an endpoint"));
        }
    };
    ensure!(seen >= count, "{seen} of {count} packets were translated by {how}");
    Ok(format!("{seen} packets translated by {how}"))
}
