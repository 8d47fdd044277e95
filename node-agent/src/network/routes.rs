//! Routes to the pods of other nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Node;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Network;

/// What marks routes as ours (`rt_protos`: numbers from 128 on are free to use).
const OURS: u8 = 172;

/// The routes that a node should have: networks of other nodes' pods by those nodes' addresses.
pub fn wished(own: &str, nodes: &BTreeMap<String, Node>) -> BTreeMap<Network, IpAddr> {
    let mut routes = BTreeMap::new();
    for node in nodes.values() {
        if node.metadata.name.as_deref() == Some(own) {
            continue;
        }
        let addresses = node.status.as_ref().and_then(|it| it.addresses.as_ref());
        let addresses: Vec<IpAddr> = addresses
            .into_iter()
            .flatten()
            .filter(|it| it.type_ == "InternalIP")
            .filter_map(|it| it.address.parse().ok())
            .collect();
        let networks = node.spec.as_ref().and_then(|it| it.pod_cidrs.as_ref());
        for network in networks.into_iter().flatten().filter_map(|it| it.parse::<Network>().ok()) {
            let by = addresses.iter().find(|it| it.is_ipv4() == network.address.is_ipv4());
            if let Some(by) = by {
                routes.insert(network, *by);
            }
        }
    }
    routes
}

/// Makes the kernel's routes those of `wished`; other routes are not ours.
pub(crate) async fn apply(
    handle: &Handle,
    wished: &BTreeMap<Network, IpAddr>,
) -> Result<(), rtnetlink::Error> {
    let mut seen = BTreeSet::new();
    for ours in own_routes(handle).await? {
        let Some((network, by)) = read(&ours) else { continue };
        if by.is_some() && wished.get(&network) == by.as_ref() {
            seen.insert(network);
        } else {
            handle.route().del(ours).execute().await?;
        }
    }
    for (network, by) in wished {
        if seen.contains(network) {
            continue;
        }
        let Some(route) = route(network, *by) else { continue };
        match handle.route().add(route).replace().execute().await {
            Ok(()) => tracing::info!(%network, %by, "a route to another node's pods"),
            Err(error) => tracing::warn!(%network, %by, %error, "no route to another node's pods"),
        }
    }
    Ok(())
}

async fn own_routes(handle: &Handle) -> Result<Vec<RouteMessage>, rtnetlink::Error> {
    let mut routes = Vec::new();
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for question in [v4, v6] {
        let mut answers = handle.route().get(question).execute();
        while let Some(route) = answers.try_next().await? {
            if route.header.protocol == RouteProtocol::from(OURS) {
                routes.push(route);
            }
        }
    }
    Ok(routes)
}

fn read(route: &RouteMessage) -> Option<(Network, Option<IpAddr>)> {
    let ip = |address: &RouteAddress| {
        if let RouteAddress::Inet(it) = address {
            return Some(IpAddr::V4(*it));
        }
        if let RouteAddress::Inet6(it) = address {
            return Some(IpAddr::V6(*it));
        }
        None
    };
    let (mut to, mut by) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            to = ip(address);
        }
        if let RouteAttribute::Gateway(address) = attribute {
            by = ip(address);
        }
    }
    Some((Network { address: to?, prefix: route.header.destination_prefix_length }, by))
}

fn route(network: &Network, by: IpAddr) -> Option<RouteMessage> {
    let ours = RouteProtocol::from(OURS);
    match (network.address, by) {
        (IpAddr::V4(to), IpAddr::V4(by)) => Some(
            RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, network.prefix)
                .gateway(by)
                .protocol(ours)
                .build(),
        ),
        (IpAddr::V6(to), IpAddr::V6(by)) => Some(
            RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to, network.prefix)
                .gateway(by)
                .protocol(ours)
                .build(),
        ),
        _ => None,
    }
}
