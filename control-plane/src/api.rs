//! The Kubernetes API over HTTP: what clients ask for, and what they hear.

pub mod path;
pub mod status;
