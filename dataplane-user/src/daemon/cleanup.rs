//! Removes every trace of an instance from the node.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    Settings, lock, modes, programs,
    record::{Record, record_path},
    settings::{Source, lock_path, socket_path},
};
use crate::{
    backend::{Error as BackendError, Mode},
    ebpf::pin::{self, Pins},
};

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A daemon would put everything back.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// A pin.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// What a mode put into the kernel.
    #[error("cannot remove what mode {mode} has put into the kernel")]
    Mode {
        /// Which one.
        mode: Mode,
        /// What happened.
        #[source]
        source: BackendError,
    },
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

/// Removes what every mode of the instance has put into the kernel, and its files; what was removed.
/// Twice is once.
pub fn cleanup(pins: &Pins, state_dir: &Path) -> Result<Vec<String>, Error> {
    let existed = state_dir.exists();
    let held = lock::acquire(state_dir, pins.instance())?;
    let mut removed = remove_rules(pins.instance(), state_dir)?;
    // A kernel without these tables never had them.
    if let Err(error) = crate::conntrack::moving::clear(pins.instance()) {
        tracing::debug!(error = crate::ebpf::attach::chain(&error), "no tables of connections");
    }
    removed.extend(programs::remove(pins)?.iter().map(|path| path.display().to_string()));
    let files = [
        socket_path(state_dir, pins.instance()),
        record_path(state_dir, pins.instance()),
        lock_path(state_dir, pins.instance()),
    ];
    for path in files {
        match fs::remove_file(&path) {
            Ok(()) if existed => removed.push(path.display().to_string()),
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

/// A mode that no daemon has used here may lack what it needs, and then has left nothing.
fn remove_rules(instance: &str, state_dir: &Path) -> Result<Vec<String>, Error> {
    let record = Record::read(state_dir, instance);
    let mut settings = Settings::new(String::new(), Source::Manifests(PathBuf::new()));
    instance.clone_into(&mut settings.instance);
    let mut removed = Vec::new();
    for mode in Mode::ALL {
        let Some(mut backend) = modes::rules(mode, &settings) else { continue };
        let used = record.present().contains(&mode);
        match backend.remove() {
            Ok(()) if used => removed.push(format!("what mode {mode} has put into the kernel")),
            Ok(()) => {}
            Err(source) if used => return Err(Error::Mode { mode, source }),
            Err(error) => {
                let error = crate::sync::chain(&error);
                tracing::debug!(error, %mode, "nothing of a mode is looked for");
            }
        }
    }
    Ok(removed)
}
