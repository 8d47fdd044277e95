//! The controllers: each a plan from what is to what should be.

pub mod deployment;
pub mod facts;
pub mod replicas;
pub mod slices;

#[cfg(test)]
mod fake;
