//! The integration tests, one binary.
#![forbid(unsafe_code)]
#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails, in its helper functions too"
)]

mod agree;
mod cluster_ip;
mod lab;
mod support;
