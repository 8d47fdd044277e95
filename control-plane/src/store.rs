//! Keys with values and revisions: compare and swap, lists at a revision, watches from a revision.
//!
//! Every write that succeeds gets a revision of its own, greater than the last. What a reader sees is
//! on the disk: events are told after the write that made them is durable.

pub mod embedded;
pub mod etcd;
mod history;
mod log;
pub mod sealed;
pub mod types;
mod watch;

use std::{future::Future, pin::Pin};

pub use self::{
    embedded::Embedded,
    etcd::Etcd,
    sealed::Sealed,
    types::{Entry, Error, Event, Expect, Key, Listing, Range, Revision, Write},
    watch::Watch,
};

/// What a store answers, when it is there.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// A store of objects. All methods may be called at once from anywhere.
pub trait Store: Send + Sync + 'static {
    /// One entry as it is now.
    fn get<'a>(&'a self, key: &'a Key) -> Answer<'a, Option<Entry>>;

    /// The entries of a range, in the order of their keys: as they are now, or as they were at
    /// `at`. [`Error::Compacted`] if that is no longer known, [`Error::Future`] if it is not yet.
    fn list<'a>(&'a self, range: &'a Range, at: Option<Revision>) -> Answer<'a, Listing>;

    /// Writes or deletes one entry if it is as expected; gives back what is there now, or what was
    /// deleted with the revision of its deletion.
    fn write(&self, write: Write) -> Answer<'_, Entry>;

    /// Every change of the keys that begin with `prefix`, after revision `after`, in order and each
    /// once. [`Error::Compacted`] if changes after it are no longer known.
    fn watch<'a>(&'a self, prefix: &'a str, after: Revision) -> Answer<'a, Watch>;

    /// The revision of the last write.
    fn revision(&self) -> Answer<'_, Revision>;

    /// Forgets what was before `before`: lists and watches from there on fail afterwards.
    fn compact(&self, before: Revision) -> Answer<'_, ()>;
}
