//! The Kubernetes API in one process: a store, an API server over it, controllers that plan.
#![forbid(unsafe_code)]

pub mod store;
