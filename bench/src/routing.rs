//! Routing modes side by side, from one service to 100,000.

pub mod compare;
pub mod csv;
pub mod lab;
pub mod load;
pub mod machine;
pub mod measure;
pub mod plan;
pub mod plot;
pub mod progress;
pub mod report;
pub mod results;
pub mod stats;
pub mod store;
pub mod table;
pub mod target;

pub use measure::{interrupt, run, worker};
pub use plan::{Observer, Options, Preset};
