//! Connections on their way from one mode to another. They never stand in the way of the mode: what
//! fails here costs connections and is said.

use std::time::Duration;

use crate::{
    backend::{Mode, Node},
    conntrack::moving::{self, Moving},
    ebpf::{attach::chain, maps::KernelMaps},
};

/// Between two looks whether the kernel still translates what an earlier mode began.
const RELEASE_PAUSE: Duration = Duration::from_mins(1);

/// What is on its way, if anything is.
#[derive(Debug, Default)]
pub(super) struct Connections(Option<Moving>);

impl Connections {
    /// Lets the next mode know the connections of the last one; see [`Moving::begin`] for the moment.
    pub(super) fn begin(
        ways: (Mode, Mode),
        mut maps: Option<KernelMaps>,
        node: &Node,
        instance: &str,
    ) -> Self {
        let begun =
            tokio::task::block_in_place(|| Moving::begin(ways, maps.as_mut(), node, instance));
        let begun = begun.inspect_err(|error| {
            let (error, from, to) = (chain(error), ways.0, ways.1);
            tracing::warn!(error, %from, %to, "running connections may end with the mode");
        });
        Self(begun.ok())
    }

    /// Only the next mode serves now; what became of connections, in words.
    pub(super) fn finish(self) -> Option<String> {
        let moved = tokio::task::block_in_place(|| self.0.map(Moving::finish))?;
        Some(match moved {
            Ok(moved) => format!(
                "{} connections went along, {} stay with the kernel until they end",
                moved.moved, moved.kept
            ),
            Err(error) => format!("some connections may end: {}", chain(&error)),
        })
    }

    /// The last mode serves on.
    pub(super) fn abandon(self) {
        if let Some(Err(error)) = self.0.map(Moving::abandon) {
            tracing::warn!(error = chain(&error), "tables for connections on their way are left");
        }
    }
}

/// Ends what keeps the kernel translating for an earlier mode, once nothing needs it.
pub(super) async fn release(instance: String) {
    loop {
        tokio::time::sleep(RELEASE_PAUSE).await;
        match tokio::task::block_in_place(|| moving::release(&instance)) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(error = chain(&error), "the table of connections cannot be read");
                return;
            }
        }
    }
}
