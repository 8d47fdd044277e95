//! What `hashplane proxy` can be told: by flag, environment, file, in this order.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow};
use clap::{Args, ValueEnum};
use dataplane_user::{
    backend,
    daemon::{
        modes::Wish,
        settings::{self, Settings, Source},
    },
    devices::NodePortAddresses,
    ebpf::attach,
    iptables::Variant,
};
use serde::Deserialize;

/// Arguments of `hashplane proxy`.
#[derive(Debug, Args)]
pub(crate) struct ProxyArguments {
    /// YAML file with any of the other settings; keys are the long flags' names.
    #[arg(long, env = "HASHPLANE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// A switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// How TC programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Tc {
    /// By tcx, or by clsact where the kernel has no tcx.
    On,
    /// By clsact.
    Clsact,
    /// Not at all.
    Off,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Xdp {
    /// In the driver, but not on a veth pair, whose other end would drop what comes back.
    Auto,
    /// In the driver, on a veth pair too.
    Driver,
    /// In the driver but not on a veth pair; where that fails, in the network stack.
    Generic,
    /// Not at all.
    Off,
}

/// What translates packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// The best that this node can do.
    Auto,
    /// Socket hooks, TC and XDP programs over hash maps.
    Ebpf,
    /// nftables maps.
    Nftables,
    /// iptables rules.
    Iptables,
    /// IPVS virtual servers.
    Ipvs,
}

/// Which implementation of iptables writes rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IptablesVariant {
    /// The one that the node uses already.
    Auto,
    /// On top of `nf_tables`.
    Nft,
    /// With tables of its own.
    Legacy,
}

/// One value or several, as YAML or a command line has them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn list(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

macro_rules! options {
    ($($(#[doc = $doc:literal])+ $(#[arg($($arg:tt)*)])? $name:ident: $type:ty = $env:literal;)+) => {
        /// All settings; `None` means that this place does not say.
        #[derive(Debug, Default, PartialEq, Args, Deserialize)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub(crate) struct Options {
            $($(#[doc = $doc])+ #[arg(long, env = $env $(, $($arg)*)?)] pub(crate) $name: Option<$type>,)+
        }

        impl Options {
            /// What `self` says, and `other` where it says nothing.
            pub(crate) fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)+ }
            }
        }
    };
}

options! {
    /// What translates packets: `auto` is the best that this node can do, in the order ebpf, nftables,
    /// ipvs, iptables [default: auto]
    mode: Mode = "HASHPLANE_MODE";
    /// Kubeconfig of the cluster [default: the cluster this runs in, or KUBECONFIG]
    kubeconfig: PathBuf = "HASHPLANE_KUBECONFIG";
    /// Directory of YAML manifests to serve instead of a cluster
    manifests: PathBuf = "HASHPLANE_MANIFESTS";
    /// Name of this node [default: the host name]
    node_name: String = "HASHPLANE_NODE_NAME";
    /// Zone of this node, until its Node object says another one [default: none]
    zone: String = "HASHPLANE_ZONE";
    /// Addresses to masquerade with, one per family, separated by commas
    #[arg(value_parser = parse_addresses)]
    node_ip: OneOrMany<IpAddr> = "HASHPLANE_NODE_IP";
    /// Name of this instance [default: default]
    instance: String = "HASHPLANE_INSTANCE";
    /// The BPF file system [default: /sys/fs/bpf]
    bpffs: PathBuf = "HASHPLANE_BPFFS";
    /// Directory of lock and socket [default: /run/hashplane]
    state_dir: PathBuf = "HASHPLANE_STATE_DIR";
    /// The cgroup of the socket hooks [default: root of the mounted cgroup2]
    cgroup: PathBuf = "HASHPLANE_CGROUP";
    /// NICs, with wildcards; `auto` adds the usual names and those with a default route [default: auto]
    nics: String = "HASHPLANE_NICS";
    /// Host ends of pods' links, with wildcards [default: veth*,lxc*,cali*,eni*,hp*]
    pod_links: String = "HASHPLANE_POD_LINKS";
    /// Socket hooks [default: on]
    sockets: Switch = "HASHPLANE_SOCKETS";
    /// TC programs [default: on]
    tc: Tc = "HASHPLANE_TC";
    /// XDP program [default: auto]
    xdp: Xdp = "HASHPLANE_XDP";
    /// Ports of `NodePort` services [default: 30000-32767]
    node_port_range: String = "HASHPLANE_NODE_PORT_RANGE";
    /// Node addresses that serve node ports and health checks: blocks such as 192.0.2.0/24, separated
    /// by commas, or `primary` [default: all, and loopback]
    #[arg(value_parser = parse_words)]
    nodeport_addresses: OneOrMany<String> = "HASHPLANE_NODEPORT_ADDRESSES";
    /// Where /metrics is served [default: 127.0.0.1:10249]
    metrics_address: SocketAddr = "HASHPLANE_METRICS_ADDRESS";
    /// Where /healthz and /livez are served [default: 0.0.0.0:10256]
    health_address: SocketAddr = "HASHPLANE_HEALTH_ADDRESS";
    /// Frontends per family, cluster IPs counted once more [default: 262144]
    frontends_max: u32 = "HASHPLANE_FRONTENDS_MAX";
    /// Slots for endpoints per family [default: 1048576]
    endpoints_max: u32 = "HASHPLANE_ENDPOINTS_MAX";
    /// Entries for flows per family, two per flow [default: 262144]
    flows_max: u32 = "HASHPLANE_FLOWS_MAX";
    /// Translations of sockets [default: 131072]
    peers_max: u32 = "HASHPLANE_PEERS_MAX";
    /// In other modes than ebpf: compares each new connection with what ebpf would do, without touching
    /// traffic; see `hashplane_shadow_total` [default: off]
    #[arg(num_args = 0..=1, default_missing_value = "on")]
    shadow: Switch = "HASHPLANE_SHADOW";
    /// Which implementation of iptables writes the rules of mode iptables; `auto` is the one that the
    /// node uses already [default: auto]
    iptables: IptablesVariant = "HASHPLANE_IPTABLES";
    /// The bit of a packet's mark, 0 to 31, that says "masquerade" to the rules of the netfilter modes;
    /// others must not use it [default: 14, as kube-proxy]
    masquerade_bit: u32 = "HASHPLANE_MASQUERADE_BIT";
    /// Removes what kube-proxy has left in the kernel, in any of its modes, once this serves [default: off]
    #[arg(num_args = 0..=1, default_missing_value = "on")]
    cleanup_kube_proxy: Switch = "HASHPLANE_CLEANUP_KUBE_PROXY";
    /// What is logged, as in `info` or `info,dataplane_user=debug`; debug logs each new flow [default: info]
    log: String = "HASHPLANE_LOG";
}

fn parse_addresses(text: &str) -> Result<OneOrMany<IpAddr>, std::net::AddrParseError> {
    text.split(',').map(|ip| ip.trim().parse()).collect::<Result<_, _>>().map(OneOrMany::Many)
}

#[expect(clippy::unnecessary_wraps, reason = "what a value parser has to give back")]
fn parse_words(text: &str) -> Result<OneOrMany<String>, std::convert::Infallible> {
    Ok(OneOrMany::Many(text.split(',').map(str::to_owned).collect()))
}

/// The options of a file; the error names file and key.
pub(crate) fn read(path: &Path) -> anyhow::Result<Options> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read the config file {}", path.display()))?;
    parse(&text).with_context(|| format!("config file {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Options> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim().starts_with('#')) {
        return Ok(Options::default());
    }
    Ok(serde_saphyr::from_str(text)?)
}

impl ProxyArguments {
    /// Flags and environment, then the file; also the log filter.
    pub(crate) fn settings(self) -> anyhow::Result<(Settings, String)> {
        let file = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        self.options.or(file).settings()
    }
}

impl Options {
    pub(crate) fn settings(self) -> anyhow::Result<(Settings, String)> {
        let source = match (self.manifests, self.kubeconfig) {
            (Some(_), Some(_)) => {
                return Err(anyhow!("manifests and kubeconfig exclude each other; give one"));
            }
            (Some(directory), None) => Source::Manifests(directory),
            (None, kubeconfig) => Source::Kubernetes { kubeconfig },
        };
        let node_name = match self.node_name {
            Some(name) => name,
            None => host_name()?,
        };
        let mut settings = Settings::new(node_name, source);
        settings.zone = self.zone;
        set(&mut settings.mode, self.mode.map(Into::into));
        let node_ips = self.node_ip.map(OneOrMany::list).unwrap_or_default();
        let pod_links = self.pod_links.as_deref().unwrap_or(settings::POD_LINKS);
        let nics = self.nics.as_deref().unwrap_or(settings::AUTO);
        settings.selection = settings::selection(pod_links, nics, node_ips);
        if let Some(words) = self.nodeport_addresses {
            let words = words.list();
            let words: Vec<&str> = words.iter().flat_map(|words| words.split(',')).collect();
            settings.selection.node_ports =
                NodePortAddresses::parse(&words).context("nodeport-addresses")?;
        }
        set(&mut settings.instance, self.instance);
        set(&mut settings.bpffs, self.bpffs);
        set(&mut settings.state_dir, self.state_dir);
        settings.cgroup = self.cgroup;
        settings.sockets = self.sockets != Some(Switch::Off);
        set(&mut settings.tc, self.tc.map(Into::into));
        set(&mut settings.xdp, self.xdp.map(Into::into));
        if let Some(range) = self.node_port_range {
            settings.node_ports = settings::parse_port_range(&range).ok_or_else(|| {
                anyhow!("node-port-range {range:?} is no range of ports such as 30000-32767")
            })?;
        }
        set(&mut settings.metrics_address, self.metrics_address);
        set(&mut settings.health_address, self.health_address);
        set(&mut settings.sizes.frontends, self.frontends_max);
        set(&mut settings.sizes.endpoints, self.endpoints_max);
        set(&mut settings.sizes.flows, self.flows_max);
        set(&mut settings.sizes.peers, self.peers_max);
        settings.shadow = (self.shadow == Some(Switch::On)).then(Default::default);
        settings.iptables = match self.iptables {
            None | Some(IptablesVariant::Auto) => None,
            Some(IptablesVariant::Nft) => Some(Variant::Nft),
            Some(IptablesVariant::Legacy) => Some(Variant::Legacy),
        };
        if let Some(bit) = self.masquerade_bit {
            settings.masquerade_bit = 1_u32
                .checked_shl(bit)
                .ok_or_else(|| anyhow!("masquerade-bit {bit} is no bit of a mark: 0 to 31"))?;
        }
        settings.removes_kube_proxy = self.cleanup_kube_proxy == Some(Switch::On);
        let log = self.log.unwrap_or_else(|| "info".to_owned());
        settings.debug = log.contains("debug") || log.contains("trace");
        Ok((settings, log))
    }
}

fn set<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

pub(crate) fn host_name() -> anyhow::Result<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host name; give --node-name")?;
    // As the kubelet does it.
    Ok(name.trim().to_lowercase())
}

impl From<Mode> for Wish {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Auto => Self::Auto,
            Mode::Ebpf => Self::Only(backend::Mode::Ebpf),
            Mode::Nftables => Self::Only(backend::Mode::Nftables),
            Mode::Iptables => Self::Only(backend::Mode::Iptables),
            Mode::Ipvs => Self::Only(backend::Mode::Ipvs),
        }
    }
}

impl From<Tc> for attach::Tc {
    fn from(tc: Tc) -> Self {
        match tc {
            Tc::On => Self::On,
            Tc::Clsact => Self::Clsact,
            Tc::Off => Self::Off,
        }
    }
}

impl From<Xdp> for attach::Xdp {
    fn from(xdp: Xdp) -> Self {
        match xdp {
            Xdp::Auto => Self::Auto,
            Xdp::Driver => Self::Driver,
            Xdp::Generic => Self::Generic,
            Xdp::Off => Self::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = Options { instance: Some("flag".into()), ..Options::default() };
        let file = parse("instance: file\nxdp: off\nnode-ip: [192.0.2.1, fd00::1]\n").unwrap();
        let (settings, log) = flags.or(file).settings().unwrap();
        assert_eq!(settings.instance, "flag");
        assert_eq!(settings.xdp, attach::Xdp::Off);
        assert_eq!(settings.selection.node_ips.len(), 2);
        assert_eq!(settings.tc, attach::Tc::On);
        assert_eq!(log, "info");
    }

    #[test]
    fn an_unknown_key_names_file_and_key() {
        let mut file = std::env::temp_dir();
        file.push(format!("hashplane-config-{}.yaml", std::process::id()));
        fs::write(&file, "instance: a\nnode-prt-range: 1-2\n").unwrap();
        let error = format!("{:#}", read(&file).unwrap_err());
        fs::remove_file(&file).unwrap();
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(error.contains("node-prt-range"), "{error}");
    }

    #[test]
    fn an_empty_file_says_nothing() {
        assert_eq!(parse("# nothing\n\n").unwrap(), Options::default());
    }

    #[test]
    fn node_port_addresses_are_one_text_or_a_list() {
        let block = |text: &str| {
            let (settings, _) = parse(text).unwrap().settings().unwrap();
            settings.selection.node_ports
        };
        let expected = NodePortAddresses::parse(&["192.0.2.0/24", "fd00::/64"]).unwrap();
        assert_eq!(block("nodeport-addresses: 192.0.2.0/24,fd00::/64\n"), expected);
        assert_eq!(block("nodeport-addresses: [192.0.2.0/24, \"fd00::/64\"]\n"), expected);
        assert_eq!(block("nodeport-addresses: primary\n"), NodePortAddresses::Primary);
        assert_eq!(block("zone: a\n"), NodePortAddresses::All);
    }

    #[test]
    fn wrong_node_port_addresses_are_one_clear_sentence() {
        let wrong = parse("nodeport-addresses: 192.0.2.1\n").unwrap().settings().unwrap_err();
        let expected = "nodeport-addresses: `192.0.2.1` is no block of addresses such as 192.0.2.0/24 \
                        or 2001:db8::/64";
        assert_eq!(format!("{wrong:#}"), expected);
    }

    #[test]
    fn two_sources_are_refused() {
        let both = parse("manifests: /a\nkubeconfig: /b\n").unwrap().settings();
        assert!(both.unwrap_err().to_string().contains("exclude each other"));
    }
}
