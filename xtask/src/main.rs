//! `cargo xtask`: set-up, tests, demo and releases.

fn main() {}
