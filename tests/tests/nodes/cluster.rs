//! A cluster for one test, which fails at once where something goes wrong.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Output},
    sync::Arc,
    thread,
};

use hashplane_tests::{
    cluster::{self, Options},
    lab::within,
};
use node_agent::image::{self, Content, File};

pub(crate) use hashplane_tests::cluster::get;

/// The image of all containers.
pub(crate) const IMAGE: &str = "hashplane.test/busybox:1";
/// What busybox is called as in the image.
const NAMES: [&str; 16] = [
    "sh", "cat", "echo", "sleep", "httpd", "hostname", "nslookup", "touch", "rm", "test", "grep",
    "id", "mkdir", "ls", "tail", "env",
];

/// A cluster; everything of it goes with it.
pub(crate) struct Cluster(cluster::Cluster);

fn binary() -> PathBuf {
    std::env::var_os("HASHPLANE_BIN")
        .map(PathBuf::from)
        .expect("HASHPLANE_BIN names the binary under test")
}

/// An archive of busybox as an image.
fn archive() -> Vec<u8> {
    let path = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("busybox"))
        .find(|path| path.is_file())
        .unwrap();
    let directory =
        |path: &str, mode| File { path: path.into(), content: Content::Directory(mode) };
    let mut files =
        vec![directory("bin", 0o755), directory("tmp", 0o1777), directory("etc", 0o755)];
    files.push(File::program("bin/busybox", fs::read(path).unwrap()));
    files.extend(NAMES.map(|name| File {
        path: format!("bin/{name}"),
        content: Content::Link("busybox".into()),
    }));
    image::archive(IMAGE, &files, &["/bin/sh"], "").unwrap()
}

impl Cluster {
    /// A cluster of so many nodes, all of them ready.
    pub(crate) fn start(nodes: usize) -> Self {
        Self::start_with(nodes, &[])
    }

    /// The same with further arguments.
    pub(crate) fn start_with(nodes: usize, arguments: &[&str]) -> Self {
        let images = vec![("busybox.tar", archive())];
        let options = Options { binary: &binary(), nodes, images, arguments, stop: Arc::default() };
        Self(cluster::Cluster::start(&options).unwrap())
    }

    /// Starts what makes a node again.
    pub(crate) fn run(&mut self, index: usize) {
        self.0.run(index).unwrap();
    }

    /// Ends a node's process without a warning.
    pub(crate) fn kill(&mut self, index: usize) {
        self.0.kill(index).unwrap();
    }

    pub(crate) fn try_kubectl(&self, arguments: &[&str]) -> Output {
        self.0.try_kubectl(arguments).unwrap()
    }

    /// What kubectl says, which must succeed.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> String {
        self.0.kubectl(arguments).unwrap()
    }

    /// A kubectl that goes on; its output is to be read.
    pub(crate) fn start_kubectl(&self, arguments: &[&str]) -> Child {
        self.0.start_kubectl(arguments).unwrap()
    }

    /// Applies objects whose containers run `IMAGE`.
    pub(crate) fn apply(&self, manifest: &str) {
        self.0.apply(&manifest.replace("IMAGE", IMAGE)).unwrap();
    }

    /// Waits for something; fails with what the cluster says of its pods.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        self.0.until(what, || Ok(is_so())).unwrap();
    }

    /// One field of a pod; empty if it is not there.
    pub(crate) fn pod(&self, name: &str, path: &str) -> String {
        self.0.pod(name, path).unwrap()
    }

    /// Does something outside of the cluster, on the nodes' network.
    pub(crate) fn outside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let netns = self.0.outside().to_owned();
        thread::spawn(move || within(&netns, || Ok(work())).unwrap())
    }
}

/// The address of a node.
pub(crate) fn address(node: usize, port: u16) -> SocketAddr {
    SocketAddr::new(cluster::address(node), port)
}
