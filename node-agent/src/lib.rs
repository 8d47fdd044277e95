//! Runs pods on a node: containers, volumes, probes, network and cluster DNS.
//!
//! [`agent::run`] is the agent; [`network::plugin`] is what the runtime calls for each sandbox.
#![forbid(unsafe_code)]

pub mod agent;
pub mod containerd;
pub mod down;
pub mod image;
pub mod join;
pub mod network;
pub mod pause;
pub mod pressure;
pub mod settings;

mod announce;
mod barrier;
mod cgroup;
mod configs;
mod cri;
mod dns;
mod events;
mod node;
mod pod;
mod probe;
mod quantity;
mod resolv;
mod serve;
mod shared;
mod volume;
