//! The IPVS backend: virtual servers and destinations, with nftables for what IPVS cannot say.

pub mod contents;
pub mod server;
pub mod treatment;

mod message;

mod derive;
mod drift;
pub mod limits;
mod marks;
pub mod program;

pub mod error;
pub mod system;
pub mod writer;

pub mod device;
pub mod host;
mod rules;
mod services;
mod settings;
mod table;

pub mod backend;

pub mod render;
pub mod simulate;

pub use backend::Ipvs;
pub use limits::LIMITS;
pub use program::Program;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
