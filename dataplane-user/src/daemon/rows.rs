//! What the tools show of backends without maps, told by the daemon, which has the table.

use crate::{
    backend,
    conntrack::Table,
    model::Family,
    sync::{
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
}

impl Rows {
    /// For the loop that these are of.
    pub fn new(snapshots: Snapshots, services: Services) -> Self {
        Self { snapshots, services }
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

    async fn look(&self) -> Option<(Snapshot, Ports)> {
        let snapshot = self.snapshots.take().await?;
        let listing = self.services.list().await?;
        let ports = Ports::new(&snapshot, &listing.ports);
        Some((snapshot, ports))
    }
}
