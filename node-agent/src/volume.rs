//! Volumes of pods: made before containers start, kept up to date while they run, removed after.

pub(crate) mod atomic;
pub(crate) mod content;
pub(crate) mod mounts;

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Pod, Volume};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use self::content::{Files, Sources};

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What it shows is not there.
    #[error("MountVolume.SetUp failed for volume {volume:?} : {words}")]
    Content {
        /// Which.
        volume: String,
        /// Why.
        words: String,
    },
    /// Files.
    #[error("MountVolume.SetUp failed for volume {volume:?} : cannot {doing} {}: {cause}", path.display())]
    File {
        /// Which.
        volume: String,
        /// What failed.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// How a volume's files are kept.
#[derive(Clone, Copy, Debug)]
enum Keeping<'v> {
    Empty(&'v EmptyDirVolumeSource),
    Host(&'v HostPathVolumeSource),
    /// Files that we write; on the disk or in memory.
    Written {
        in_memory: bool,
    },
    Unknown,
}

fn keeping(volume: &Volume) -> (Keeping<'_>, &'static str) {
    if let Some(source) = &volume.empty_dir {
        (Keeping::Empty(source), "empty-dir")
    } else if let Some(source) = &volume.host_path {
        (Keeping::Host(source), "host-path")
    } else if volume.config_map.is_some() {
        (Keeping::Written { in_memory: false }, "configmap")
    } else if volume.downward_api.is_some() {
        (Keeping::Written { in_memory: false }, "downward-api")
    } else if volume.secret.is_some() {
        (Keeping::Written { in_memory: true }, "secret")
    } else if volume.projected.is_some() {
        (Keeping::Written { in_memory: true }, "projected")
    } else {
        (Keeping::Unknown, "unknown")
    }
}

/// Where a volume's files are on the node.
pub(crate) fn place(directory: &Path, volume: &Volume) -> PathBuf {
    match keeping(volume) {
        (Keeping::Host(source), _) => PathBuf::from(&source.path),
        (_, kind) => {
            directory.join("volumes").join(format!("kubernetes.io~{kind}")).join(&volume.name)
        }
    }
}

/// Makes all volumes of a pod, or brings those that we write up to date.
pub(crate) async fn set_up(
    pod: &Pod,
    directory: &Path,
    sources: &Sources<'_>,
) -> Result<(), Error> {
    let group = pod.spec.as_ref().and_then(|it| it.security_context.as_ref()?.fs_group);
    let group = group.and_then(|it| u32::try_from(it).ok());
    for volume in pod.spec.iter().flat_map(|it| it.volumes.iter().flatten()) {
        let path = place(directory, volume);
        let failed = |doing| {
            let (volume, path) = (volume.name.clone(), path.clone());
            move |cause| Error::File { volume, doing, path, cause }
        };
        match keeping(volume).0 {
            Keeping::Empty(source) => empty(source, &path, group).map_err(failed("make"))?,
            Keeping::Host(source) => {
                host(source)
                    .map_err(|words| Error::Content { volume: volume.name.clone(), words })?;
            }
            Keeping::Written { in_memory } => {
                let files: Files = content::of(volume, sources)
                    .await
                    .map_err(|words| Error::Content { volume: volume.name.clone(), words })?;
                fs::create_dir_all(&path).map_err(failed("make"))?;
                if in_memory && !is_mounted(&path) {
                    in_memory_at(&path, None).map_err(failed("mount memory at"))?;
                }
                atomic::write(&path, &files, group).map_err(failed("write"))?;
            }
            Keeping::Unknown => {
                let words = "no source of this kind is known to this node".to_owned();
                return Err(Error::Content { volume: volume.name.clone(), words });
            }
        }
    }
    Ok(())
}

fn empty(source: &EmptyDirVolumeSource, path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    if source.medium.as_deref() == Some("Memory") {
        let limit = source.size_limit.as_ref().map(|it| crate::quantity::milli(it) / 1000);
        in_memory_at(path, limit.filter(|it| *it > 0))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn in_memory_at(path: &Path, limit: Option<i64>) -> io::Result<()> {
    let size = limit.map(|it| format!("size={it}"));
    mount(
        Some("tmpfs"),
        path,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        size.as_deref(),
    )?;
    Ok(())
}

/// Whether something is mounted there: it is on another device than what is above.
fn is_mounted(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| path.metadata().ok().map(|it| it.dev());
    path.parent().is_some_and(|above| device(path) != device(above))
}

/// Looks at a path of the node; makes it where the volume says so.
fn host(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let made = |result: io::Result<()>| {
        result.map_err(|error| format!("cannot make {}: {error}", source.path))
    };
    let kind = source.type_.as_deref().unwrap_or_default();
    match kind {
        "DirectoryOrCreate" if !path.exists() => made(fs::create_dir_all(path))?,
        "FileOrCreate" if !path.exists() => made(fs::File::create(path).map(drop))?,
        _ => {}
    }
    let found = path.metadata();
    let is = |test: fn(&fs::Metadata) -> bool| found.as_ref().is_ok_and(test);
    let fits = match kind {
        "Directory" | "DirectoryOrCreate" => is(fs::Metadata::is_dir),
        "File" | "FileOrCreate" => is(fs::Metadata::is_file),
        "Socket" => is(|it| it.file_type().is_socket()),
        "CharDevice" => is(|it| it.file_type().is_char_device()),
        "BlockDevice" => is(|it| it.file_type().is_block_device()),
        _ => true,
    };
    if fits {
        return Ok(());
    }
    Err(format!("hostPath type check failed: {} is not a {kind}", source.path))
}

/// Removes everything of a pod from the node.
pub(crate) fn tear_down(directory: &Path) -> io::Result<()> {
    let volumes = directory.join("volumes");
    for kind in fs::read_dir(&volumes).into_iter().flatten().flatten() {
        for volume in fs::read_dir(kind.path()).into_iter().flatten().flatten() {
            let path = volume.path();
            if is_mounted(&path) {
                umount2(&path, MntFlags::MNT_DETACH)?;
            }
        }
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
