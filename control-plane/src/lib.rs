//! The Kubernetes API in one process: a store, an API server over it, controllers that plan.
#![forbid(unsafe_code)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what JSON holds is one of few, and the rest is refused; new errors of the store fail like the others"
)]

pub mod auth;
pub mod bootstrap;
pub mod client;
pub mod columns;
pub mod object;
pub mod openapi;
pub mod ownership;
pub mod patch;
pub mod pod;
pub mod protobuf;
pub mod quantity;
pub mod registry;
pub mod remote;
pub mod resource;
pub mod rules;
pub mod schema;
pub mod selector;
pub mod server;
pub mod simulate;
pub mod store;

pub mod cache;
pub mod controllers;
pub mod runner;
pub mod scheduler;

pub mod api;
