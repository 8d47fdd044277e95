//! What every store has to do, and what the embedded one does when it is killed.
#![forbid(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails, and one that cannot run says so"
)]

mod conformance;
mod crash;
mod etcd;
#[path = "../shared/etcd_server.rs"]
mod etcd_server;
mod sealed;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use control_plane::store::{Embedded, Entry, Error, Expect, Key, Revision, Store, Write};
use tempfile::TempDir;

/// A store, and where it is.
struct Place {
    store: Arc<dyn Store>,
    _directory: TempDir,
    _server: Option<etcd_server::Server>,
}

fn embedded() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(Embedded::open(&file(&directory)).unwrap());
    Place { store, _directory: directory, _server: None }
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("store.redb")
}

fn key(name: &str) -> Key {
    Key::from(name)
}

async fn create(store: &dyn Store, name: &str, value: &str) -> Result<Entry, Error> {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    store.write(Write { key: key(name), expect: Expect::Absent, value }).await
}

async fn update(store: &dyn Store, of: &Entry, value: &str) -> Result<Entry, Error> {
    let value = Some(Bytes::copy_from_slice(value.as_bytes()));
    store.write(Write { key: of.key.clone(), expect: Expect::At(of.modified), value }).await
}

async fn delete(store: &dyn Store, name: &str, at: Revision) -> Result<Entry, Error> {
    store.write(Write { key: key(name), expect: Expect::At(at), value: None }).await
}
