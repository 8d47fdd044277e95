//! Real traffic: the same cases and the same answers, whichever backend serves the nodes.
//!
//! `HASHPLANE_MODE` says which one; `cargo xtask test` runs these cases once for each.

mod affinity;
mod change;
pub(crate) mod cluster_ip;
mod dual_stack;
mod foreign;
mod health_check;
mod host_port;
pub(crate) mod icmp;
mod kinds;
mod load_balancer;
pub(crate) mod masquerade;
pub(crate) mod node_port;
pub(crate) mod policy;
pub(crate) mod refusal;
mod sctp;
mod terminating;
mod topology;
