//! The IPVS backend: virtual servers and destinations, with nftables for what IPVS cannot say.

pub mod contents;
pub mod server;
pub mod treatment;

mod message;

mod derive;
pub mod limits;
mod marks;
pub mod program;

pub mod render;
pub mod simulate;

pub use limits::LIMITS;
pub use program::Program;
