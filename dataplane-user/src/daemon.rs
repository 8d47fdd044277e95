//! The daemon: wires sources, table, backend, devices and the HTTP server.

pub mod cleanup;
mod connections;
pub mod departed;
pub mod doctor;
pub mod feed;
pub mod held;
pub mod leaving;
pub mod lock;
pub mod modes;
pub mod node;
pub mod places;
pub mod programs;
pub mod reading;
pub mod record;
pub mod report;
pub mod rows;
pub mod run;
pub mod serving;
pub mod settings;
pub mod sync;
pub mod tell;

pub use report::{Report, Shared};
pub use run::Node;
pub use settings::Settings;
