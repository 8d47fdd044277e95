//! What the compiled program asks of the node's configuration.

use std::ops::RangeInclusive;

use crate::ebpf::Program;

/// What has to be in the configuration for the maps to work. It is told before they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Answers that leave by a NIC have to be looked up there.
    pub nic_replies: bool,
    /// Ports of frontends on every node address that are no node ports, from the first to the last.
    pub host_ports: Option<RangeInclusive<u16>>,
}

impl Needs {
    pub(super) fn of(program: &Program) -> Self {
        Self { nic_replies: program.needs_nic_replies(), host_ports: program.host_ports() }
    }

    /// What either of them needs.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let host_ports = match (&self.host_ports, &other.host_ports) {
            (Some(a), Some(b)) => Some(*a.start().min(b.start())..=*a.end().max(b.end())),
            (range, None) | (None, range) => range.clone(),
        };
        Self { nic_replies: self.nic_replies || other.nic_replies, host_ports }
    }
}
