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

#[cfg(test)]
mod tests;
