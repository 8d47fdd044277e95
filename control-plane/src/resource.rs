//! The kinds of objects that the server knows: one entry of a table each.

mod table;

use crate::{client::Kind, columns::Columns, rules::Rules};

pub use self::table::RESOURCES;

/// What can be done with objects of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbs {
    /// Everything: they are stored.
    All,
    /// They are answered when they are created, and not stored.
    CreateOnly,
    /// They are made up when they are read.
    ReadOnly,
}

/// A part of an object with a path of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The last part of its path.
    pub name: &'static str,
    /// Group and version of what is sent and answered; empty where they are those of the object.
    pub group: &'static str,
    /// See `group`.
    pub version: &'static str,
    /// Kind of what is sent and answered; empty where it is the object itself.
    pub kind: &'static str,
    /// As discovery has them.
    pub verbs: &'static [&'static str],
}

/// A kind of object.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct Resource {
    /// Group; empty for the core group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Name in the plural, as in paths.
    pub plural: &'static str,
    /// Name in the singular.
    pub singular: &'static str,
    /// Short names for people.
    pub short: &'static [&'static str],
    /// Groups of kinds, such as `all`.
    pub categories: &'static [&'static str],
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// What can be done with them.
    pub verbs: Verbs,
    /// Parts with paths of their own.
    pub parts: &'static [Part],
    /// Fields that selectors may ask for, beside name and namespace.
    pub fields: &'static [&'static str],
    /// Whether `metadata.generation` counts the changes of everything but metadata and status.
    pub has_generation: bool,
    /// Defaults and what is allowed.
    pub rules: Rules,
    /// What people are shown.
    pub columns: Columns,
}

impl Resource {
    /// Names the kind for [`crate::client::Client`].
    pub const fn id(&self) -> Kind {
        Kind { group: self.group, plural: self.plural }
    }

    /// `v1`, `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(self.group, self.version)
    }

    /// The part of this name.
    pub fn part(&self, name: &str) -> Option<&'static Part> {
        self.parts.iter().find(|part| part.name == name)
    }

    /// Whether status is a part of its own.
    pub fn has_status(&self) -> bool {
        self.part("status").is_some()
    }

    /// `deployments.apps`, `pods`: as messages name it.
    pub fn full_name(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_owned()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
}

/// `v1`, `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// The resource that a path names.
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|it| it.group == group && it.version == version && it.plural == plural)
}

/// The resource of a kind.
pub fn by_id(id: Kind) -> Option<&'static Resource> {
    RESOURCES.iter().find(|it| it.id() == id)
}

/// The resource of an object's `apiVersion` and `kind`.
pub fn by_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|it| it.kind == kind && it.api_version() == api_version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_kind_and_every_path_is_there_once() {
        let kinds: BTreeSet<_> =
            RESOURCES.iter().map(|it| (it.group, it.version, it.kind)).collect();
        let paths: BTreeSet<_> =
            RESOURCES.iter().map(|it| (it.group, it.version, it.plural)).collect();
        assert_eq!(kinds.len(), RESOURCES.len());
        assert_eq!(paths.len(), RESOURCES.len());
    }

    #[test]
    fn a_resource_is_found_by_path_id_and_kind() {
        let pods = by_path("", "v1", "pods").expect("pods");
        assert_eq!(pods.kind, "Pod");
        assert_eq!(by_id(pods.id()).map(|it| it.kind), Some("Pod"));
        assert_eq!(by_kind("apps/v1", "Deployment").map(|it| it.plural), Some("deployments"));
        assert!(by_path("apps", "v1", "pods").is_none());
    }
}
