//! The Kubernetes API in one process: a store, an API server over it, controllers that plan.
#![forbid(unsafe_code)]

pub mod object;
pub mod patch;
pub mod selector;
pub mod store;

pub mod api;
