//! What a comparison of routing modes measured: every raw sample, and what it was measured on.
//!
//! This is `results.json`. Everything shown to people (table, CSV, report) is derived from it.

use serde::{Deserialize, Serialize};

/// Raised when a reader of older files would misread a newer one.
pub const FORMAT: u32 = 1;

/// One run of the benchmark, whole or interrupted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// [`FORMAT`] of the program that wrote this.
    pub format: u32,
    /// `quick`, `standard` or `full`.
    pub preset: String,
    /// RFC 3339, UTC.
    pub started: String,
    /// RFC 3339, UTC; empty while the run is not finished.
    pub finished: String,
    /// The machine.
    pub machine: Machine,
    /// What was measured.
    pub series: Vec<Series>,
    /// What was asked for and could not be measured, with the reason.
    pub missing: Vec<Missing>,
}

/// The machine on which it ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub processor: String,
    /// Processors that are on.
    pub cores: u32,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// How the machine is known to be virtual (`hypervisor`, `tcg`), or empty.
    pub virtual_by: String,
    /// Versions of the tools that took part (hashplane, iptables, kube-proxy), by name.
    pub versions: Vec<(String, String)>,
    /// Load average over one minute when the run began.
    pub load: f64,
}

/// How packets were routed to endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// No service at all: the client addresses the endpoint. The limit of what can be reached.
    Direct,
    /// Direct once more, as if it were another mode: what differs is the machine's noise.
    DirectAgain,
    /// Our iptables backend.
    Iptables,
    /// Our IPVS backend.
    Ipvs,
    /// Our nftables backend.
    Nftables,
    /// Socket hooks: the client's own socket is sent to the endpoint.
    EbpfSocket,
    /// TC programs.
    EbpfTc,
    /// XDP programs.
    EbpfXdp,
    /// kube-proxy with `--proxy-mode iptables`.
    KubeProxyIptables,
    /// kube-proxy with `--proxy-mode ipvs`.
    KubeProxyIpvs,
    /// kube-proxy with `--proxy-mode nftables`.
    KubeProxyNftables,
}

/// Where the service under test stands among all services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// It was programmed first.
    First,
    /// Half of the others were programmed before it.
    Middle,
    /// It was programmed last.
    Last,
    /// Each sample asks for another service, drawn from all of them.
    Random,
    /// The measure concerns all services, or none.
    All,
}

/// What was measured. The unit of its samples is [`Measure::unit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// From `connect` to the connection; each sample is one connection.
    ConnectLatency,
    /// From the first datagram to its answer, from a new port; each sample is one exchange.
    FirstDatagramLatency,
    /// Connect, request, response, close; each sample is the rate of one round.
    ShortConnections,
    /// CPU time of the whole machine per short connection; one sample per round.
    ConnectionCpu,
    /// Requests and answers on connections that stay; the rate of one round.
    Requests,
    /// Bytes in one direction on connections that stay; the rate of one round.
    Throughput,
    /// Packets forwarded through a node port in one second of one core.
    Packets,
    /// CPU time per packet forwarded through a node port.
    PacketCost,
    /// From nothing in the kernel to all services in it.
    ColdProgramming,
    /// From an event to the first packet that follows it.
    Change,
    /// Resident memory of the daemon.
    DaemonMemory,
    /// Memory of the kernel's rules or maps.
    KernelMemory,
    /// Share of the machine's CPU time that a fixed load of short connections leaves idle.
    CpuLeft,
}

/// All samples of one measure in one setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub measure: Measure,
    /// How packets were routed.
    pub route: Route,
    /// How many services there were.
    pub services: u32,
    /// Where the service under test stood.
    pub position: Position,
    /// `ipv4` or `ipv6`; `both` where the measure concerns both.
    pub family: String,
    /// `tcp`, `udp`, `sctp`.
    pub transport: String,
    /// Raw samples in [`Measure::unit`], by repetition. Repetitions of all routes are interleaved.
    pub rounds: Vec<Vec<f64>>,
    /// How it is known that packets took this route.
    pub evidence: String,
}

/// What could not be measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// How packets would have been routed.
    pub route: Route,
    /// None: at no size.
    pub services: Option<u32>,
    /// None: no measure at all.
    pub measure: Option<Measure>,
    /// One sentence: the time limit it went beyond, or what the kernel lacks.
    pub why: String,
}

impl Measure {
    /// The unit of samples.
    pub const fn unit(self) -> &'static str {
        match self {
            Self::ConnectLatency | Self::FirstDatagramLatency | Self::ConnectionCpu => "µs",
            Self::ShortConnections | Self::Requests | Self::Packets => "1/s",
            Self::Throughput => "Gbit/s",
            Self::PacketCost => "ns",
            Self::ColdProgramming | Self::Change => "ms",
            Self::DaemonMemory | Self::KernelMemory => "MiB",
            Self::CpuLeft => "%",
        }
    }

    /// Whether more is better.
    pub const fn more_is_better(self) -> bool {
        match self {
            Self::ShortConnections
            | Self::Requests
            | Self::Packets
            | Self::Throughput
            | Self::CpuLeft => true,
            Self::ConnectLatency
            | Self::FirstDatagramLatency
            | Self::ConnectionCpu
            | Self::PacketCost
            | Self::ColdProgramming
            | Self::Change
            | Self::DaemonMemory
            | Self::KernelMemory => false,
        }
    }
}
