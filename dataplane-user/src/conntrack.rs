//! The kernel's connection tracking table: what of it is ours, what has to leave it, what moves to another backend.

pub mod entry;

pub mod convert;
pub mod guard;
pub mod moving;
pub mod place;
pub mod stale;
pub mod table;
pub mod tended;

pub use entry::{Entry, Tuple};
pub use table::Table;
pub use tended::Tended;
