//! Reads the files of a directory, as far as they changed.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::Arc,
};

use super::tree::Content;
use crate::source::problem::SourceCause;

/// Larger files are refused. A Service with five endpoints has about 1 KiB of YAML.
pub(super) const FILE_BYTES_MAX: u64 = 128 << 20;

/// Files beyond these, in the order of their names, are not read.
pub(super) const FILES_MAX: usize = 10_000;

/// Which directory a path leads to; another one when it was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DirectoryId {
    device: u64,
    inode: u64,
}

impl DirectoryId {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// What the last scan read, as hashes.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    seen: BTreeMap<Arc<str>, u64>,
}

/// What one scan found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) contents: BTreeMap<Arc<str>, Content>,
    /// How many files there are, when they are too many.
    pub(super) surplus: Option<SourceCause>,
}

impl Scanner {
    /// Reads every manifest in `directory`.
    pub(super) fn scan(&mut self, directory: &Path) -> io::Result<Scan> {
        let mut names = manifests(directory)?;
        let surplus =
            (names.len() > FILES_MAX).then_some(SourceCause::TooManyFiles(names.len(), FILES_MAX));
        names.truncate(FILES_MAX);
        let mut contents = BTreeMap::new();
        for name in names {
            if let Some(content) = self.content(directory, &name) {
                contents.insert(name, content);
            }
        }
        self.seen.retain(|name, _| contents.contains_key(name));
        Ok(Scan { contents, surplus })
    }

    /// `None` when the file went away meanwhile.
    fn content(&mut self, directory: &Path, name: &Arc<str>) -> Option<Content> {
        let cause = match read(&directory.join(&**name)) {
            Ok(Text::Whole(text)) => {
                let mut hasher = DefaultHasher::new();
                text.hash(&mut hasher);
                let hash = hasher.finish();
                let is_seen = self.seen.insert(Arc::clone(name), hash) == Some(hash);
                return Some(if is_seen { Content::Unchanged } else { Content::Text(text) });
            }
            Ok(Text::TooLarge(bytes)) => SourceCause::TooLarge { bytes, bytes_max: FILE_BYTES_MAX },
            Ok(Text::NotAFile) => return None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => SourceCause::Unreadable(error.to_string().into()),
        };
        self.seen.remove(name);
        Some(Content::Broken(cause))
    }
}

enum Text {
    Whole(String),
    TooLarge(u64),
    NotAFile,
}

fn read(path: &Path) -> io::Result<Text> {
    // A named pipe would block the open; it is no manifest.
    if !fs::metadata(path)?.is_file() {
        return Ok(Text::NotAFile);
    }
    let mut text = String::new();
    let mut file = File::open(path)?.take(FILE_BYTES_MAX + 1);
    let bytes = file.read_to_string(&mut text)? as u64;
    if bytes > FILE_BYTES_MAX {
        return Ok(Text::TooLarge(file.into_inner().metadata()?.len()));
    }
    Ok(Text::Whole(text))
}

/// The names of the manifests, in order. Hidden ones are for editors and for the links of a
/// mounted ConfigMap.
fn manifests(directory: &Path) -> io::Result<Vec<Arc<str>>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_yaml = [".yaml", ".yml"].iter().any(|end| name.ends_with(end));
        if is_yaml && !name.starts_with('.') {
            names.push(name.into());
        }
    }
    names.sort_unstable();
    Ok(names)
}
