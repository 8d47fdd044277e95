//! What the state directory remembers of modes: who was chosen, and who may have left something.
//!
//! The directory does not outlive a reboot, and neither does anything in the kernel.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::modes::Wish;
use crate::backend::Mode;

/// Why nothing can be remembered.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct Error {
    /// The file.
    path: PathBuf,
    /// What the file system said.
    #[source]
    source: io::Error,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Contents {
    /// What `hashplane mode` chose, and what `--mode` said then.
    chosen: Option<(Wish, Mode)>,
    /// Modes that may have something in the kernel. Written before they do.
    present: BTreeSet<Mode>,
}

/// The record of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    path: PathBuf,
    contents: Contents,
}

impl Record {
    /// What an earlier process remembered; nothing where there is no record that can be read.
    pub fn read(state_dir: &Path, instance: &str) -> Self {
        let path = record_path(state_dir, instance);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let contents = serde_json::from_str(&text).unwrap_or_default();
        Self { path, contents }
    }

    /// Whether no earlier process has left a record.
    pub fn is_new(&self) -> bool {
        !self.path.exists()
    }

    /// The mode that was chosen while a daemon ran, unless it is told something else by now.
    pub fn chosen(&self, wish: Wish) -> Option<Mode> {
        self.contents.chosen.filter(|(then, _)| *then == wish).map(|(_, mode)| mode)
    }

    /// Remembers a choice for as long as `--mode` says the same.
    pub fn choose(&mut self, wish: Wish, mode: Mode) -> Result<(), Error> {
        self.contents.chosen = Some((wish, mode));
        self.write()
    }

    /// Modes that may have something in the kernel.
    pub fn present(&self) -> &BTreeSet<Mode> {
        &self.contents.present
    }

    /// A mode is about to put something into the kernel.
    pub fn enter(&mut self, mode: Mode) -> Result<(), Error> {
        if self.contents.present.insert(mode) { self.write() } else { Ok(()) }
    }

    /// Nothing of a mode is in the kernel any more.
    pub fn leave(&mut self, mode: Mode) -> Result<(), Error> {
        if self.contents.present.remove(&mode) { self.write() } else { Ok(()) }
    }

    fn write(&self) -> Result<(), Error> {
        let failed = |source| Error { path: self.path.clone(), source };
        let text = serde_json::to_string(&self.contents).map_err(|error| failed(error.into()))?;
        // A reader sees the old record or the new one, whole.
        let new = self.path.with_extension("mode.new");
        fs::write(&new, text).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)
    }
}

/// Where the record is.
pub fn record_path(state_dir: &Path, instance: &str) -> PathBuf {
    state_dir.join(format!("{instance}.mode"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_holds_until_the_flag_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::read(dir.path(), "x");
        assert_eq!(record.chosen(Wish::Auto), None);
        record.choose(Wish::Auto, Mode::Nftables).unwrap();
        let again = Record::read(dir.path(), "x");
        assert_eq!(again, record);
        assert_eq!(again.chosen(Wish::Auto), Some(Mode::Nftables));
        assert_eq!(again.chosen(Wish::Only(Mode::Ebpf)), None);
        assert_eq!(Record::read(dir.path(), "y").chosen(Wish::Auto), None);
    }

    #[test]
    fn who_may_have_left_something_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let mut record = Record::read(dir.path(), "x");
        record.enter(Mode::Ebpf).unwrap();
        record.enter(Mode::Ipvs).unwrap();
        record.leave(Mode::Ebpf).unwrap();
        let again = Record::read(dir.path(), "x");
        assert_eq!(again.present(), &BTreeSet::from([Mode::Ipvs]));
    }

    #[test]
    fn a_record_that_does_not_parse_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(record_path(dir.path(), "x"), "{").unwrap();
        let mut record = Record::read(dir.path(), "x");
        assert!(record.present().is_empty());
        record.enter(Mode::Ebpf).unwrap();
        assert_eq!(Record::read(dir.path(), "x").present().len(), 1);
    }
}
