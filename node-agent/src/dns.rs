//! Cluster DNS: names of Services and their endpoints; other names are asked of the node's own servers.
//!
//! The names are those of the Kubernetes DNS specification 1.1.0
//! (<https://github.com/kubernetes/dns/blob/master/docs/specification.md>).

pub(crate) mod follow;
pub(crate) mod forward;
pub(crate) mod publish;
pub(crate) mod server;
pub(crate) mod zone;

/// Where nodes answer: 53 may be taken on a node.
pub(crate) const PORT: u16 = 10_053;
/// How long answers hold, in seconds.
pub(crate) const TTL_S: u32 = 5;
