//! The initramfs of the machine: an archive of busybox, scripts and the modules it boots with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Modules without which the host's files cannot be seen.
const TO_SEE_THE_HOST: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// File type and rights in an archive.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in the format "newc" of cpio, which kernels unpack.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("no file of the archive has 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("names are short");
        // Inode, mode, owner, group, links, time, size, device twice, name's size, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// What the machine boots with: `modules` is the folder of the kernel's modules, `scripts` names
/// and texts of shell scripts.
pub(super) fn build(busybox: &Path, modules: &Path, scripts: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.add("bin", FOLDER, &[]);
    archive.add("bin/busybox", PROGRAM, &read(busybox)?);
    for (name, text) in scripts {
        archive.add(name, PROGRAM, text.as_bytes());
    }
    archive.add("modules", FOLDER, &[]);
    let index = read(&modules.join("modules.dep"))?;
    let mut order = Vec::new();
    for file in in_order(&String::from_utf8_lossy(&index), &TO_SEE_THE_HOST)? {
        let name = format!("modules/{}", name_of(&file));
        archive.add(&name, PROGRAM, &read(&modules.join(&file))?);
        order.push(format!("/{name}\n"));
    }
    archive.add("modules/order", PROGRAM, order.concat().as_bytes());
    Ok(archive.finish())
}

/// Files of `wanted` and of everything they need, each after what it needs.
///
/// `index` is the text of `modules.dep`: a line has a module, a colon, and all that it needs, the
/// first to be loaded last.
fn in_order(index: &str, wanted: &[&str]) -> Result<Vec<String>> {
    let lines: BTreeMap<&str, (&str, &str)> = index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module(file), (file, needs)))
        .collect();
    let mut files: Vec<String> = Vec::new();
    for name in wanted {
        let (file, needs) =
            lines.get(name).with_context(|| format!("the kernel has no module {name}"))?;
        for file in needs.split_whitespace().rev().chain([*file]) {
            if !files.iter().any(|known| known == file) {
                files.push(file.to_owned());
            }
        }
    }
    Ok(files)
}

/// The module in a file such as `kernel/fs/9p/9p.ko`.
fn module(file: &str) -> &str {
    name_of(file).split('.').next().unwrap_or_default()
}

fn name_of(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Where the machine's busybox lies, which must need no libraries.
pub(super) fn busybox() -> PathBuf {
    ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .unwrap_or_else(|| PathBuf::from("/bin/busybox"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_what_was_added_at_multiples_of_four() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"abcde");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let head = "070701\
            00000001000081ed0000000000000000000000010000000000000005\
            00000000000000000000000000000000000000050000000\
            0init\0";
        assert!(text.starts_with(head), "{text:?}");
        // 110 bytes of head and 5 of name; 1 of padding.
        assert_eq!(&text[116..124], "abcde\0\0\0");
        assert!(text[124..].starts_with("070701"), "{text:?}");
        assert!(text.contains("TRAILER!!!\0"), "{text:?}");
        assert_eq!(text.len() % 4, 0);
    }

    #[test]
    fn modules_come_after_what_they_need_and_once() {
        let index = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko kernel/fs/netfs.ko\n\
                     kernel/fs/netfs.ko:\n\
                     kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko\n";
        let files = in_order(index, &["9pnet_virtio", "9p"]).unwrap();
        let names: Vec<&str> = files.iter().map(|file| module(file)).collect();
        assert_eq!(names, ["9pnet", "9pnet_virtio", "netfs", "9p"]);
        let error = in_order(index, &["overlay"]).unwrap_err();
        assert_eq!(error.to_string(), "the kernel has no module overlay");
    }
}
