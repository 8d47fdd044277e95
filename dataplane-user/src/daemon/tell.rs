//! Tells the programs of the node: the only task that writes `CONFIG` and the node's addresses.

use std::time::{Duration, Instant};

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
};

/// After a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// What the programs have been told.
#[derive(Debug)]
pub struct Teller {
    facts: Facts,
    held: Held,
    maps: KernelMaps,
    told: watch::Sender<Needs>,
}

impl Teller {
    /// Goes on from what the maps say already.
    pub fn new(facts: Facts, mut maps: KernelMaps) -> Result<Self, MapError> {
        let needs = read_needs(&mut maps, &facts.node_ports)?;
        let (held, told) = (Held::left_behind(needs, Instant::now()), watch::Sender::default());
        Ok(Self { facts, held, maps, told })
    }

    /// Writes what has changed of the node.
    pub fn tell(&mut self, devices: &Devices) -> Result<(), MapError> {
        write_addresses(&mut self.maps, &devices.node_port_addresses)?;
        write_config(&mut self.maps, config(&self.facts, devices, self.held.needs()))?;
        self.told.send_replace(self.held.needs().clone());
        Ok(())
    }

    /// What the configuration offers.
    pub fn told(&self) -> watch::Receiver<Needs> {
        self.told.subscribe()
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
