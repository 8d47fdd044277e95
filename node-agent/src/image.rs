//! Images of containers, made from files: what a node needs without a registry.

use std::io;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// A file of an image, or a link.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is, without a slash in front.
    pub path: String,
    /// What is in it, or where the link leads.
    pub content: Content,
}

/// What a path of an image holds.
#[derive(Clone, Debug)]
pub enum Content {
    /// Bytes, and the mode.
    Bytes(Vec<u8>, u32),
    /// A symbolic link.
    Link(String),
    /// A directory, and its mode.
    Directory(u32),
}

impl File {
    /// A program.
    pub fn program(path: &str, bytes: Vec<u8>) -> Self {
        Self { path: path.into(), content: Content::Bytes(bytes, 0o755) }
    }
}

/// An archive of an image, as `ctr images import` takes it (OCI image layout 1.0), with one layer, for
/// the architecture that this is built for.
pub fn archive(name: &str, files: &[File], entry: &[&str], user: &str) -> io::Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for file in files {
        add(&mut layer, file)?;
    }
    let layer = layer.into_inner()?;
    let arch = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": arch, "os": "linux",
        "config": {"Entrypoint": entry, "User": user, "Env": ["PATH=/bin:/usr/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [name_of(&layer)]},
    });
    let config = config.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("application/vnd.oci.image.config.v1+json", &config),
        "layers": [described("application/vnd.oci.image.layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = described("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({"io.containerd.image.name": name});
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let mut image = tar::Builder::new(Vec::new());
    let plain =
        |path: String, bytes: &[u8]| File { path, content: Content::Bytes(bytes.to_vec(), 0o644) };
    add(&mut image, &plain("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#))?;
    add(&mut image, &plain("index.json".into(), index.as_bytes()))?;
    for blob in [&layer, &config, &manifest] {
        let path = format!("blobs/{}", name_of(blob).replace(':', "/"));
        add(&mut image, &plain(path, blob))?;
    }
    image.into_inner()
}

fn add(archive: &mut tar::Builder<Vec<u8>>, file: &File) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mtime(0);
    header.set_size(0);
    match &file.content {
        Content::Bytes(bytes, mode) => {
            header.set_size(bytes.len() as u64);
            header.set_mode(*mode);
            archive.append_data(&mut header, &file.path, bytes.as_slice())
        }
        Content::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            archive.append_link(&mut header, &file.path, target)
        }
        Content::Directory(mode) => {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(*mode);
            archive.append_data(&mut header, &file.path, io::empty())
        }
    }
}

fn name_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(digest(&SHA256, bytes).as_ref(), 32))
}

/// The first bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8], count: usize) -> String {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    bytes.iter().take(count).flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn described(kind: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": name_of(bytes), "size": bytes.len()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_names_its_parts_by_what_is_in_them() {
        let file = File::program("bin/x", vec![1, 2, 3]);
        let archive = archive("x/y:1", &[file], &["/bin/x"], "").expect("an archive");
        let mut names = Vec::new();
        for entry in tar::Archive::new(archive.as_slice()).entries().expect("entries") {
            let mut entry = entry.expect("an entry");
            let path = entry.path().expect("a path").display().to_string();
            let mut bytes = Vec::new();
            io::Read::read_to_end(&mut entry, &mut bytes).expect("its bytes");
            if let Some(hash) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(name_of(&bytes), format!("sha256:{hash}"));
            }
            names.push(path);
        }
        assert_eq!(names.len(), 5, "{names:?}");
    }
}
