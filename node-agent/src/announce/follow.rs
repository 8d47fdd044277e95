//! Keeps answering for the addresses that fall to this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{interval, sleep, timeout},
};

use super::{
    elect::winner,
    link::{self, Device, Sockets},
    packet::Heard,
};
use crate::shared::Shared;

/// Between two looks at the nodes that answer for addresses.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that a node may miss before another one answers in its place.
const MISSED_MAX: u32 = 3;
/// How many times a claim is repeated, a look apart: what was lost is said again.
const REPEATS: u32 = 3;
/// Before sockets are opened again.
const AGAIN: Duration = Duration::from_secs(10);

/// The nodes that are ready, and where they are.
pub(crate) type Nodes = BTreeMap<String, IpAddr>;

/// Answers for as long as the agent runs.
pub(crate) async fn follow(shared: Arc<Shared>, nodes: watch::Receiver<Nodes>) {
    loop {
        let sockets = match Sockets::open() {
            Ok(sockets) => sockets,
            Err(error) => {
                tracing::warn!(%error, "nobody here answers for addresses of load balancers");
                return;
            }
        };
        let announcer = Announcer {
            shared: shared.clone(),
            nodes: nodes.clone(),
            sockets,
            missed: BTreeMap::new(),
            held: BTreeMap::new(),
            disputed: BTreeSet::new(),
        };
        if let Err(error) = announcer.run().await {
            tracing::warn!(%error, "the answers for addresses of load balancers begin anew");
            sleep(AGAIN).await;
        }
    }
}

/// An address that this node answers for.
struct Held {
    about: ObjectReference,
    devices: Vec<Device>,
    /// Claims that are still to be sent.
    repeats: u32,
}

struct Announcer {
    shared: Arc<Shared>,
    nodes: watch::Receiver<Nodes>,
    sockets: Sockets,
    /// Looks that nodes have missed in a row.
    missed: BTreeMap<String, u32>,
    held: BTreeMap<IpAddr, Held>,
    /// Addresses that somebody outside of the cluster claims too.
    disputed: BTreeSet<IpAddr>,
}

impl Announcer {
    async fn run(mut self) -> std::io::Result<()> {
        let mut changed = self.shared.balanced_changed.subscribe();
        let mut looks = interval(LOOK);
        self.elect()?;
        loop {
            tokio::select! {
                heard = self.sockets.hear() => {
                    let (heard, index) = heard?;
                    self.answer(heard, index);
                }
                Ok(()) = changed.changed() => self.elect()?,
                Ok(()) = self.nodes.changed() => self.elect()?,
                _ = looks.tick() => {
                    self.look().await;
                    self.elect()?;
                    self.repeat();
                }
            }
        }
    }

    /// Whether the others that answer for addresses, and this node's own dataplane, are alive.
    async fn look(&mut self) {
        let nodes = self.nodes.borrow().clone();
        let port = self.shared.settings.dataplane_port;
        let mut asked = self.winners(&nodes);
        if !asked.is_empty() {
            asked.insert(self.shared.settings.node.clone());
        }
        let looks = asked.into_iter().filter_map(|node| {
            let at = SocketAddr::new(*nodes.get(&node)?, port);
            Some(async move {
                let is_there = matches!(timeout(LOOK, TcpStream::connect(at)).await, Ok(Ok(_)));
                (node, is_there)
            })
        });
        for (node, is_there) in join_all(looks).await {
            let missed = self.missed.entry(node).or_default();
            *missed = if is_there { 0 } else { missed.saturating_add(1) };
        }
        self.missed.retain(|node, _| nodes.contains_key(node));
    }

    /// Nodes that answer for some address if all that are ready are alive, and those that really do.
    fn winners(&self, nodes: &Nodes) -> BTreeSet<String> {
        let table = self.shared.balanced.read().unwrap_or_else(PoisonError::into_inner).addresses();
        let mut winners = BTreeSet::new();
        for (address, (_, on)) in &table {
            let could = |node: &&str| on.as_ref().is_none_or(|on| on.contains(*node));
            let all = nodes.keys().map(String::as_str).filter(could);
            winners.extend(winner(*address, all).map(str::to_owned));
            let alive = nodes.keys().map(String::as_str).filter(could).filter(|it| self.lives(it));
            winners.extend(winner(*address, alive).map(str::to_owned));
        }
        winners
    }

    fn lives(&self, node: &str) -> bool {
        self.missed.get(node).is_none_or(|missed| *missed < MISSED_MAX)
    }

    /// Takes the addresses that fall to this node now, and lets the others go.
    fn elect(&mut self) -> std::io::Result<()> {
        let table = self.shared.balanced.read().unwrap_or_else(PoisonError::into_inner).addresses();
        if table.is_empty() && self.held.is_empty() {
            return Ok(());
        }
        let own = self.shared.settings.node.clone();
        let nodes = self.nodes.borrow().clone();
        let devices = link::devices(&self.shared.place().host)?;
        let mut kept = BTreeSet::new();
        for (address, (service, on)) in table {
            let could = |node: &&str| on.as_ref().is_none_or(|on| on.contains(*node));
            let alive = nodes.keys().map(String::as_str).filter(could).filter(|it| self.lives(it));
            if winner(address, alive) != Some(own.as_str()) {
                continue;
            }
            let near: Vec<Device> = devices
                .iter()
                .filter(|device| device.networks.iter().any(|it| it.has(address)))
                .cloned()
                .collect();
            if near.is_empty() {
                // Neighbours would not ask for it; a router leads here, or nobody comes.
                continue;
            }
            kept.insert(address);
            self.hold(address, near, service.about);
        }
        self.held.retain(|address, _| kept.contains(address));
        Ok(())
    }

    fn hold(&mut self, address: IpAddr, devices: Vec<Device>, about: ObjectReference) {
        let names = |devices: &[Device]| -> Vec<String> {
            devices.iter().map(|it| it.name.clone()).collect()
        };
        if let Some(held) = self.held.get_mut(&address)
            && names(&held.devices) == names(&devices)
        {
            held.devices = devices;
            return;
        }
        if let IpAddr::V6(v6) = address {
            for device in &devices {
                self.sockets.join(device, v6);
            }
        }
        let on = names(&devices).join(", ");
        let node = &self.shared.settings.node;
        tracing::info!(%address, on, "this node answers for an address of a load balancer");
        let words = format!("node {node} answers for {address} on {on}");
        self.shared.events.about(about.clone(), false, "Announced", words);
        let held = Held { about, devices, repeats: REPEATS };
        claim(&self.sockets, address, &held);
        self.held.insert(address, held);
    }

    fn repeat(&mut self) {
        for (address, held) in self.held.iter_mut().filter(|(_, held)| held.repeats > 0) {
            held.repeats -= 1;
            claim(&self.sockets, *address, held);
        }
    }

    fn answer(&mut self, heard: Heard, index: usize) {
        match heard {
            Heard::Asks { who, at, target } => {
                let Some(held) = self.held.get(&target) else { return };
                let device = held.devices.iter().find(|it| it.link.ifindex() == index);
                if let Some(device) = device.filter(|it| it.mac != who) {
                    let said = self.sockets.claim(device, target, Some((who, at)));
                    if let Err(error) = said {
                        tracing::debug!(%error, %target, "an answer is not sent");
                    }
                }
            }
            Heard::Claims { who, address } => self.dispute(who, address),
        }
    }

    /// Somebody else says that it has an address of ours: the node before us, for a moment, or a machine
    /// that has nothing to do with us.
    fn dispute(&mut self, who: [u8; 6], address: IpAddr) {
        let Some(held) = self.held.get_mut(&address) else { return };
        if held.devices.iter().any(|it| it.mac == who) {
            return;
        }
        // Who heard the other hears us again.
        held.repeats = held.repeats.max(1);
        if self.disputed.insert(address) {
            let who = who.map(|byte| format!("{byte:02x}")).join(":");
            let words = format!("{who} says that it has {address} too");
            tracing::warn!("{words}");
            self.shared.events.about(held.about.clone(), true, "AddressConflict", words);
        }
    }
}

fn claim(sockets: &Sockets, address: IpAddr, held: &Held) {
    for device in &held.devices {
        if let Err(error) = sockets.claim(device, address, None) {
            tracing::warn!(%error, %address, device = device.name, "an address is not announced");
        }
    }
}
