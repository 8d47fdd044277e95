//! The integration tests, one binary.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in its helper functions too"
)]

mod agree;
mod change;
mod cluster_ip;
mod demo;
mod deploy;
mod faults;
mod lab;
mod node_port;
mod refusal;
mod sctp;
mod support;
mod tools;
mod verifier;
