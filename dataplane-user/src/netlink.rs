//! Netlink by hand: messages, attributes, dumps and batches, for the families that no crate of ours speaks.

mod attributes;
mod error;
pub mod generic;
pub mod netfilter;
mod socket;

pub use attributes::{Attribute, Attributes, attributes};
pub use error::Error;
pub use socket::{Message, Received, Socket};

#[cfg(test)]
mod tests;
