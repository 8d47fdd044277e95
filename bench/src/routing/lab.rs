//! Client, node and two hosts of endpoints: four network namespaces that end with this process.
//!
//! ```text
//!  client 10.7.0.2 ── hpc, node, eth0 192.0.2.1 ─── host 0: 10.128.0.0/10, and who is outside
//!                               eth1 198.51.100.1 ── host 1: 10.192.0.0/10
//! ```
//! None of them has a name, and file systems are mounted for this process alone: whatever happens to
//! it, the kernel removes them. Only a cgroup stays behind, and [`cgroup`] knows it by its name.

pub mod cgroup;
pub mod dataplane;
pub mod objects;

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
};

use anyhow::{Context as _, anyhow, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

/// The node's addresses towards host 0; those it masquerades with.
pub const NODE_IP: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 2, 1);
/// The same for IPv6.
pub const NODE_IP6: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1);
/// MAC addresses of the link between host 0 and the node: host, then node.
pub const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 0x10], [2, 0, 0, 0, 0, 0x11]];

/// Where this process has its BPF file system, which no other process sees.
const BPFFS: &str = "/sys/fs/bpf";

/// Work for a place; it ends when nobody can send any more.
type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
#[derive(Debug)]
pub struct Place {
    jobs: mpsc::Sender<Job>,
    namespace: PathBuf,
}

/// The lab; the node is where the calling thread is.
#[derive(Debug)]
pub struct Lab {
    /// Who asks.
    pub client: Place,
    /// Who answers.
    pub hosts: [Place; 2],
}

impl Place {
    fn new() -> anyhow::Result<Self> {
        let (jobs, received) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET)
                .map(|()| format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid()));
            let is_in = entered.is_ok();
            // Whoever waits for it is still there: this is the first thing he does.
            let _ = tell.send(entered);
            for job in received.iter().take_while(|_| is_in) {
                job();
            }
        });
        let namespace = told.recv().context("the thread of a namespace has ended")?;
        let namespace = namespace.context("cannot make a network namespace")?.into();
        Ok(Self { jobs, namespace })
    }

    /// Runs `work` there and waits for it. What it starts is there too.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.start(work)?.recv().map_err(|_ended| anyhow!("the thread of a namespace has ended"))?
    }

    /// Starts `work` there; its result comes by the channel.
    pub fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<mpsc::Receiver<anyhow::Result<T>>> {
        let (send, receive) = mpsc::channel();
        let job: Job = Box::new(move || {
            // Who does not wait needs no result.
            let _ = send.send(work());
        });
        self.jobs.send(job).map_err(|_ended| anyhow!("the thread of a namespace has ended"))?;
        Ok(receive)
    }
}

impl Lab {
    /// Moves this process into a namespace that becomes the node, and builds the others around it.
    ///
    /// The process must not have other threads yet.
    pub fn new() -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("cannot make namespaces")?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
            .context("cannot keep our mounts to ourselves")?;
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a BPF file system at {BPFFS}"))?;
        settings(true)?;
        let places = [Place::new()?, Place::new()?, Place::new()?];
        for place in &places {
            place.run(|| settings(false))?;
        }
        let [client, near, far] = places;
        ip(&node_batch(&client.namespace, &near.namespace, &far.namespace))?;
        client.run(|| ip(&end_batch("10.7.0", "fd07::", "")))?;
        near.run(|| ip(&end_batch("192.0.2", "fd02::", &local_batch("10.128.0.0/10", "fd80"))))?;
        far.run(|| ip(&end_batch("198.51.100", "fd03::", &local_batch("10.192.0.0/10", "fd81"))))?;
        // With it a veth takes packets in as a NIC does, by NAPI, and takes frames from XDP.
        for device in ["eth0", "eth1"] {
            command("ethtool", &["-K", device, "gro", "on"])?;
        }
        Ok(Self { client, hosts: [near, far] })
    }
}

/// The links of the node. Names as CNI plugins give them tell the pod's link from the NICs.
fn node_batch(client: &Path, near: &Path, far: &Path) -> String {
    let link = |name: &str, node_mac: &str, end: &Path, end_mac: &str, v4: &str, v6: &str| {
        format!(
            "link add {name} address {node_mac} type veth peer name lan address {end_mac} netns {}\n\
             addr add {v4}.1/24 dev {name}\naddr add {v6}1/64 dev {name} nodad\n\
             link set {name} up\n",
            end.display()
        )
    };
    let mut batch =
        link("hpc", "02:00:00:00:00:09", client, "02:00:00:00:00:08", "10.7.0", "fd07::");
    batch += &link("eth0", "02:00:00:00:00:11", near, "02:00:00:00:00:10", "192.0.2", "fd02::");
    batch += &link("eth1", "02:00:00:00:00:21", far, "02:00:00:00:00:20", "198.51.100", "fd03::");
    batch += "route add 10.128.0.0/10 via 192.0.2.2\nroute add 10.192.0.0/10 via 198.51.100.2\n\
              route add fd80::/16 via fd02::2\nroute add fd81::/16 via fd03::2\n\
              route add default via 192.0.2.2\nroute add default via fd02::2\n";
    let neighbours = [
        ("10.7.0.2", "08", "hpc"),
        ("fd07::2", "08", "hpc"),
        ("192.0.2.2", "10", "eth0"),
        ("fd02::2", "10", "eth0"),
        ("198.51.100.2", "20", "eth1"),
        ("fd03::2", "20", "eth1"),
    ];
    let known = neighbours.map(|(address, mac, device)| {
        format!("neigh replace {address} lladdr 02:00:00:00:00:{mac} dev {device} nud permanent\n")
    });
    batch += &known.concat();
    batch
}

/// The other end of a link, and what it has beside.
fn end_batch(v4: &str, v6: &str, more: &str) -> String {
    format!(
        "link set lan up\naddr add {v4}.2/24 dev lan\naddr add {v6}2/64 dev lan nodad\n\
         route add default via {v4}.1\nroute add default via {v6}1\n{more}"
    )
}

/// Every address of these ranges is the host's own, without a list of them.
fn local_batch(v4: &str, v6: &str) -> String {
    format!("route add local {v4} dev lo\nroute add local {v6}::/16 dev lo\n")
}

fn settings(routes: bool) -> anyhow::Result<()> {
    let forward = if routes { "1" } else { "0" };
    for (name, value) in [
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/default/accept_ra", "0"),
        ("ipv4/ip_forward", forward),
        ("ipv6/conf/all/forwarding", forward),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
        // Packets that leave by the device they came by are what a node port is about.
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv4/tcp_tw_reuse", "1"),
        ("ipv4/tcp_max_syn_backlog", "16384"),
        ("core/somaxconn", "16384"),
    ] {
        let path = Path::new("/proc/sys/net").join(name);
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !routes {
        let range = "/proc/sys/net/ipv4/ip_local_port_range";
        fs::write(range, "20000 65000").with_context(|| format!("cannot write {range}"))?;
    }
    ip("link set lo up\n")
}

/// Commands of `ip`, in the namespace of this thread.
pub fn ip(batch: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip (package iproute2)")?;
    let mut stdin = child.stdin.take().context("ip has no input")?;
    stdin.write_all(batch.as_bytes()).context("cannot write to ip")?;
    drop(stdin);
    let output = child.wait_with_output().context("cannot wait for ip")?;
    if !output.status.success() {
        bail!("ip: {}, of:\n{batch}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Another program, in the namespace of this thread.
pub fn command(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(())
}
