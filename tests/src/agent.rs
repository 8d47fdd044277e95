//! A process inside one namespace and cgroup of the lab, which serves and asks as it is told.
//!
//! Sockets belong to the cgroup of the process that makes them, and socket hooks act on cgroups;
//! so every pod and host of a lab has a process of its own. It takes [`protocol::Op`]s as lines of
//! JSON and ends with its input, that is, with whoever started it.

mod ask;
mod connect;
mod http;
mod load;
pub mod protocol;
mod run;
mod serve;
mod sockets;

pub(crate) use connect::open_sctp;
pub use run::run_if_asked;
