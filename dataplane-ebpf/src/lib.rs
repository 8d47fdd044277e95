//! The packet library: parse, look up, select, track, rewrite. Runs in the kernel and on the host.
//!
//! One pure function per hook takes a [`Packet`] and the [`Tables`] and returns a [`Verdict`]. The
//! kernel, the tests, the fuzzers and Miri run the same code; only the two traits differ.
#![no_std]
#![forbid(unsafe_code)]

pub mod packet;
mod way;
pub mod wire;

pub mod checksum;
pub mod crc32c;
pub mod headers;
pub mod offload;

pub mod tables;

pub mod address;

pub mod conntrack;
pub mod find;
pub mod select;

pub mod answer;
pub mod errors;
pub mod limit;
pub mod rewrite;
pub mod unfinished;

pub mod pipeline;
pub mod sockets;

pub use headers::Headers;
pub use packet::Packet;
pub use pipeline::{Hop, Verdict, egress, ingress};
pub use select::Scope;
pub use tables::{Insert, Node, Route, Tables};

#[cfg(any(test, feature = "host"))]
extern crate std;

#[cfg(any(test, feature = "host"))]
pub mod host;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod service;
