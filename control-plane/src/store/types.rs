//! The words of the store.

use std::{fmt, path::PathBuf, sync::Arc};

use bytes::Bytes;

/// A moment in the life of the store; 0 is before the first write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names an entry; entries are in the order of their keys' bytes.
pub type Key = Arc<str>;

/// A value under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// What it holds.
    pub value: Bytes,
    /// The write that made it.
    pub created: Revision,
    /// The write that gave it this value.
    pub modified: Revision,
}

/// What an entry must be like for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It does not exist.
    Absent,
    /// It exists and was last modified then.
    At(Revision),
}

/// A write of one entry.
#[derive(Clone, Debug)]
pub struct Write {
    /// Its key.
    pub key: Key,
    /// What it must be like.
    pub expect: Expect,
    /// What it holds afterwards; nothing deletes it.
    pub value: Option<Bytes>,
}

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The write that made it.
    pub revision: Revision,
    /// The entry before it; nothing if it is new.
    pub before: Option<Entry>,
    /// The entry after it; nothing if it is gone.
    pub after: Option<Entry>,
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &str {
        self.after.as_ref().or(self.before.as_ref()).map_or("", |entry| &entry.key)
    }
}

/// Which entries to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// What their keys begin with.
    pub prefix: String,
    /// Only keys after this one.
    pub after: Option<Key>,
    /// Only so many; 0 is all.
    pub limit: usize,
}

impl Range {
    /// Everything with this prefix.
    pub fn all(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), after: None, limit: 0 }
    }
}

/// The entries of a range at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
    /// The moment.
    pub revision: Revision,
    /// How many entries follow that the limit left out.
    pub remaining: usize,
}

impl Error {
    /// Whether a write that failed like this may have happened all the same.
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Why the store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The entry is not as the write expected it; nothing is written.
    #[error("{key} is not as expected: {}", found.map_or("it does not exist".to_owned(), |at| format!("it was modified at {at}")))]
    Conflict {
        /// The key.
        key: Key,
        /// When it was last modified; nothing if it does not exist.
        found: Option<Revision>,
    },
    /// The revision is no longer known.
    #[error("revision {asked} has been compacted, the oldest is {oldest}")]
    Compacted {
        /// What was asked for.
        asked: Revision,
        /// The oldest that is known.
        oldest: Revision,
    },
    /// The revision has not been reached.
    #[error("revision {asked} is in the future, the last is {last}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The last one.
        last: Revision,
    },
    /// The disk.
    #[error("the store cannot {doing} in {}: {cause}", path.display())]
    Disk {
        /// What failed.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the database said.
        cause: Arc<redb::Error>,
    },
    /// Something in the file is not what this version wrote.
    #[error("{} holds something else than {what}: it is damaged, or not ours", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// The servers of the store do not answer; whether a write happened is not known.
    #[error("etcd cannot {doing}: {cause}")]
    Unreachable {
        /// What failed.
        doing: &'static str,
        /// What it said.
        cause: Arc<str>,
    },
    /// A value that the key does not open, or that cannot be sealed.
    #[error("{key} cannot be sealed or opened: its key is another one")]
    Sealed {
        /// The entry.
        key: Key,
    },
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}
