//! What to measure: presets, routes, sizes, and the tasks of one round.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::results::{Position, Route};

/// Every number of services that is compared.
pub const SIZES: [u32; 9] = [1, 10, 100, 1_000, 5_000, 10_000, 30_000, 50_000, 100_000];

/// Endpoints of each service.
const ENDPOINTS: u32 = 5;

/// Every route, in the order in which they take turns.
pub const ROUTES: [Route; 11] = [
    Route::Direct,
    Route::Iptables,
    Route::Ipvs,
    Route::Nftables,
    Route::EbpfSocket,
    Route::EbpfTc,
    Route::EbpfXdp,
    Route::KubeProxyIptables,
    Route::KubeProxyIpvs,
    Route::KubeProxyNftables,
    Route::DirectAgain,
];

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// Seconds: what the tests of this program need.
    Smoke,
    /// At most 3 minutes: whether everything works, and the order of magnitude.
    Quick,
    /// At most 30 minutes.
    Standard,
    /// All sizes, more rounds.
    Full,
}

/// What a run is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How thorough.
    pub preset: Preset,
    /// Sizes instead of the preset's.
    pub services: Option<Vec<u32>>,
    /// Endpoints of each service instead of the preset's.
    pub endpoints: Option<u32>,
    /// Routes; `None` is all of them.
    pub routes: Option<Vec<Route>>,
    /// Where `results.json` goes.
    pub out: PathBuf,
    /// Seconds that one mode may take to be programmed with one size, instead of the preset's.
    pub patience: Option<Duration>,
    /// The program that is started as a worker; it has to call [`super::worker`] when told to.
    pub program: PathBuf,
    /// `kube-proxy`, where it is not on `PATH`.
    pub kube_proxy: Option<PathBuf>,
}

/// Who is told how the run goes.
pub trait Observer {
    /// So many steps are ahead.
    fn begin(&mut self, steps: usize);
    /// The next step begins.
    fn step(&mut self, what: &str);
    /// Something that people have to know.
    fn say(&mut self, line: &str);
}

/// The figures behind a preset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Numbers of services, ascending.
    pub services: Vec<u32>,
    /// Endpoints of each.
    pub endpoints: u32,
    /// Which modes, in the order of their turns.
    pub routes: Vec<Route>,
    /// Repetitions of everything but cold programming.
    pub rounds: u32,
    /// Repetitions of cold programming.
    pub cold_rounds: u32,
    /// Connections of one round.
    pub connections: u32,
    /// Changes of one round.
    pub changes: u32,
    /// Length of one round of a rate.
    pub round_ms: u64,
    /// How long one mode may take to be programmed with one size.
    pub patience: Duration,
}

impl Preset {
    /// As flags and results write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Smoke => "smoke",
            Self::Quick => "quick",
            Self::Standard => "standard",
            Self::Full => "full",
        }
    }
}

impl Plan {
    /// What a run with these options does.
    pub fn new(options: &Options) -> Self {
        let preset = match options.preset {
            Preset::Smoke => Self::of(&[1, 10], (1, 1), (20, 2, 40), 20),
            Preset::Quick => Self::of(&[1, 100, 1_000], (2, 1), (300, 20, 150), 20),
            Preset::Standard => {
                let sizes = [1, 100, 1_000, 10_000, 30_000, 50_000];
                Self::of(&sizes, (3, 3), (2_000, 50, 400), 90)
            }
            Preset::Full => Self::of(&SIZES, (9, 5), (5_000, 100, 1_000), 600),
        };
        let mut services = options.services.clone().unwrap_or(preset.services);
        services.sort_unstable();
        services.dedup();
        let wanted =
            |route: &Route| options.routes.as_ref().is_none_or(|list| list.contains(route));
        Self {
            services,
            endpoints: options.endpoints.unwrap_or(preset.endpoints),
            routes: ROUTES.into_iter().filter(wanted).collect(),
            patience: options.patience.unwrap_or(preset.patience),
            ..preset
        }
    }

    /// Rounds of everything and of cold programming; connections, changes and milliseconds of one
    /// round; seconds of patience.
    fn of(
        services: &[u32],
        (rounds, cold_rounds): (u32, u32),
        (connections, changes, round_ms): (u32, u32, u64),
        patience_s: u64,
    ) -> Self {
        Self {
            services: services.to_vec(),
            endpoints: ENDPOINTS,
            routes: Vec::new(),
            rounds,
            cold_rounds,
            connections,
            changes,
            round_ms,
            patience: Duration::from_secs(patience_s),
        }
    }

    /// What each route does in each round.
    pub fn tasks(&self, services: u32) -> Vec<Task> {
        let positions: &[Position] = match services {
            1 => &[Position::First],
            _ => &[Position::First, Position::Middle, Position::Last, Position::Random],
        };
        let samples = self.connections;
        let mut tasks: Vec<Task> = positions
            .iter()
            .map(|&position| Task::Connect { position, ipv6: false, samples })
            .collect();
        tasks.push(Task::Connect { position: Position::Last, ipv6: true, samples });
        tasks.push(Task::Datagram { samples });
        let ms = self.round_ms;
        tasks.push(Task::Short { ms });
        tasks.push(Task::Requests { ms });
        tasks.push(Task::Throughput { ms });
        tasks.push(Task::CpuLeft { ms: 2 * ms });
        tasks.push(Task::Packets { ipv6: false, ms });
        tasks.push(Task::Packets { ipv6: true, ms });
        tasks.push(Task::Change { samples: self.changes });
        tasks
    }
}

/// What a worker is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Program all services.
    Prepare,
    /// Connect again and again.
    Connect {
        /// To which service.
        position: Position,
        /// In which family.
        ipv6: bool,
        /// How often.
        samples: u32,
    },
    /// Exchange one datagram from ever new ports.
    Datagram {
        /// How often.
        samples: u32,
    },
    /// Connect, request, response, close, as often as possible.
    Short {
        /// For so long.
        ms: u64,
    },
    /// Requests on connections that stay.
    Requests {
        /// For so long.
        ms: u64,
    },
    /// Bytes on connections that stay.
    Throughput {
        /// For so long.
        ms: u64,
    },
    /// Short connections at a fixed rate, and what they leave of the machine.
    CpuLeft {
        /// For so long.
        ms: u64,
    },
    /// Datagrams through a node port, from the kernel's own generator.
    Packets {
        /// In which family.
        ipv6: bool,
        /// For so long.
        ms: u64,
    },
    /// Move a service from one host to the other and wait until connections follow.
    Change {
        /// How often.
        samples: u32,
    },
}

impl Route {
    /// As flags and tables write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DirectAgain => "direct-again",
            Self::Iptables => "iptables",
            Self::Ipvs => "ipvs",
            Self::Nftables => "nftables",
            Self::EbpfSocket => "ebpf-socket",
            Self::EbpfTc => "ebpf-tc",
            Self::EbpfXdp => "ebpf-xdp",
            Self::KubeProxyIptables => "kube-proxy-iptables",
            Self::KubeProxyIpvs => "kube-proxy-ipvs",
            Self::KubeProxyNftables => "kube-proxy-nftables",
            Self::Target => "target",
        }
    }

    /// The route of this name.
    pub fn parse(name: &str) -> Option<Self> {
        ROUTES.into_iter().find(|route| route.name() == name)
    }

    /// Whether packets take it without any service.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::DirectAgain)
    }
}
