//! The Kubernetes API in one process: a store, an API server over it, controllers that plan.
#![forbid(unsafe_code)]

pub mod client;
pub mod object;
pub mod patch;
pub mod rules;
pub mod selector;
pub mod store;

pub mod cache;
pub mod controllers;
pub mod runner;
pub mod scheduler;

pub mod api;
