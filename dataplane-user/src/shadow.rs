//! Compares what the eBPF maps would decide with what netfilter did, without touching traffic.

pub mod compare;
pub mod counts;

mod listen;
mod nowhere;

pub mod shadowed;

pub use compare::Finding;
pub use counts::Counts;
pub use shadowed::Shadowed;

#[cfg(test)]
mod tests;
