//! What follows from the node's devices, for everybody who does not care about devices.

use std::{collections::BTreeSet, net::IpAddr};

use tokio::sync::watch;

use super::node::backend_node;
use crate::{
    backend::Node,
    devices::{Devices, NodePortAddresses},
    http::health_check,
};

/// Receivers that follow the devices.
#[derive(Clone, Debug)]
pub struct Places {
    /// The node's addresses, for the table of services.
    pub addresses: watch::Receiver<BTreeSet<IpAddr>>,
    /// Where health checks of Services are answered.
    pub health: watch::Receiver<health_check::Addresses>,
    /// What backends know of the node.
    pub node: watch::Receiver<Node>,
}

/// Follows the devices for as long as they are told of.
pub fn follow(mut devices: watch::Receiver<Devices>, node_ports: &NodePortAddresses) -> Places {
    let every = *node_ports == NodePortAddresses::All;
    let loopback = node_ports.has_loopback();
    let checks = move |devices: &Devices| health_check::Addresses {
        every,
        list: devices.node_port_addresses.clone(),
    };
    let now = devices.borrow_and_update().clone();
    let (addresses, addresses_told) = watch::channel(now.node_addresses.clone());
    let (health, health_told) = watch::channel(checks(&now));
    let (node, node_told) = watch::channel(backend_node(&now, loopback));
    tokio::spawn(async move {
        while devices.changed().await.is_ok() {
            let now = devices.borrow_and_update().clone();
            tell(&addresses, now.node_addresses.clone());
            tell(&health, checks(&now));
            tell(&node, backend_node(&now, loopback));
        }
    });
    Places { addresses: addresses_told, health: health_told, node: node_told }
}

fn tell<T: PartialEq>(to: &watch::Sender<T>, now: T) {
    to.send_if_modified(|told| {
        let changed = *told != now;
        *told = now;
        changed
    });
}
