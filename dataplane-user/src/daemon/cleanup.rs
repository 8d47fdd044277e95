//! Removes every trace of an instance from the node.

use std::{fs, io, path::PathBuf};

use super::{
    lock, programs,
    settings::{lock_path, socket_path},
};
use crate::ebpf::pin::{self, Pins};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A daemon would put everything back.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A pin.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// A file.
    #[error("cannot remove {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// Removes links, filters, maps and files of the instance; what was removed. Twice is once.
pub fn cleanup(pins: &Pins, state_dir: &std::path::Path) -> Result<Vec<PathBuf>, Error> {
    let existed = state_dir.exists();
    let held = lock::acquire(state_dir, pins.instance())?;
    let mut removed = programs::remove(pins)?;
    for path in [socket_path(state_dir, pins.instance()), lock_path(state_dir, pins.instance())] {
        match fs::remove_file(&path) {
            Ok(()) if existed => removed.push(path),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { path, source }),
        }
    }
    // Another instance may still live there.
    let _kept = fs::remove_dir(state_dir);
    drop(held);
    Ok(removed)
}
