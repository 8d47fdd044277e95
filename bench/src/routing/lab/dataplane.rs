//! The dataplane of the lab's node: the real backend of a route, driven by objects.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use dataplane_common::{Hook, Reason};
use dataplane_user::{
    backend::{Backend, Mode, Needs},
    conntrack::Table,
    daemon::{
        Settings, modes,
        node::backend_node,
        programs::Programs,
        settings::{self, Source},
    },
    devices::{Devices, watch::Watch},
    ebpf::{
        attach::{Tc, Xdp},
        pin::Pins,
    },
    model::{Family, NodeIdentity, ObjectEvent, ServiceTable},
    probe::{self, choose::lacks},
    view::status::live_counters,
};
use tokio::{runtime::Runtime, sync::watch};

use super::{BPFFS, NODE_IP, NODE_IP6, objects};
use crate::routing::results::Route;

/// Where the last fill spent its time is not told apart: only the whole counts.
#[derive(Clone, Copy, Debug)]
pub struct Filled {
    /// From the first object to the last entry in the kernel.
    pub elapsed: Duration,
    /// What the kernel's memory grew by, in MiB.
    pub kernel_mib: f64,
}

/// What serves the node, once it was filled.
pub struct Dataplane {
    route: Route,
    table: ServiceTable,
    backend: Option<Box<dyn Backend>>,
    programs: Option<Programs>,
    pins: Option<Pins>,
    needs: watch::Sender<Needs>,
    runtime: Runtime,
    watch: Watch,
    settings: Settings,
    begun: Instant,
}

/// The backend behind a route of our own.
pub fn mode(route: Route) -> Option<Mode> {
    match route {
        Route::Iptables => Some(Mode::Iptables),
        Route::Ipvs => Some(Mode::Ipvs),
        Route::Nftables => Some(Mode::Nftables),
        Route::EbpfSocket | Route::EbpfTc | Route::EbpfXdp => Some(Mode::Ebpf),
        Route::Direct
        | Route::DirectAgain
        | Route::KubeProxyIptables
        | Route::KubeProxyIpvs
        | Route::KubeProxyNftables
        | Route::Target => None,
    }
}

/// What this machine lacks for a route, in words.
pub fn lacking(routes: &[Route]) -> Vec<(Route, String)> {
    let probes = probe::run();
    let lacking = |&route: &Route| {
        let lacks = lacks(&probes, mode(route)?);
        (!lacks.is_empty()).then(|| (route, format!("this kernel lacks {}", lacks.join(", "))))
    };
    routes.iter().filter_map(lacking).collect()
}

impl Dataplane {
    /// Nothing in the kernel yet. `cgroup` is where clients are whose sockets are translated.
    pub fn new(route: Route, cgroup: Option<PathBuf>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start the runtime")?;
        let nowhere = Source::Manifests(PathBuf::new());
        let mut settings = Settings::new(objects::NODE.to_owned(), nowhere);
        let addresses = vec![NODE_IP.into(), NODE_IP6.into()];
        settings.selection = settings::selection("hp*", "eth0,eth1", addresses);
        settings.bpffs = BPFFS.into();
        "bench".clone_into(&mut settings.instance);
        settings.sockets = cgroup.is_some();
        settings.cgroup = cgroup;
        settings.tc = Tc::On;
        settings.xdp = if route == Route::EbpfXdp { Xdp::Driver } else { Xdp::Off };
        let watch = runtime.block_on(Watch::start(settings.selection.clone()))?;
        let table = ServiceTable::new(NodeIdentity::new(objects::NODE, []));
        let needs = watch::Sender::new(Needs::default());
        Ok(Self {
            route,
            table,
            backend: None,
            programs: None,
            pins: None,
            needs,
            runtime,
            watch,
            settings,
            begun: Instant::now(),
        })
    }

    /// Programs everything. Programs are loaded before the clock starts, as a daemon that has
    /// started has loaded them, and attached after it has stopped.
    pub fn fill(
        &mut self,
        events: impl IntoIterator<Item = ObjectEvent>,
    ) -> anyhow::Result<Filled> {
        let Some(mode) = mode(self.route) else { bail!("{} has no backend", self.route.name()) };
        let before = kernel_mib()?;
        let devices = self.watch.devices().borrow().clone();
        let _entered = self.runtime.enter();
        let mut backend = match modes::rules(mode, &self.settings) {
            Some(rules) => rules,
            None => self.load()?,
        };
        self.table.set_addresses(devices.node_addresses.clone());
        backend.observe().map_err(|error| anyhow!(error))?;
        backend.set_node(&backend_node(&devices, true));
        let begun = Instant::now();
        for event in events {
            let problems = self.table.apply(event);
            ensure!(problems.is_empty(), "an object of the lab is refused: {problems:?}");
        }
        // The first compilation covers everything.
        drop(self.table.take_changed());
        backend.compile(&self.table);
        self.tell_needs(&*backend);
        backend.apply(0).map_err(|error| anyhow!(error))?;
        let elapsed = begun.elapsed();
        ensure!(backend.left_out().is_empty(), "not every service fits: {:?}", backend.left_out());
        self.backend = Some(backend);
        self.attach(&devices)?;
        Ok(Filled { elapsed, kernel_mib: kernel_mib()? - before })
    }

    fn load(&mut self) -> anyhow::Result<Box<dyn Backend>> {
        let programs =
            Programs::start(&self.settings, self.watch.devices(), self.needs.subscribe())?;
        let backend = Box::new(programs.backend()?);
        self.pins = Some(Pins::new(&self.settings.bpffs, &self.settings.instance)?);
        self.programs = Some(programs);
        Ok(backend)
    }

    fn tell_needs(&mut self, backend: &dyn Backend) {
        let needs = backend.needs();
        if let Some(programs) = &mut self.programs {
            self.needs.send_replace(needs.clone());
            self.runtime.block_on(programs.told(&needs));
        }
    }

    fn attach(&mut self, devices: &Devices) -> anyhow::Result<()> {
        let Some(programs) = &mut self.programs else { return Ok(()) };
        let attached = self.runtime.block_on(async { programs.attach(devices) })?;
        for attachment in attached {
            if let Some(error) = &attachment.error {
                bail!("a program is not attached: {error}");
            }
        }
        Ok(())
    }

    /// From events to the kernel, as the daemon does a round.
    pub fn change(&mut self, events: Vec<ObjectEvent>) -> anyhow::Result<()> {
        let backend = self.backend.as_mut().context("nothing was programmed")?;
        for event in events {
            self.table.apply(event);
        }
        let now_ms = u64::try_from(self.begun.elapsed().as_millis())?;
        backend.reclaim(now_ms);
        for key in self.table.take_changed() {
            backend.change(&key, self.table.port(&key).as_ref());
        }
        backend.apply(now_ms).map_err(|error| anyhow!(error))?;
        drop(backend.take_departed());
        Ok(())
    }

    /// What the kernel has counted so far of packets that took this route.
    pub fn seen(&self) -> anyhow::Result<Seen> {
        let mut seen = Seen::default();
        // A new connection from a port that was used a moment ago meets its flow.
        let translated = [Reason::New, Reason::Established, Reason::Reselected, Reason::Stateless]
            .map(Reason::name);
        if let Some(pins) = &self.pins {
            for row in live_counters(pins)? {
                if !translated.contains(&row.reason) {
                    continue;
                }
                let hook = |hook: Hook| row.hook == hook.name();
                if hook(Hook::Connect) || hook(Hook::Sendmsg) {
                    seen.sockets += row.count;
                } else if hook(Hook::PodIngress) {
                    seen.pod += row.count;
                } else if hook(Hook::NicXdp) {
                    seen.xdp += row.count;
                } else if hook(Hook::NicIngress) {
                    seen.nic += row.count;
                }
            }
        }
        if let Ok(text) = fs::read_to_string("/proc/thread-self/net/ip_vs_stats") {
            let words = text.lines().nth(2).unwrap_or_default().split_whitespace();
            seen.ipvs = words.take(1).filter_map(|word| u64::from_str_radix(word, 16).ok()).sum();
        }
        Ok(seen)
    }

    /// How many tracked connections to `frontend` lead to another address, and how many there are.
    pub fn tracked(&self, frontend: SocketAddr) -> anyhow::Result<(usize, usize)> {
        let family = if frontend.is_ipv4() { Family::V4 } else { Family::V6 };
        let entries = Table::open()?.entries(family)?;
        let ours = |entry: &&dataplane_user::conntrack::Entry| {
            entry.original.destination == frontend && entry.endpoint().is_some()
        };
        Ok((entries.iter().filter(ours).count(), entries.len()))
    }

    /// The route.
    pub const fn route(&self) -> Route {
        self.route
    }
}

/// Counts of packets by the path they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Calls of `connect` and `sendmsg` translated by socket hooks.
    pub sockets: u64,
    /// Packets that TC translated on the pod's link.
    pub pod: u64,
    /// Packets that XDP translated.
    pub xdp: u64,
    /// Packets that TC translated on a NIC.
    pub nic: u64,
    /// Connections of IPVS.
    pub ipvs: u64,
}

impl std::fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dataplane").field("route", &self.route).finish_non_exhaustive()
    }
}

/// What the kernel has allocated in pieces, in pages it maps, and per processor.
fn kernel_mib() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok())
    };
    let sum: Option<f64> = ["SUnreclaim", "VmallocUsed", "Percpu"].into_iter().map(kib).sum();
    Ok(sum.context("/proc/meminfo does not tell the kernel's memory")? / 1024.0)
}

/// Resident memory of this process, in MiB.
pub fn resident_mib() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kib.context("/proc/self/status does not tell the resident memory")? / 1024.0)
}
