//! Pods: each has a worker that brings what runs towards what should run, and tells the API what is so.

pub(crate) mod act;
pub(crate) mod end;
pub(crate) mod env;
pub(crate) mod hook;
pub(crate) mod image;
pub(crate) mod make;
pub(crate) mod plan;
pub(crate) mod probing;
pub(crate) mod seen;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod worker;

#[cfg(test)]
mod tests;
