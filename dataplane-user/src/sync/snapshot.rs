//! What the kernel should hold, told when somebody asks.
//!
//! Copying costs O(endpoints), so the loop does it for a reader and never for a change.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, oneshot};

use crate::{
    backend::{Desired, Mode, Node},
    model::{PortKey, PortState},
};

/// The table, the node, and who programs both.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Which backend serves.
    pub mode: Mode,
    /// What it knows of the node.
    pub node: Node,
    ports: BTreeMap<PortKey, PortState>,
}

impl Snapshot {
    pub(super) fn new(mode: Mode, node: Node, table: &impl Desired) -> Self {
        let ports = table.keys().filter_map(|key| Some((key.clone(), table.port(&key)?)));
        Self { mode, node, ports: ports.collect() }
    }
}

impl Desired for Snapshot {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(self.ports.keys().cloned())
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.ports.get(key).cloned()
    }
}

/// Somebody who waits; `None` is the answer before everything was programmed once.
pub(super) type Question = oneshot::Sender<Option<Snapshot>>;

/// Asks the loop.
#[derive(Clone, Debug)]
pub struct Snapshots(mpsc::Sender<Question>);

impl Snapshots {
    pub(super) fn new(ask: mpsc::Sender<Question>) -> Self {
        Self(ask)
    }

    /// What should be now; `None` before the source has told everything, and when the loop has ended.
    pub async fn take(&self) -> Option<Snapshot> {
        let (answer, snapshot) = oneshot::channel();
        self.0.send(answer).await.ok()?;
        snapshot.await.ok().flatten()
    }
}
