//! Patches: JSON patch (RFC 6902), merge patch (RFC 7386), strategic merge patch.

pub mod json;
pub mod keys;
pub mod merge;
pub mod strategic;

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It is no patch.
    #[error("{0}")]
    Malformed(String),
    /// It is one, and does not fit the object.
    #[error("{0}")]
    DoesNotFit(String),
}
