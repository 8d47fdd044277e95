//! What holds for each kind of object: its defaults, and what it must be like.

mod field;
mod fill;
pub mod limits;
mod metadata;
pub mod others;
pub mod pods;
pub mod services;
mod text;
pub mod workloads;

use serde_json::Value;

use crate::api::status::Cause;

/// The rules of one kind.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Rules {
    /// Fills in what the client left out, as upstream does; idempotent.
    pub default: fn(&mut Value),
    /// Everything that is wrong with an object, or with changing `old` into it. It has its defaults.
    pub validate: fn(new: &Value, old: Option<&Value>) -> Vec<Cause>,
    /// The same for a change of its status alone.
    pub validate_status: fn(new: &Value, old: &Value) -> Vec<Cause>,
}

/// Rules of a kind that has none of its own.
pub const NONE: Rules =
    Rules { default: |_| {}, validate: |_, _| Vec::new(), validate_status: |_, _| Vec::new() };
