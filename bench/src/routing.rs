//! Routing modes side by side, from one service to 100,000.

pub mod results;
