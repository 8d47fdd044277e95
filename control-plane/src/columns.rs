//! What people are shown of each kind of object.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::object;

/// One column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its head.
    pub name: &'static str,
    /// `string`, `integer`, `date`.
    pub kind: &'static str,
    /// `name` for the column with the name.
    pub format: &'static str,
    /// What it holds.
    pub description: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: u8,
}

/// The columns of a kind.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds a function")]
pub struct Columns {
    /// Their heads.
    pub definitions: &'static [Column],
    /// The cells of an object, as many as there are definitions.
    pub row: fn(&Value, now: Timestamp) -> Vec<Value>,
}

/// Kinds without columns of their own.
pub const NAME_AND_AGE: Columns = Columns {
    definitions: &[
        Column { name: "Name", kind: "string", format: "name", description: "Name", priority: 0 },
        Column { name: "Created At", kind: "date", format: "", description: "Age", priority: 0 },
    ],
    row: |object, _now| {
        vec![
            json!(object::name(object)),
            json!(object::text(object, &["metadata", "creationTimestamp"])),
        ]
    },
};
