//! Where our maps and links stand in the BPF file system.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use dataplane_common::ABI;
use nix::{
    mount::{MntFlags, MsFlags, umount2},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// The file system, unless the operator says otherwise.
pub const BPFFS: &str = "/sys/fs/bpf";
/// The instance, unless the operator says otherwise.
pub const INSTANCE: &str = "default";
/// By this source in `/proc/thread-self/mounts` we know a file system that we mounted.
const MOUNT_SOURCE: &str = "hashplane";
const INSTANCE_LEN_MAX: usize = 63;

/// Why a pin is not where it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name would lead somewhere else.
    #[error("instance {name:?} is no name: use 1 to {INSTANCE_LEN_MAX} of a-z, A-Z, 0-9, - and _")]
    Instance {
        /// What was given.
        name: String,
    },
    /// No BPF file system and no way to mount one.
    #[error("cannot mount the BPF file system at {}", path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A directory or a file in it.
    #[error("cannot {what} {}", path.display())]
    Path {
        /// Create, list, remove, rename.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
}

/// The directory of one instance: `<bpffs>/hashplane/v<ABI>/<instance>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    bpffs: PathBuf,
    instance: String,
}

impl Pins {
    /// The pins of `instance` below `bpffs`; neither has to exist.
    pub fn new(bpffs: &Path, instance: &str) -> Result<Self, Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if instance.is_empty() || instance.len() > INSTANCE_LEN_MAX || !instance.bytes().all(fits) {
            return Err(Error::Instance { name: instance.to_owned() });
        }
        Ok(Self { bpffs: bpffs.to_owned(), instance: instance.to_owned() })
    }

    /// Name of the instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The instance's directory, in this version's layout.
    pub fn root(&self) -> PathBuf {
        self.version(ABI)
    }

    /// Directory of the maps.
    pub fn maps(&self) -> PathBuf {
        self.root().join("maps")
    }

    /// Directory of the links.
    pub fn links(&self) -> PathBuf {
        self.root().join("links")
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where the link `name` is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.links().join(name)
    }

    /// Stands for the clsact qdisc that we made on a device.
    pub(super) fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.root().join("qdiscs").join(ifindex.to_string())
    }

    /// Indexes of the devices on which we made a clsact qdisc.
    pub(super) fn qdiscs(&self) -> Result<Vec<u32>, Error> {
        let names = names(&self.root().join("qdiscs"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Whether the instance has maps.
    pub fn exist(&self) -> bool {
        self.map(dataplane_common::names::CONFIG).exists()
    }

    /// Names of all pinned links, sorted.
    pub fn link_names(&self) -> Result<Vec<String>, Error> {
        names(&self.links())
    }

    /// Creates the directories; mounts the file system if it is not there. Whether it mounted.
    pub fn create(&self) -> Result<bool, Error> {
        let mounted = self.mount()?;
        for dir in [self.maps(), self.links()] {
            fs::create_dir_all(&dir).map_err(|source| path_error("create", &dir, source))?;
        }
        Ok(mounted)
    }

    /// Removes the instance in every layout, and the directories above it that are empty then.
    /// The file system is unmounted if we mounted it and nothing is left in it; one that was there
    /// before us stays. Returns what was removed.
    pub fn remove(&self) -> Result<Vec<PathBuf>, Error> {
        let top = self.bpffs.join("hashplane");
        let mut removed = Vec::new();
        for version in names(&top)? {
            let root = top.join(&version).join(&self.instance);
            for dir in [root.join("links"), root.join("maps")] {
                for name in names(&dir)? {
                    let file = dir.join(name);
                    fs::remove_file(&file).map_err(|source| path_error("remove", &file, source))?;
                    removed.push(file);
                }
                remove_dir(&dir)?;
            }
            remove_dir(&root.join("qdiscs"))?;
            remove_dir(&root)?;
            remove_dir(&top.join(&version))?;
        }
        remove_dir(&top)?;
        if is_our_mount(&self.bpffs)? && is_unused(&self.bpffs)? {
            umount2(&self.bpffs, MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| path_error("unmount", &self.bpffs, errno.into()))?;
            removed.push(self.bpffs.clone());
        }
        Ok(removed)
    }

    fn version(&self, abi: u32) -> PathBuf {
        self.bpffs.join("hashplane").join(format!("v{abi}")).join(&self.instance)
    }

    fn mount(&self) -> Result<bool, Error> {
        let error = |source| Error::Mount { path: self.bpffs.clone(), source };
        fs::create_dir_all(&self.bpffs).map_err(error)?;
        let seen = statfs(&self.bpffs).map_err(|errno| error(errno.into()))?;
        if seen.filesystem_type() == BPF_FS_MAGIC {
            return Ok(false);
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        nix::mount::mount(Some(MOUNT_SOURCE), &self.bpffs, Some("bpf"), flags, Some("mode=0700"))
            .map_err(|errno| error(errno.into()))?;
        Ok(true)
    }
}

/// Whether the file system at `path` is one that we mounted.
fn is_our_mount(path: &Path) -> Result<bool, Error> {
    const MOUNTS: &str = "/proc/thread-self/mounts";
    let failed = |source| path_error("read", Path::new(MOUNTS), source);
    let mounts = fs::read_to_string(MOUNTS).map_err(failed)?;
    // The kernel writes a space as \040 there; a path with one is left alone.
    let path = path.to_string_lossy();
    // The last mount at a path is the one that is seen.
    let seen = mounts.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>());
    let seen = seen.into_iter().find(|fields| fields.get(1).is_some_and(|at| *at == path));
    Ok(seen.is_some_and(|fields| fields[0] == MOUNT_SOURCE && fields.get(2) == Some(&"bpf")))
}

/// Whether a BPF file system holds nothing but what the kernel itself puts there (Linux 5.9).
fn is_unused(bpffs: &Path) -> Result<bool, Error> {
    Ok(names(bpffs)?.iter().all(|name| ["maps.debug", "progs.debug"].contains(&name.as_str())))
}

/// Files in `dir`, sorted; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(path_error("list", dir, source)),
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| path_error("list", dir, source))?;
    names.sort_unstable();
    Ok(names)
}

fn remove_dir(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir(dir) {
        Ok(()) => Ok(()),
        // Another instance or version still lives there, or nothing ever did.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(path_error("remove", dir, source)),
    }
}

/// Removes a pin; whether it was there.
pub(super) fn remove(path: &Path) -> Result<bool, Error> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(path_error("remove", path, source)),
    }
}

/// Gives a pin another name; the one that had it before is replaced in the same moment.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(|source| path_error("rename", from, source))
}

fn path_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Path { what, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_a_plain_name() {
        let bpffs = Path::new(BPFFS);
        let root = Pins::new(bpffs, "node-1").unwrap().root();
        assert_eq!(root, Path::new("/sys/fs/bpf/hashplane/v2/node-1"));
        for name in ["", "..", "a/b", "a b", &"x".repeat(64)] {
            assert!(Pins::new(bpffs, name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_file_system_that_we_mounted_goes_and_one_that_was_there_stays() {
        use nix::{mount::mount, sched::CloneFlags};
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: mounting needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        // Mounts in a namespace that is this thread's alone.
        let test = move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let pins = Pins::new(&path, "ours").unwrap();
            assert!(pins.create().unwrap());
            let is_bpf = || statfs(&path).unwrap().filesystem_type() == BPF_FS_MAGIC;
            assert!(is_bpf());
            assert_eq!(pins.remove().unwrap(), std::slice::from_ref(&path));
            assert!(!is_bpf());
            mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
            assert!(!pins.create().unwrap());
            assert_eq!(pins.remove().unwrap(), [] as [PathBuf; 0]);
            assert!(is_bpf());
        };
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn removing_twice_is_removing_once_and_leaves_other_instances() {
        let dir = tempfile::tempdir().unwrap();
        let ours = Pins::new(dir.path(), "ours").unwrap();
        let theirs = Pins::new(dir.path(), "theirs").unwrap();
        for pins in [&ours, &theirs] {
            fs::create_dir_all(pins.maps()).unwrap();
            fs::create_dir_all(pins.links()).unwrap();
            fs::write(pins.map("CONFIG"), "").unwrap();
        }
        assert_eq!(ours.remove().unwrap(), [ours.map("CONFIG")]);
        assert_eq!(ours.remove().unwrap(), [] as [PathBuf; 0]);
        assert!(theirs.exist());
        theirs.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
