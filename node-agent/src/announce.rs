//! Announces addresses of Services of type LoadBalancer on the nodes' network: one node answers for each of
//! them (ARP, RFC 826; neighbour discovery, RFC 4861), and another one when it dies.
//!
//! No node has the address: the dataplane takes its packets as they arrive.

mod elect;
mod follow;
mod link;
mod packet;
mod table;

pub(crate) use follow::{Nodes, follow};
pub(crate) use table::Table;
