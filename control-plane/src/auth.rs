//! Who asks, and what they may do.

pub mod rbac;
pub mod tls;
pub mod tokens;

use serde_json::{Value, json};

/// The group of nodes.
pub const NODES: &str = "system:nodes";
/// What the names of nodes begin with.
pub const NODE: &str = "system:node:";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// Somebody who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Name.
    pub name: String,
    /// Id; empty if there is none.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
}

impl User {
    /// Somebody without a certificate or a token.
    pub fn anonymous() -> Self {
        Self {
            name: "system:anonymous".into(),
            uid: String::new(),
            groups: vec!["system:unauthenticated".into()],
        }
    }

    /// Somebody whom a certificate or a token names.
    pub fn known(name: String, uid: String, mut groups: Vec<String>) -> Self {
        groups.push("system:authenticated".into());
        Self { name, uid, groups }
    }

    /// As `authentication.k8s.io` says it.
    pub fn as_json(&self) -> Value {
        let mut user = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            user["uid"] = json!(self.uid);
        }
        user
    }
}
