//! Who removes a lab: a process that waits for the end of its owner.
//!
//! The owner holds the only end of a pipe. When it closes (the lab is dropped, the process panics,
//! is interrupted or killed), the keeper reads the end of its input and removes the lab.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::Context as _;

use super::{kernel_state, names, topology};

/// What an owner says to leave the lab where it is.
const KEEP: &str = "keep";
/// The file that tells that a lab without an owner is wanted.
const KEPT: &str = "kept";

/// The owner's side of a keeper.
#[derive(Debug)]
pub struct Keeper {
    lab: String,
    child: Mutex<Option<(Child, ChildStdin)>>,
}

impl Keeper {
    pub(super) fn start(tool: &Path, lab: &str) -> anyhow::Result<Self> {
        let mut child = Command::new(tool)
            .args(["lab-keeper", lab])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // Ctrl-C reaches the owner's process group; the keeper has to outlive it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} as the lab's keeper", tool.display()))?;
        let stdin = child.stdin.take().context("the keeper has no input")?;
        Ok(Self { lab: lab.to_owned(), child: Mutex::new(Some((child, stdin))) })
    }

    /// Removes the lab and waits until that is done. Later calls do nothing.
    pub fn remove_now(&self) {
        self.end(None);
    }

    /// Leaves the lab for [`remove`].
    pub fn keep(&self) -> anyhow::Result<()> {
        let marker = names::folder(&self.lab).join(KEPT);
        fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))?;
        self.end(Some(KEEP));
        Ok(())
    }

    fn end(&self, word: Option<&str>) {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((mut child, mut stdin)) = child.take() {
            if let Some(word) = word {
                // A keeper that is gone cannot be told.
                let _ = stdin.write_all(word.as_bytes());
            }
            drop(stdin);
            let _ = child.wait();
        }
    }
}

/// What the keeper's process does.
pub fn keep_until_end_of_input(lab: &str) -> anyhow::Result<()> {
    let mut word = String::new();
    io::stdin().read_to_string(&mut word).context("cannot read the owner's word")?;
    if word == KEEP { Ok(()) } else { remove(lab) }
}

/// Removes a lab with everything that runs in it. Idempotent.
pub fn remove(lab: &str) -> anyhow::Result<()> {
    // Everything is tried; the first error is told.
    let state = kernel_state::remove(lab);
    let prefix = format!("{lab}-");
    let spaces: Vec<String> =
        entries("/run/netns").into_iter().filter(|name| name.starts_with(&prefix)).collect();
    let spaces = spaces.iter().map(|name| topology::remove_namespace(name));
    let spaces = spaces.fold(Ok(()), anyhow::Result::and);
    state.and(spaces)
}

/// Removes labs whose owners are gone, but for those that somebody wanted to keep.
pub(super) fn remove_leftovers() {
    let mut found = entries("/run/netns");
    found.extend(entries(std::env::temp_dir()));
    if let Some(root) = kernel_state::cgroup2_root() {
        found.extend(entries(root));
    }
    let labs: BTreeSet<(u32, String)> =
        found.iter().filter_map(|name| names::owner(name)).collect();
    for (pid, lab) in labs {
        let alive = Path::new("/proc").join(pid.to_string()).exists();
        let kept = names::folder(&lab).join(KEPT).exists();
        if !alive && !kept {
            // The lab's own keeper may be doing the same; what is left is tried again next time.
            let _ = remove(&lab);
        }
    }
}

fn entries(folder: impl AsRef<Path>) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
