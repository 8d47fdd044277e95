//! The eBPF backend: compile a table to map entries, compare with the kernel, apply.

pub mod object;
pub mod program;

mod blocks;
mod gate;
mod grace;
mod half;
mod ids;
mod owners;
mod shape;
mod sources;
mod wanted;

mod change;
mod drift;

pub mod compile;
pub mod simulate;

pub mod apply;
pub mod backend;
pub mod maps;
pub mod observe;

pub mod pin;

pub mod load;
mod records;

pub mod attach;

mod netlink;

pub mod flows;
pub mod sockets;

pub mod kernel;

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod tests;

use crate::backend::Limit;

/// What eBPF cannot do, or not yet.
pub const LIMITS: &[Limit] = &[
    Limit {
        feature: "IP fragments",
        why: "pass untranslated: only the first one says which ports it is for",
    },
    Limit {
        feature: "SCTP from the node's own processes",
        why: "not served: sockets have no hooks for it",
    },
    Limit {
        feature: "ICMP errors that the node itself sends about translated packets",
        why: "not sent: such a packet is dropped, too long for its next link or out of hops",
    },
];

pub use compile::{CapacityError, Desired};
pub(crate) use half::{address, octets};
pub use program::{Limits, Program};
