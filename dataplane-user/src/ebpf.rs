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

pub use compile::{CapacityError, Desired};
pub use program::{Limits, Program};
