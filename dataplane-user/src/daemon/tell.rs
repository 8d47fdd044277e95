//! Tells the programs of the node: the only task that writes `CONFIG` and the node's addresses.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use tokio::{sync::watch, time};

use super::{
    held::Held,
    node::{Facts, config, read_needs, write_addresses, write_config},
};
use crate::{
    backend::Needs,
    devices::Devices,
    ebpf::{
        attach,
        maps::{KernelMaps, MapError},
    },
    http::health_check,
};

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the programs have been told.
#[derive(Debug)]
pub struct Teller {
    facts: Facts,
    held: Held,
    maps: KernelMaps,
    addresses: watch::Sender<BTreeSet<IpAddr>>,
    health_addresses: watch::Sender<health_check::Addresses>,
}

impl Teller {
    /// Goes on from what the maps say already. Health checks are answered on `every` address, or
    /// on those that serve node ports.
    pub fn new(facts: Facts, mut maps: KernelMaps, every: bool) -> Result<Self, MapError> {
        let needs = read_needs(&mut maps, &facts.node_ports)?;
        let health_addresses = health_check::Addresses { every, list: BTreeSet::new() };
        Ok(Self {
            held: Held::left_behind(needs, Instant::now()),
            facts,
            maps,
            addresses: watch::Sender::new(BTreeSet::new()),
            health_addresses: watch::Sender::new(health_addresses),
        })
    }

    /// The node's addresses, for the table of services.
    pub fn addresses(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.addresses.subscribe()
    }

    /// Where health checks of Services are answered.
    pub fn health_addresses(&self) -> watch::Receiver<health_check::Addresses> {
        self.health_addresses.subscribe()
    }

    /// Writes what has changed of the node.
    pub fn tell(&mut self, devices: &Devices) -> Result<(), MapError> {
        write_addresses(&mut self.maps, &devices.node_port_addresses)?;
        write_config(&mut self.maps, config(&self.facts, devices, self.held.needs()))?;
        self.addresses.send_if_modified(|known| {
            let changed = *known != devices.node_addresses;
            known.clone_from(&devices.node_addresses);
            changed
        });
        self.health_addresses.send_if_modified(|known| {
            let changed = known.list != devices.node_port_addresses;
            known.list.clone_from(&devices.node_port_addresses);
            changed
        });
        Ok(())
    }

    /// Follows the devices, and what the loop needs, until neither comes any more.
    pub async fn run(
        mut self,
        mut devices: watch::Receiver<Devices>,
        mut needs: watch::Receiver<Needs>,
    ) {
        let mut is_told = true;
        loop {
            let expires = self.held.expires();
            let expiry = async {
                match expires {
                    Some(at) => time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = devices.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                changed = needs.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    if !self.held.set(needs.borrow_and_update().clone(), Instant::now()) {
                        continue;
                    }
                }
                () = expiry => {
                    self.held.expire(Instant::now());
                }
                () = time::sleep(RETRY), if !is_told => {}
            }
            let now = devices.borrow_and_update().clone();
            let result = self.tell(&now);
            is_told = result.is_ok();
            if let Err(error) = result {
                let error = attach::chain(&error);
                tracing::error!(error, "the programs do not know of the node, trying again");
            }
        }
    }
}
