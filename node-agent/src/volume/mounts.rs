//! What containers see of volumes, and the files that every container has.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

use super::place;
use crate::{
    cri::wire::{Mount, MountPropagation},
    pod::{env::expand, make},
};

/// Where containers say why they end.
pub(crate) const MESSAGE_PATH: &str = "/dev/termination-log";
/// The longest message that is read, in bytes.
pub(crate) const MESSAGE_MAX: u64 = 4_096;

/// The mounts of a container; otherwise why there are none.
pub(crate) fn of(
    pod: &Pod,
    container: &Container,
    directory: &Path,
    environment: &[(String, String)],
    restarts: u32,
) -> Result<Vec<Mount>, String> {
    let known: BTreeMap<String, String> = environment.iter().cloned().collect();
    let mut mounts = Vec::new();
    for wish in container.volume_mounts.iter().flatten() {
        mounts.push(one(pod, wish, directory, &known)?);
    }
    let has = |mounts: &[Mount], path: &str| mounts.iter().any(|it| it.container_path == path);
    if !has(&mounts, "/etc/hosts") {
        mounts.push(plain("/etc/hosts", &directory.join("etc-hosts")));
    }
    let message = message_file(directory, &container.name, restarts);
    fresh(&message).map_err(|error| format!("cannot write {}: {error}", message.display()))?;
    let path = container.termination_message_path.as_deref().unwrap_or(MESSAGE_PATH);
    mounts.push(plain(path, &message));
    Ok(mounts)
}

fn plain(path: &str, host: &Path) -> Mount {
    Mount { container_path: path.into(), host_path: host.display().to_string(), ..Mount::default() }
}

fn one(
    pod: &Pod,
    wish: &VolumeMount,
    directory: &Path,
    known: &BTreeMap<String, String>,
) -> Result<Mount, String> {
    let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter().flatten());
    let mut volumes = volumes.filter(|it| it.name == wish.name);
    let volume = volumes.next().ok_or_else(|| format!("there is no volume {:?}", wish.name))?;
    let root = place(directory, volume);
    let below = match (&wish.sub_path, &wish.sub_path_expr) {
        (Some(path), _) if !path.is_empty() => Some(path.clone()),
        (_, Some(path)) if !path.is_empty() => Some(expand(path, known)),
        _ => None,
    };
    let host = match below {
        None => root,
        Some(below) => {
            let failed = |error: io::Error| {
                format!("failed to prepare subPath for volumeMount {:?}: {error}", wish.name)
            };
            inside(&root, &below).map_err(failed)?
        }
    };
    let propagation = match wish.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        _ => MountPropagation::Private,
    };
    Ok(Mount {
        container_path: wish.mount_path.clone(),
        host_path: host.display().to_string(),
        readonly: wish.read_only == Some(true),
        propagation: propagation as i32,
        ..Mount::default()
    })
}

/// A path inside a volume, made if it is not there; links do not lead out of it.
fn inside(root: &Path, below: &str) -> io::Result<PathBuf> {
    let is_plain = Path::new(below)
        .components()
        .all(|it| matches!(it, Component::Normal(_) | Component::CurDir));
    let refused = || {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{below:?} leads out of the volume"))
    };
    if !is_plain {
        return Err(refused());
    }
    let root = root.canonicalize()?;
    let mut path = root.clone();
    for part in Path::new(below).components() {
        path.push(part);
        if path.symlink_metadata().is_err() {
            fs::create_dir(&path)?;
            let mode = root.metadata()?.permissions().mode();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        path = path.canonicalize()?;
        if !path.starts_with(&root) {
            return Err(refused());
        }
    }
    Ok(path)
}

/// Where a container says why it ended.
pub(crate) fn message_file(directory: &Path, container: &str, restarts: u32) -> PathBuf {
    directory.join("containers").join(container).join(restarts.to_string())
}

fn fresh(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent() {
        fs::create_dir_all(above)?;
    }
    fs::write(path, "")?;
    // Whoever the container runs as writes it.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

/// Writes the hosts that a pod knows without asking anybody.
pub(crate) fn write_hosts(
    pod: &Pod,
    directory: &Path,
    addresses: &[IpAddr],
    domain: &str,
    node: &str,
) -> io::Result<()> {
    let mut text = String::from("# Kubernetes-managed hosts file.\n");
    let spec = pod.spec.as_ref();
    if spec.is_some_and(|it| it.host_network == Some(true)) {
        text = format!(
            "# Kubernetes-managed hosts file (host network).\n{}",
            fs::read_to_string("/etc/hosts")?
        );
    } else {
        text.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str("fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
        let name = make::hostname(pod, node);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let full = spec
            .and_then(|it| it.subdomain.as_ref())
            .map(|subdomain| format!("{name}.{subdomain}.{namespace}.svc.{domain}\t"));
        for address in addresses {
            let full = full.as_deref().unwrap_or_default();
            text += &[&address.to_string(), "\t", full, &name, "\n"].concat();
        }
    }
    let aliases = spec.and_then(|it| it.host_aliases.as_ref());
    for alias in aliases.into_iter().flatten() {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        text += &["\n# Entries added by HostAliases.\n", &alias.ip, "\t", &names, "\n"].concat();
    }
    fs::create_dir_all(directory)?;
    let path = directory.join("etc-hosts");
    if fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_and_no_link_leads_out_of_a_volume() {
        let root = tempfile::tempdir().expect("a directory");
        let made = inside(root.path(), "a/b").expect("a path");
        assert!(made.is_dir() && made.ends_with("a/b"));
        assert!(inside(root.path(), "../x").is_err());
        std::os::unix::fs::symlink("/etc", root.path().join("out")).expect("a link");
        assert!(inside(root.path(), "out").is_err());
        std::os::unix::fs::symlink("a", root.path().join("in")).expect("a link");
        assert!(inside(root.path(), "in/b").expect("a path").ends_with("a/b"));
    }
}
