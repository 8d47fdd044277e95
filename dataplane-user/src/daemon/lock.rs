//! One daemon per instance on a node.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::settings::lock_path;

/// Why the instance is not ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else holds it.
    #[error(
        "another hashplane daemon{} runs as instance {instance} on this node; stop it or choose \
         another --instance",
        holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// Name of the instance.
        instance: String,
        /// Its process, if the file says so.
        holder: Option<u32>,
    },
    /// The file.
    #[error("cannot open the lock file {}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// Holds the instance until it is dropped; the kernel lets go when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

/// Takes the instance.
pub fn acquire(state_dir: &Path, instance: &str) -> Result<Lock, Error> {
    let path = lock_path(state_dir, instance);
    let failed = |source| Error::File { path: path.clone(), source };
    fs::create_dir_all(state_dir).map_err(failed)?;
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed)?;
    let mut file =
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(mut file, _)| {
            let mut text = String::new();
            let read = file.read_to_string(&mut text);
            let holder = read.ok().and_then(|_| text.trim().parse().ok());
            Error::Held { instance: instance.to_owned(), holder }
        })?;
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(*file, "{}", std::process::id()).map_err(failed)?;
    Ok(Lock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let first = acquire(dir.path(), "default").unwrap();
        let error = acquire(dir.path(), "default").unwrap_err().to_string();
        let expected = format!(
            "another hashplane daemon (process {}) runs as instance default on this node; stop it \
             or choose another --instance",
            std::process::id()
        );
        assert_eq!(error, expected);
        acquire(dir.path(), "other").unwrap();
        drop(first);
        acquire(dir.path(), "default").unwrap();
    }
}
