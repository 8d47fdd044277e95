//! The Kubernetes API over HTTP: what clients ask for, and what they hear.

pub mod answer;
pub mod asked;
pub mod audit;
pub mod connect;
pub mod discovery;
pub mod join;
pub mod listen;
pub mod metrics;
pub mod negotiate;
pub mod path;
pub mod query;
pub mod read;
pub mod reviews;
pub mod scale;
pub mod serve;
pub mod show;
pub mod status;
pub mod tunnel;
pub mod usage;
pub mod watch;
pub mod write;
