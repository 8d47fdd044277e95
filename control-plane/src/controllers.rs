//! The controllers: each a plan from what is to what should be.

pub mod balancer;
pub mod budget;
pub mod collect;
pub mod deployment;
pub mod facts;
pub mod namespace;
pub mod node;
pub mod ranges;
pub mod replicas;
pub mod slices;
pub mod sweep;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use jiff::Timestamp;
use tokio::task::JoinHandle;

use crate::{
    client::Client,
    runner::{self, Clock, Controller, World, lead::Leader},
    scheduler::Scheduler,
};

/// What controllers are told from outside.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The certificate of the API's authority, as PEM, for pods; empty gives none out.
    pub root_ca: String,
    /// Pools of addresses for Services of type LoadBalancer.
    pub pools: Vec<balancer::Pool>,
    /// Networks of all pods, of which each node gets a part; without any, others give them out.
    pub pods: Vec<(IpAddr, u8)>,
    /// The name of this server, if there may be others: then only the holder of a Lease acts.
    pub identity: Option<String>,
}

/// Starts all controllers and the scheduler.
pub fn start(client: Arc<dyn Client>, settings: Settings) -> Vec<JoinHandle<()>> {
    let clock: Clock = Arc::new(Timestamp::now);
    start_at(client, settings, clock).1
}

/// The same, with a clock.
pub fn start_at(
    client: Arc<dyn Client>,
    settings: Settings,
    clock: Clock,
) -> (Arc<World>, Vec<JoinHandle<()>>) {
    let leader = match settings.identity.clone() {
        Some(identity) => Leader::among(identity, clock.clone()),
        None => Leader::alone(clock.clone()),
    };
    runner::start(client, all(settings), clock, leader)
}

fn all(settings: Settings) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(replicas::Replicas),
        Arc::new(deployment::Deployments),
        Arc::new(slices::Slices),
        Arc::new(collect::Collector),
        Arc::new(namespace::Namespaces { root_ca: settings.root_ca }),
        Arc::new(node::Nodes),
        Arc::new(ranges::Ranges { networks: settings.pods }),
        Arc::new(budget::Budgets),
        Arc::new(sweep::Sweep),
        Arc::new(balancer::Balancer { pools: settings.pools }),
        Arc::new(Scheduler),
    ]
}
