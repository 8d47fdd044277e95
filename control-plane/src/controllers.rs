//! The controllers: each a plan from what is to what should be.

pub mod collect;
pub mod deployment;
pub mod facts;
pub mod namespace;
pub mod replicas;
pub mod slices;

#[cfg(test)]
pub(crate) mod fake;
