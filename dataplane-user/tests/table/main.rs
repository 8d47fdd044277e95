//! The service table, from objects to what it says.
#![expect(clippy::unwrap_used, clippy::panic, reason = "every line of this crate is a test")]

mod changes;
mod host_ports;
mod matrix;
mod objects;
mod outside;
mod problems;
mod scenarios;
mod types;
mod views;
mod zones;
