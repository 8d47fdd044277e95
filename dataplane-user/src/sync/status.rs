//! How things stand.

use std::collections::BTreeSet;

use super::{histogram::Histogram, no_local::NoLocal};
use crate::backend::{Fill, Mode};

/// What the loop has done and how things stand; a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Which backend serves.
    pub mode: Option<Mode>,
    /// The pods' links that the kernel knows, as of the last apply that succeeded.
    pub pod_links: BTreeSet<String>,
    /// Whether the kernel holds what the table says, but for those left out.
    pub in_sync: bool,
    /// Entries that are not yet as they should be.
    pub pending: usize,
    /// Rounds that changed which services there are or how they look; ask [`super::services::Services`] for them.
    pub services_version: u64,
    /// How full the maps are.
    pub fill: Vec<Fill>,
    /// How many service ports found no room.
    pub left_out: usize,
    /// Frontends that more than one service port wants.
    pub contested: usize,
    /// Applies that failed, since the start.
    pub failures: u64,
    /// What the last apply said, if it failed.
    pub last_error: Option<String>,
    /// Seconds from the moment the source gave us the first event of a batch until the maps held it.
    pub network_programming: Histogram,
    /// Seconds that compile and apply took.
    pub sync: Histogram,
    /// Entries of flows that are tracked.
    pub flow_entries: usize,
    /// Entries that somebody else had changed, found and repaired since the start.
    pub drifted: u64,
    /// How many service ports the backend serves with less than the Service asks for.
    pub limited: usize,
    /// Service ports that drop packets since only other nodes have endpoints.
    pub no_local: NoLocal,
}
