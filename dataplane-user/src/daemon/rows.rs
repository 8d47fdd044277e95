//! What the tools show of backends without maps, told by the daemon, which has the table.

use std::{net::IpAddr, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::{
    backend,
    conntrack::Table,
    model::Family,
    sync::{
        Status,
        services::Services,
        snapshot::{Snapshot, Snapshots},
    },
    view::{EndpointRow, FlowRow, FrontendRow, desired::Ports},
};

/// Tells rows when asked.
#[derive(Clone, Debug)]
pub struct Rows {
    snapshots: Snapshots,
    services: Services,
    rounds: watch::Receiver<Status>,
}

impl Rows {
    /// For the loop that these are of.
    pub fn new(snapshots: Snapshots, services: Services, rounds: watch::Receiver<Status>) -> Self {
        Self { snapshots, services, rounds }
    }

    /// Every frontend; nothing before the table is complete.
    pub async fn frontends(&self) -> Vec<FrontendRow> {
        self.look().await.map(|(_, ports)| ports.frontends()).unwrap_or_default()
    }

    /// Every endpoint.
    pub async fn endpoints(&self) -> Vec<EndpointRow> {
        self.look().await.map(|(_, ports)| ports.endpoints()).unwrap_or_default()
    }

    /// Every tracked connection that a frontend's rules have sent on.
    pub async fn flows(&self) -> Result<Vec<FlowRow>, backend::Error> {
        let Some((snapshot, ports)) = self.look().await else { return Ok(Vec::new()) };
        let listed = tokio::task::spawn_blocking(move || {
            let mut table = Table::open()?;
            let mut entries = table.entries(Family::V4)?;
            entries.extend(table.entries(Family::V6)?);
            Ok::<_, crate::netlink::Error>(ports.flows(&entries, &snapshot.node))
        });
        Ok(listed.await??)
    }

    /// Whether none of the addresses takes new connections of any Service, now or within `within`: what
    /// the kernel holds is looked at again after each round that changed something.
    pub async fn have_left(&self, addresses: &[IpAddr], within: Duration) -> bool {
        let end = Instant::now() + within;
        let mut rounds = self.rounds.clone();
        loop {
            let is_quiet = {
                let status = rounds.borrow_and_update();
                status.in_sync && status.pending == 0
            };
            if is_quiet && !self.endpoints().await.iter().any(|it| addresses.contains(&it.address))
            {
                return true;
            }
            match timeout_at(end, rounds.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return false,
            }
        }
    }

    async fn look(&self) -> Option<(Snapshot, Ports)> {
        let snapshot = self.snapshots.take().await?;
        let listing = self.services.list().await?;
        let ports = Ports::new(&snapshot, &listing.ports);
        Some((snapshot, ports))
    }
}
