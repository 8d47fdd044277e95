//! The integration tests, one binary.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in its helper functions too"
)]

mod agree;
mod demo;
mod deploy;
mod doctor;
mod ebpf;
mod faults;
mod lab;
mod rules;
mod sctp;
mod support;
mod switch;
mod tools;
mod traffic;
mod verifier;
