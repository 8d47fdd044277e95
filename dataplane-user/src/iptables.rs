//! The iptables backend: compile a table to chains, compare with the kernel, restore what differs.

pub mod names;
pub mod program;
pub mod rule;
pub mod simulate;

mod fixed;
mod half;
mod port;

#[cfg(test)]
mod tests;

pub use self::program::{MASQUERADE_MARK, Program};
