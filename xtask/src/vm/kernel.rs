//! The kernel that the machine boots: Debian's, unpacked into the target folder, never installed.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{run, say};

/// The package that depends on the newest kernel of the release.
const NEWEST: &str = "linux-image-amd64";
/// What is taken out of the package: hundreds of megabytes of drivers are for other machines.
const TAKEN: [&str; 8] = [
    "./boot/vmlinuz-*",
    "./boot/config-*",
    "./lib/modules/*/modules.*",
    "./lib/modules/*/kernel/arch/*",
    "./lib/modules/*/kernel/crypto/*",
    "./lib/modules/*/kernel/fs/*",
    "./lib/modules/*/kernel/lib/*",
    "./lib/modules/*/kernel/net/*",
];
/// The same, for drivers.
const TAKEN_DRIVERS: [&str; 3] = ["block", "net", "virtio"];

/// A kernel that was unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// Package and version, as Debian calls them.
    pub(super) version: String,
    /// The kernel itself.
    pub(super) image: PathBuf,
    /// The folder of its modules, named after its release.
    pub(super) modules: PathBuf,
}

/// The kernel in `folder`; fetched if it is not there yet.
pub(super) fn ensure_in(folder: &Path) -> Result<Kernel> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let lock = folder.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    lock.lock().context("cannot wait for another run that fetches the kernel")?;
    let root = folder.join("kernel");
    if !root.join("version").is_file() {
        fetch(folder, &root)?;
    }
    unpacked(&root)
}

fn unpacked(root: &Path) -> Result<Kernel> {
    let version = fs::read_to_string(root.join("version")).context("no version was recorded")?;
    let image = only_entry(&root.join("boot"), "vmlinuz-")?;
    let modules = only_entry(&root.join("lib/modules"), "")?;
    Ok(Kernel { version: version.trim().to_owned(), image, modules })
}

/// Unpacks next to `root` and renames at the end, so that what is there is whole.
fn fetch(folder: &Path, root: &Path) -> Result<()> {
    let depends = run::answer("apt-cache", &["depends", NEWEST]);
    let depends = depends.with_context(|| format!("apt knows no package {NEWEST}"))?;
    let package = depended_on(&depends).context("no kernel that can be fetched")?;
    say::step(&format!("fetching Debian's {package} for the virtual machine (70 MB)"));
    let parts = folder.join("parts");
    let _ = fs::remove_dir_all(&parts);
    fs::create_dir_all(parts.join("kernel")).context("cannot make a folder for the kernel")?;
    let mut download = run::command("apt-get", &["download", "-qq", package]);
    download.current_dir(&parts);
    run::quiet(download, "check the network, then `apt-get update`")?;
    let deb = only_entry(&parts, "linux-image-")?;
    let kernel = parts.join("kernel");
    unpack(&deb, &kernel)?;
    let release = only_entry(&kernel.join("lib/modules"), "")?;
    let release = release.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut depmod = run::command("depmod", &[]);
    depmod.arg("-b").arg(&kernel).arg(&release);
    run::quiet(depmod, "install kmod")?;
    let version = run::answer("dpkg-deb", &["-f", &deb.to_string_lossy(), "Version"]);
    let version = version.context("the package does not tell its version")?;
    fs::write(kernel.join("version"), format!("{package} {version}"))
        .context("cannot record the kernel's version")?;
    let _ = fs::remove_dir_all(root);
    fs::rename(&kernel, root).with_context(|| format!("cannot make {}", root.display()))?;
    fs::remove_dir_all(&parts).context("cannot remove the kernel's package")
}

/// The package in the answer of `apt-cache depends`.
fn depended_on(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

fn unpack(deb: &Path, into: &Path) -> Result<()> {
    let mut package = run::command("dpkg-deb", &["--fsys-tarfile"]);
    package.arg(deb).stdout(Stdio::piped());
    let mut package = package.spawn().context("cannot start dpkg-deb")?;
    let files = package.stdout.take().context("dpkg-deb has no output")?;
    let mut tar = run::command("tar", &["--extract", "--no-same-owner", "--wildcards"]);
    tar.arg("--directory").arg(into).args(TAKEN).stdin(files);
    tar.args(TAKEN_DRIVERS.map(|name| format!("./lib/modules/*/kernel/drivers/{name}/*")));
    let tar = tar.output().context("cannot start tar")?;
    let package = package.wait().context("cannot wait for dpkg-deb")?;
    ensure!(tar.status.success(), "tar: {}", String::from_utf8_lossy(&tar.stderr));
    ensure!(package.success(), "dpkg-deb cannot read {}", deb.display());
    Ok(())
}

fn only_entry(folder: &Path, begin: &str) -> Result<PathBuf> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(begin)));
    match (found.next(), found.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => bail!("{} has no {begin}*", folder.display()),
        (Some(_), Some(_)) => bail!("{} has several {begin}*", folder.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_newest_depends_on() {
        let answer = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n";
        assert_eq!(depended_on(answer), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(depended_on("linux-image-amd64\n"), None);
    }
}
