//! Fixtures of the integration tests and the demo: a lab of network namespaces, servers, clients.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cluster;
pub mod daemon;
pub mod demo;
pub mod lab;
pub mod manifests;
pub mod measure;
pub mod skip;
pub mod story;

pub use daemon::{Daemon, DaemonOptions};
pub use lab::{Lab, LabOptions, NodeName, Place};
pub use manifests::Service;
