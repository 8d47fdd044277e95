//! The iptables backend: compile a table to chains, compare with the kernel, restore what differs.

pub mod backend;
pub mod command;
pub mod limits;
pub mod names;
pub mod observe;
pub mod program;
pub mod rule;
pub mod simulate;

mod fixed;
mod half;
mod localnet;
mod port;
mod restore;

#[cfg(test)]
mod tests;

pub use self::{
    backend::Iptables,
    command::Variant,
    limits::LIMITS,
    program::{MASQUERADE_MARK, Program},
    simulate::simulate,
};
