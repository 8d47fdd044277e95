//! Everything that the daemon can be told, with its defaults.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use super::modes::Wish;
use crate::{
    devices::{Patterns, Selection},
    ebpf::{
        attach::{Tc, Xdp},
        load::MapSizes,
        pin,
    },
    iptables::Variant,
    shadow::Counts,
};

/// Host ends of pods' links as the usual CNI plugins name them.
pub const POD_LINKS: &str = "veth*,lxc*,cali*,eni*,hp*";
/// The word for "the usual names of NICs, and every device that carries a default route".
pub const AUTO: &str = "auto";
/// The bit of kube-proxy.
pub const MASQUERADE_BIT: u32 = 1 << 14;
/// Where lock and socket of the daemon are.
pub const STATE_DIR: &str = "/run/hashplane";

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Kubernetes API server: of this kubeconfig, or of the cluster this runs in.
    Kubernetes {
        /// The file; none means in-cluster or `KUBECONFIG`.
        kubeconfig: Option<PathBuf>,
    },
    /// A directory of YAML manifests.
    Manifests(PathBuf),
}

/// What the daemon does.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where objects come from.
    pub source: Source,
    /// Name of this node among the endpoints.
    pub node_name: String,
    /// The zone of this node until its Node object says another one.
    pub zone: Option<String>,
    /// Which backend serves.
    pub mode: Wish,
    /// Which devices get programs, which addresses masquerade.
    pub selection: Selection,
    /// The BPF file system.
    pub bpffs: PathBuf,
    /// Name of this instance.
    pub instance: String,
    /// Where lock and socket are.
    pub state_dir: PathBuf,
    /// The cgroup of the socket hooks; none means the root of the mounted cgroup2.
    pub cgroup: Option<PathBuf>,
    /// Whether the socket hooks are on.
    pub sockets: bool,
    /// The TC programs.
    pub tc: Tc,
    /// The XDP program.
    pub xdp: Xdp,
    /// Ports of `NodePort` services.
    pub node_ports: RangeInclusive<u16>,
    /// Where `/metrics` is served.
    pub metrics_address: SocketAddr,
    /// Where `/healthz` and `/livez` are served.
    pub health_address: SocketAddr,
    /// Sizes of the maps.
    pub sizes: MapSizes,
    /// Whether the programs log.
    pub debug: bool,
    /// Where decisions of other modes are counted that eBPF would have made too, or not; none means
    /// that they are not compared.
    pub shadow: Option<Counts>,
    /// Which implementation of iptables writes rules; none is the one that the node uses already.
    pub iptables: Option<Variant>,
    /// The bit of a packet's mark that says "masquerade" to the rules.
    pub masquerade_bit: u32,
    /// Whether what kube-proxy has left in the kernel goes once this serves.
    pub removes_kube_proxy: bool,
}

impl Settings {
    /// The settings of a node where nothing is said but its name and its source.
    pub fn new(node_name: String, source: Source) -> Self {
        Self {
            source,
            node_name,
            zone: None,
            mode: Wish::Auto,
            selection: selection(POD_LINKS, AUTO, Vec::new()),
            bpffs: pin::BPFFS.into(),
            instance: pin::INSTANCE.into(),
            state_dir: STATE_DIR.into(),
            cgroup: None,
            sockets: true,
            tc: Tc::On,
            xdp: Xdp::Auto,
            node_ports: 30000..=32767,
            metrics_address: SocketAddr::from(([127, 0, 0, 1], 10249)),
            health_address: SocketAddr::from(([0, 0, 0, 0], 10256)),
            sizes: MapSizes::default(),
            debug: false,
            shadow: None,
            iptables: None,
            masquerade_bit: MASQUERADE_BIT,
            removes_kube_proxy: false,
        }
    }
}

/// The selection that two lists of patterns describe; [`AUTO`] may stand among the NICs.
pub fn selection(pod_links: &str, nics: &str, node_ips: Vec<IpAddr>) -> Selection {
    let mut nics = Patterns::new(nics);
    let nics_auto = nics.take(AUTO);
    let pod_links = Patterns::new(pod_links);
    Selection { pod_links, nics, nics_auto, node_ips, ..Selection::default() }
}

/// `first-last`, as Kubernetes writes it.
pub fn parse_port_range(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first > 0 && first <= last).then_some(first..=last)
}

/// The daemon's own socket, by which the tools ask for names.
pub fn socket_path(state_dir: &Path, instance: &str) -> PathBuf {
    state_dir.join(format!("{instance}.sock"))
}

/// The file that one daemon at a time holds.
pub fn lock_path(state_dir: &Path, instance: &str) -> PathBuf {
    state_dir.join(format!("{instance}.lock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_range_is_written_as_in_kubernetes() {
        assert_eq!(parse_port_range("30000-32767"), Some(30000..=32767));
        for text in ["", "30000", "2-1", "0-5", "1-65536", "a-b"] {
            assert_eq!(parse_port_range(text), None, "{text}");
        }
    }

    #[test]
    fn auto_may_stand_beside_names() {
        let selection = selection(POD_LINKS, "auto,dummy0", Vec::new());
        assert!(selection.nics_auto);
        assert_eq!(selection.nics.names().collect::<Vec<_>>(), ["dummy0"]);
    }
}
