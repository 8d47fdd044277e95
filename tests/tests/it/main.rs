//! The integration tests, one binary.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in its helper functions too"
)]

mod affinity;
mod agree;
mod change;
mod cluster_ip;
mod demo;
mod deploy;
mod dual_stack;
mod faults;
mod health_check;
mod host_port;
mod icmp;
mod kinds;
mod lab;
mod load_balancer;
mod masquerade;
mod node_port;
mod policy;
mod refusal;
mod sctp;
mod support;
mod terminating;
mod tools;
mod topology;
mod verifier;
