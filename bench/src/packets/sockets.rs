//! The socket hooks, which the kernel cannot test-run: its own statistics over real connects.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr},
    sys::{Stats, enable_stats},
};
use dataplane_common::{Config, Endpoint, EndpointId, FrontendKey, Live, Slots, TCP, names};
use dataplane_ebpf::host::HostTables;
use dataplane_user::ebpf::{maps::MapWriter as _, object::object};

use crate::{
    report::{Row, summarise},
    rig::maps_of,
};

/// Samples per hook.
const SAMPLES: usize = 40;
/// Connects per sample.
const CONNECTS: u64 = 100;

/// Measures `connect4` and `connect6`, in nanoseconds per call.
///
/// The kernel's statistics read the clock twice around each run; that is in the rows.
pub(super) fn run() -> anyhow::Result<Vec<Row>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let listener6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).context("cannot listen")?;
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &0u8, false)
        .load(object()?)
        .context("cannot load the eBPF object")?;
    for name in ["connect4", "connect6"] {
        hook(&mut ebpf, name)?.load()?;
    }
    install(&mut ebpf, listener.local_addr()?.port(), listener6.local_addr()?.port())?;
    let cgroup = Cgroup::enter()?;
    let _stats = enable_stats(Stats::RunTime).context("cannot switch on BPF statistics")?;
    let mut rows = Vec::new();
    for (name, to, listener) in [
        ("connect4", SocketAddr::from((Ipv4Addr::new(10, 96, 0, 1), 80)), listener),
        ("connect6", SocketAddr::from((vip6(), 80)), listener6),
    ] {
        let program = hook(&mut ebpf, name)?;
        let directory = fs::File::open(&cgroup.path).context("cannot open the cgroup")?;
        program.attach(directory, CgroupAttachMode::Single)?;
        rows.push(summarise(name, "ns", sample(program, to, &listener)?));
    }
    Ok(rows)
}

fn hook<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut CgroupSockAddr> {
    Ok(ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn sample(
    program: &CgroupSockAddr,
    to: SocketAddr,
    listener: &TcpListener,
) -> anyhow::Result<Vec<f64>> {
    let mut samples = Vec::new();
    for _ in 0..SAMPLES {
        let before = program.info()?;
        for _ in 0..CONNECTS {
            let stream =
                TcpStream::connect(to).with_context(|| format!("cannot connect to {to}"))?;
            drop((stream, listener.accept()?));
        }
        let after = program.info()?;
        let runs = after.run_count() - before.run_count();
        ensure!(runs == CONNECTS, "{runs} runs for {CONNECTS} connects");
        let time = after.run_time().saturating_sub(before.run_time());
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a hundred calls")]
        samples.push(time.as_nanos() as f64 / CONNECTS as f64);
    }
    Ok(samples)
}

fn vip6() -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0, 0, 96, 0, 0, 0, 1)
}

/// One service per family that leads to a listener on this host.
fn install(ebpf: &mut Ebpf, port: u16, port6: u16) -> anyhow::Result<()> {
    let mut maps = maps_of(ebpf)?;
    let config = Config { source_port_min: 1024, source_port_count: 1, ..Config::default() };
    maps.update(names::CONFIG, &[0u32], &[config])?;
    let mut gate = HostTables::default();
    let vip4 = [10, 96, 0, 1];
    gate.open_gate(&vip4);
    gate.open_gate(&vip6().octets());
    let (words, bits): (Vec<u32>, Vec<u64>) = gate.gate.iter().unzip();
    maps.update(names::GATE, &words, &bits)?;
    let id = EndpointId::new(1, 0);
    maps.update(names::LIVE, &[1u32], &[Live { id: id.to_bits(), views: Live::CLUSTER }])?;
    let frontend = dataplane_common::Frontend {
        inside: Slots { base: 0, count: 1 },
        service: 1,
        ..Default::default()
    };
    let endpoint = Endpoint::new([127, 0, 0, 1], port, 0, id);
    maps.update(names::ENDPOINTS4, &[0u32], &[endpoint])?;
    maps.update(names::FRONTENDS4, &[FrontendKey::new(vip4, 80, TCP)], &[frontend])?;
    let endpoint = Endpoint::new(Ipv6Addr::LOCALHOST.octets(), port6, 0, id);
    maps.update(names::ENDPOINTS6, &[0u32], &[endpoint])?;
    let key = FrontendKey::new(vip6().octets(), 80, TCP);
    Ok(maps.update(names::FRONTENDS6, &[key], &[frontend])?)
}

/// A cgroup of this process's own; the process goes back when it is dropped.
struct Cgroup {
    path: PathBuf,
    home: PathBuf,
}

impl Cgroup {
    fn enter() -> anyhow::Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
        let root = mounts
            .lines()
            .find_map(|line| {
                let mut words = line.split(' ');
                let (_, path, kind) = (words.next()?, words.next()?, words.next()?);
                (kind == "cgroup2").then_some(path)
            })
            .context("no cgroup2 is mounted")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read our cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
        let path = Path::new(root).join(format!("hashplane-bench-{}", std::process::id()));
        let home = Path::new(root).join(own);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let cgroup = Self { path, home };
        fs::write(cgroup.path.join("cgroup.procs"), "0").context("cannot enter our cgroup")?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the empty cgroup is all that would stay.
        let _ = fs::write(self.home.join("cgroup.procs"), "0");
        let _ = fs::remove_dir(&self.path);
    }
}
