//! The nftables backend: one table per family, whose chains are few and whose maps are large.

pub mod attributes;
pub mod batch;
pub mod dump;
pub mod encode;
pub mod expression;
pub mod object;
pub mod socket;

pub mod layout;
pub mod treatment;

mod change;
mod edits;
mod elements;
mod half;
pub mod program;

mod image;
mod sysctl;
mod write;

pub mod backend;
pub mod simulate;

pub use backend::Nftables;
pub use program::{LIMITS, Program};
pub use simulate::simulate;

#[cfg(test)]
mod tests;
