//! Debian's etcd on loopback.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A server of etcd with a folder of its own; it ends when this is dropped.
pub(crate) struct Server {
    process: Child,
    /// Where clients find it.
    pub(crate) address: String,
    peer: String,
}

impl Server {
    /// Nothing, aloud, where etcd is not installed.
    pub(crate) fn start(test: &str, directory: &TempDir) -> Option<Self> {
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let (address, peer) = (format!("http://{}", free()), format!("http://{}", free()));
        match Self::run(directory, &address, &peer) {
            Ok(process) => Some(Self { process, address, peer }),
            Err(error) => {
                println!("SKIP {test}: cannot start etcd: {error}");
                None
            }
        }
    }

    /// Starts it again where it was.
    #[expect(clippy::allow_attributes, reason = "only one of the tests that share this uses it")]
    #[allow(dead_code, reason = "only one of the tests that share this uses it")]
    pub(crate) fn restart(&mut self, directory: &TempDir) {
        self.process = Self::run(directory, &self.address, &self.peer).unwrap();
    }

    fn run(directory: &TempDir, address: &str, peer: &str) -> std::io::Result<Child> {
        Command::new("etcd")
            .arg("--data-dir")
            .arg(directory.path().join("etcd"))
            .args(["--listen-client-urls", address, "--advertise-client-urls", address])
            .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    }

    /// Ends it at once.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
