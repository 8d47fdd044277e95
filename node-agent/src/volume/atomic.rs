//! Files that change all at once: readers see the old ones or the new ones.
//!
//! The files are in a directory of their own, `..data` points to it, and what containers open points into
//! `..data`. A change is one rename.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::{Component, Path},
};

use super::content::{File, Files};

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes the directory show these files; whether anything changed.
pub(crate) fn write(root: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        let is_plain = Path::new(path).components().all(|it| matches!(it, Component::Normal(_)));
        if path.is_empty() || !is_plain || path.starts_with("..") {
            let words = format!("{path:?} leads out of the volume");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
    }
    let old = fs::read_link(root.join(DATA)).ok();
    if let Some(old) = &old
        && shows(&root.join(old), files)?
    {
        return Ok(false);
    }
    let name = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let fresh = root.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        place(&fresh, path, file, group)?;
    }
    let next = root.join(NEXT);
    if next.symlink_metadata().is_ok() {
        fs::remove_file(&next)?;
    }
    symlink(&name, &next)?;
    fs::rename(&next, root.join(DATA))?;
    link(root, files)?;
    if let Some(old) = old {
        fs::remove_dir_all(root.join(old))?;
    }
    Ok(true)
}

fn place(root: &Path, path: &str, file: &File, group: Option<u32>) -> io::Result<()> {
    let full = root.join(path);
    if let Some(above) = full.parent() {
        fs::create_dir_all(above)?;
    }
    fs::write(&full, &file.bytes)?;
    // A group that owns the volume reads its files.
    let mode = if group.is_some() { file.mode | 0o040 } else { file.mode };
    if let Some(group) = group {
        chown(&full, None, Some(group))?;
    }
    if let Some(user) = file.owner {
        chown(&full, Some(user), None)?;
    }
    fs::set_permissions(&full, fs::Permissions::from_mode(mode))
}

/// Whether a directory has these files and no others.
fn shows(root: &Path, files: &Files) -> io::Result<bool> {
    let mut there = BTreeMap::new();
    read(root, "", &mut there)?;
    if there.len() != files.len() {
        return Ok(false);
    }
    let same = |(path, file): (&String, &File)| {
        there.get(path).is_some_and(|bytes: &Vec<u8>| *bytes == file.bytes)
    };
    Ok(files.iter().all(same))
}

fn read(root: &Path, below: &str, there: &mut BTreeMap<String, Vec<u8>>) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &format!("{name}/"), there)?;
        } else {
            there.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// Makes what containers open point into the data, and removes what points to nothing.
fn link(root: &Path, files: &Files) -> io::Result<()> {
    let tops: BTreeSet<&str> = files.keys().filter_map(|it| it.split('/').next()).collect();
    for top in &tops {
        let path = root.join(top);
        if path.symlink_metadata().is_err() {
            symlink(Path::new(DATA).join(top), path)?;
        }
    }
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(name.as_ref()) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |text: &str| File { bytes: text.into(), mode: 0o644, owner: None };
        pairs.iter().map(|(path, text)| ((*path).to_owned(), file(text))).collect()
    }

    #[test]
    fn a_change_is_seen_whole_and_leaves_nothing_behind() {
        let root = tempfile::tempdir().expect("a directory");
        let root = root.path();
        assert!(write(root, &files(&[("a", "1"), ("d/b", "2")]), None).expect("written"));
        assert_eq!(fs::read_to_string(root.join("d/b")).expect("a file"), "2");
        assert!(!write(root, &files(&[("a", "1"), ("d/b", "2")]), None).expect("the same"));
        let held = fs::File::open(root.join("a")).expect("a file");
        assert!(write(root, &files(&[("a", "3")]), None).expect("written"));
        assert_eq!(io::read_to_string(held).expect("its text"), "1", "what is open stays");
        assert_eq!(fs::read_to_string(root.join("a")).expect("a file"), "3");
        assert!(root.join("d").symlink_metadata().is_err());
        let rest = fs::read_dir(root).expect("a directory").count();
        assert_eq!(rest, 3, "the file, ..data, and what it points to");
    }

    #[test]
    fn no_file_leaves_the_volume() {
        let root = tempfile::tempdir().expect("a directory");
        for path in ["../a", "/a", "a/../../b", "..data", ""] {
            assert!(write(root.path(), &files(&[(path, "1")]), None).is_err(), "{path}");
        }
    }
}
