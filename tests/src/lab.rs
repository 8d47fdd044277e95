//! A lab of network namespaces: two nodes with pods, the network between them, an outside client.
//!
//! ```text
//!  outside 192.168.88.100 ── router, bridge 192.168.77.1 ─┬─ nodeA 192.168.77.11 ── pods 10.244.1.0/24
//!          fd88::100                        fd77::1       └─ nodeB 192.168.77.12 ── pods 10.244.2.0/24
//! ```
//! Nothing outside of the namespaces is touched. A process of its own, the keeper, removes the lab
//! when its owner ends, however that happens.

mod agent;
mod checksums;
mod keeper;
mod kernel_state;
mod names;
mod narrow;
mod place;
mod topology;
mod wait;
mod xdp_pass;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, anyhow};

pub use keeper::{Keeper, keep_until_end_of_input, remove};
pub use kernel_state::cgroup2_root;
pub use names::NodeName;
pub use place::{Addresses, Asking, Family, Place, RunningLoad, TcpConnection, UdpSocket};

pub use wait::{eventually, slowed, slowed_ms, within};

use crate::{DaemonOptions, Service, daemon::Daemon, manifests::ManifestFolder};

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// A binary whose `main` begins with [`crate::agent::run_if_asked`].
    pub tool: PathBuf,
    /// `rp_filter` on the nodes; 1 is strict.
    pub rp_filter: u8,
}

impl LabOptions {
    /// The lab that most tests use: strict reverse-path filters.
    pub fn new(tool: impl Into<PathBuf>) -> Self {
        Self { tool: tool.into(), rp_filter: 1 }
    }
}

/// A lab that is up. Dropping it removes it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    tool: PathBuf,
    nodes: [Node; 2],
    outside: Arc<Place>,
    manifests: ManifestFolder,
    // Dropped last: the keeper removes what the others have used.
    keeper: Arc<Keeper>,
}

/// One node of the lab.
#[derive(Debug)]
struct Node {
    name: NodeName,
    host: Arc<Place>,
    pods: AtomicU32,
}

impl Lab {
    /// Builds the lab, after removing what labs of dead processes have left behind.
    pub fn new(options: &LabOptions) -> anyhow::Result<Self> {
        keeper::remove_leftovers();
        let name = names::next_lab();
        let keeper = Arc::new(Keeper::start(&options.tool, &name)?);
        kernel_state::prepare(&name)?;
        topology::build(&name, options.rp_filter)?;
        let node = |node: NodeName| -> anyhow::Result<Node> {
            let host = place::host(&options.tool, &name, node)?;
            Ok(Node { name: node, host: Arc::new(host), pods: AtomicU32::new(0) })
        };
        Ok(Self {
            nodes: [node(NodeName::A)?, node(NodeName::B)?],
            outside: Arc::new(place::outside(&options.tool, &name)?),
            manifests: ManifestFolder::new(names::folder(&name).join("manifests"))?,
            tool: options.tool.clone(),
            name,
            keeper,
        })
    }

    /// The lab's name, with which the names of its namespaces begin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the lab keeps its files.
    pub fn folder(&self) -> PathBuf {
        names::folder(&self.name)
    }

    /// The folder that the daemons watch.
    pub fn manifests(&self) -> &ManifestFolder {
        &self.manifests
    }

    /// Who removes the lab.
    pub fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.keeper)
    }

    /// The client outside, which knows the way to the nodes only.
    pub fn outside(&self) -> Arc<Place> {
        Arc::clone(&self.outside)
    }

    /// The host of a node.
    pub fn host(&self, node: NodeName) -> Arc<Place> {
        Arc::clone(&self.node(node).host)
    }

    /// A new pod whose sockets are translated when it calls `connect` or `sendmsg`.
    pub fn pod(&self, name: &str, node: NodeName) -> anyhow::Result<Arc<Place>> {
        self.new_pod(name, node, &names::pod_cgroup(node, name))
    }

    /// A new pod outside of the cgroup that the node's daemon attaches to: only packets count.
    pub fn pod_without_hooks(&self, name: &str, node: NodeName) -> anyhow::Result<Arc<Place>> {
        self.new_pod(name, node, &format!("without-hooks/{name}"))
    }

    fn new_pod(&self, name: &str, node: NodeName, cgroup: &str) -> anyhow::Result<Arc<Place>> {
        let number = self.node(node).pods.fetch_add(1, Ordering::Relaxed) + 1;
        let addresses = topology::pod_addresses(node, number);
        topology::add_pod(&self.name, name, node, addresses)
            .with_context(|| format!("cannot make the pod {name}"))?;
        let pod = Place::new(&self.tool, &self.name, (name, Some(node)), cgroup, addresses)?;
        Ok(Arc::new(pod))
    }

    /// Deletes a pod: its processes, its link and its namespace.
    pub fn remove_pod(&self, pod: &Place) -> anyhow::Result<()> {
        pod.end();
        topology::remove_namespace(&names::netns(&self.name, pod.name()))
    }

    /// Gives a node's NIC another address.
    pub fn add_node_address(&self, node: NodeName, address: Addresses) -> anyhow::Result<()> {
        topology::add_node_address(&self.name, node, address)
    }

    /// Gives the outside client a way to the `ClusterIP` ranges through node A.
    pub fn route_cluster_ips_from_outside(&self) -> anyhow::Result<()> {
        topology::route_cluster_ips_from_outside(&self.name)
    }

    /// Gives the way from node A to the pods of node B a link with this MTU, behind a router.
    pub fn narrow_between_nodes(&self, mtu: u32) -> anyhow::Result<()> {
        narrow::between_nodes(&self.name, mtu)
    }

    /// Gives the last link to the outside client this MTU, and does not tell the client.
    pub fn narrow_to_outside(&self, mtu: u32) -> anyhow::Result<()> {
        narrow::to_outside(&self.name, mtu)
    }

    /// Leads what the outside client sends to `address`, which is nobody's, through a node.
    pub fn route_from_outside(&self, address: IpAddr, node: NodeName) -> anyhow::Result<()> {
        topology::route_from_outside(&self.name, address, node)
    }

    /// Lets a pod send whole checksums, so that whoever receives its packets verifies them.
    pub fn whole_checksums(&self, pod: &Place) -> anyhow::Result<()> {
        self.offload(pod, "eth0", "tx", false)
    }

    /// Lets packets reach a node with checksums that nobody has finished, as a virtual machine's
    /// packets reach its host.
    pub fn unfinished_checksums_towards(&self, node: NodeName) -> anyhow::Result<()> {
        topology::offload(&names::netns(&self.name, "fabric"), node.as_str(), "tx", true)
    }

    /// Runs `ethtool -K <device> <feature> <on|off>` where `place` is.
    pub fn offload(
        &self,
        place: &Place,
        device: &str,
        feature: &str,
        on: bool,
    ) -> anyhow::Result<()> {
        topology::offload(place.netns(), device, feature, on)
    }

    /// Starts a node's daemon and waits until it is healthy.
    pub fn start_daemon(&self, node: NodeName, options: DaemonOptions) -> anyhow::Result<Daemon> {
        Daemon::start(&self.name, self.manifests.path(), self.host(node), node, options)
    }

    /// Leaves the lab, with what runs in its hosts, for [`remove`].
    pub fn leave(&self) -> anyhow::Result<()> {
        self.outside.leave()?;
        for node in &self.nodes {
            node.host.leave()?;
        }
        self.keeper.keep()
    }

    /// Starts the daemons of both nodes side by side.
    pub fn start_daemons(&self, [a, b]: [DaemonOptions; 2]) -> anyhow::Result<[Daemon; 2]> {
        let (a, b) = thread::scope(|scope| {
            let b = scope.spawn(|| self.start_daemon(NodeName::B, b));
            (self.start_daemon(NodeName::A, a), b.join())
        });
        let b = b.map_err(|_panic| anyhow!("the thread that starts a daemon has panicked"))?;
        Ok([a?, b?])
    }

    /// Starts to describe a Service; see [`Service::write`].
    pub fn service(&self, name: &str) -> Service {
        Service::new(name, self.manifests.clone())
    }

    fn node(&self, node: NodeName) -> &Node {
        let [a, b] = &self.nodes;
        let found = if a.name == node { a } else { b };
        debug_assert_eq!(found.name, node);
        found
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.outside.end();
        for node in &self.nodes {
            node.host.end();
        }
        self.keeper.remove_now();
    }
}

/// The `ClusterIP` ranges of the lab's services.
pub const CLUSTER_IPS: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 96, 0, 0), Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0));

/// Where bpffs is mounted for the daemons of a lab.
pub(crate) fn bpffs(lab: &str) -> PathBuf {
    names::folder(lab).join("bpf")
}

/// A node's own folder.
pub(crate) fn node_folder(lab: &str, node: NodeName) -> PathBuf {
    names::folder(lab).join(node.as_str())
}

/// The cgroup that a node's daemon attaches to.
pub(crate) fn node_cgroup(lab: &str, node: NodeName) -> PathBuf {
    names::cgroup(lab, Path::new(node.as_str()))
}
