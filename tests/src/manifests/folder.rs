//! The folder of manifests, and how to tell that a daemon has read what was written.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::Context as _;
use serde_json::{Value, json};

/// Where marks live: behind the namespace of what they mark.
const NAMESPACE: &str = "written";

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct ManifestFolder {
    path: PathBuf,
}

/// Something that was written: its mark is in the kernel once everything beside it is.
///
/// The mark is a Service of its own in the same file, which sorts behind all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    file: String,
    path: PathBuf,
    number: u16,
}

impl ManifestFolder {
    /// Makes the folder.
    pub fn new(path: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file whole: a daemon sees the old text or the new one.
    pub fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let draft = self.path.with_extension("draft");
        fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
        let path = self.path.join(file);
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes objects and their mark as `<name>.yaml`.
    pub fn write_objects(&self, name: &str, objects: &[Value]) -> anyhow::Result<Written> {
        static WRITTEN: AtomicU16 = AtomicU16::new(1);
        let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let path = self.path.join(format!("{name}.yaml"));
        let written = Written { file: name.to_owned(), path, number };
        let marked = [objects, &written.objects()].concat();
        let yaml = serde_saphyr::to_string_multiple(&marked);
        let yaml = yaml.context("cannot write a manifest as YAML")?;
        self.write(&format!("{name}.yaml"), &yaml)?;
        Ok(written)
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, file: &str) -> anyhow::Result<()> {
        let path = self.path.join(file);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

impl Written {
    /// What was written, without its ending.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The Service that is in the kernel afterwards, `namespace/name`.
    pub fn mark(&self) -> String {
        format!("{NAMESPACE}/{}", self.mark_name())
    }

    /// No two marks share a name: one that is replaced is not taken for its successor.
    fn mark_name(&self) -> String {
        format!("{}-{}", self.file, self.number)
    }

    fn address(&self, block: u8) -> IpAddr {
        let [high, low] = self.number.to_be_bytes();
        Ipv4Addr::new(10, block, high, low).into()
    }

    fn objects(&self) -> [Value; 2] {
        let metadata = |labels: Value| json!({ "name": self.mark_name(), "namespace": NAMESPACE, "labels": labels });
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": metadata(json!({})),
            "spec": {
                "clusterIP": self.address(97),
                "clusterIPs": [self.address(97)],
                "ipFamilies": ["IPv4"],
                "ports": [{ "port": 1 }],
            },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": metadata(json!({ "kubernetes.io/service-name": self.mark_name() })),
            "addressType": "IPv4",
            "ports": [{ "name": "", "protocol": "TCP", "port": 1 }],
            "endpoints": [{ "addresses": [self.address(98)], "conditions": { "ready": true } }],
        });
        [service, slice]
    }
}
