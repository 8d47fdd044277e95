//! The real programs and maps in the kernel, in a network namespace with one NIC, run packet by packet.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "aya has many kinds of programs and maps; we use four"
)]

use std::{
    collections::BTreeMap,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aya::{
    Ebpf, EbpfLoader, TestRun as _, TestRunOptions,
    maps::{Map, MapData, PerCpuArray},
    programs::{Program, Xdp, XdpMode},
};
use dataplane_common::{Affinity, AffinityKey, Flow, FlowKey, Hook, Link, Live, flow::tick, names};
use dataplane_ebpf::{
    host::{Family, HostTables},
    tables::Route,
};
use dataplane_user::ebpf::{
    kernel::Plain,
    maps::{KernelMaps, MapWriter as _},
    object::object,
};
use nix::sched::{CloneFlags, unshare};

/// Packets in a row from which on the call around them does not count.
const MANY: u32 = 10_000;
/// Room for the longest frame that comes back.
const FRAME_MAX: usize = 4096;
/// MAC address of the only neighbour.
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
/// MAC address of the NIC.
const NIC_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xaa];
/// The NIC, its peer, and a default route to a neighbour that is always known.
const SETUP: &[&str] = &[
    "link set lo up",
    "link add nic address 02:00:00:00:00:aa type veth peer name far",
    "link set nic up",
    "link set far up",
    "address add 192.0.2.1/24 dev nic",
    "-6 address add 2001:db8:ffff::1/64 dev nic nodad",
    "neighbour replace 192.0.2.2 lladdr 02:00:00:00:00:fe dev nic nud permanent",
    "-6 neighbour replace 2001:db8:ffff::2 lladdr 02:00:00:00:00:fe dev nic nud permanent",
    "route add default via 192.0.2.2",
    "-6 route add default via 2001:db8:ffff::2",
];
const SYSCTLS: &[&str] =
    &["/proc/sys/net/ipv4/conf/all/forwarding", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// Programs, maps and a network namespace of this thread's own. It ends with the thread.
#[expect(missing_debug_implementations, reason = "aya's per-CPU array has none")]
pub struct Rig {
    ebpf: Ebpf,
    /// The maps, but for the counters.
    pub maps: KernelMaps,
    pub(crate) counters: PerCpuArray<MapData, u64>,
    /// Index of the NIC.
    pub nic: u32,
}

/// What a program did to a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What it returned.
    pub action: u32,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

impl Rig {
    /// Moves this thread into a network namespace of its own and loads all packet programs.
    ///
    /// Needs root and BPF.
    pub fn new(flows: u32) -> anyhow::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
        for arguments in SETUP {
            let output = Command::new("ip").args(arguments.split(' ')).output();
            let output = output.context("cannot start ip (package iproute2)")?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.success(), "ip {arguments}: {said}");
        }
        for sysctl in SYSCTLS {
            std::fs::write(sysctl, "1").with_context(|| format!("cannot write {sysctl}"))?;
        }
        let nic = nix::net::if_::if_nametoindex("nic").context("the NIC is gone")?;
        let mut loader = EbpfLoader::new();
        loader.map_max_entries(names::FLOWS4, flows).map_max_entries(names::FLOWS6, flows);
        loader.override_global("AYA_LOG_LEVEL", &0u8, false);
        // Packets come here faster than refusals may leave.
        loader.override_global("ANSWERS_UNLIMITED", &1u8, true);
        let mut ebpf = loader.load(object()?).context("cannot load the eBPF object")?;
        load_packet_programs(&mut ebpf)?;
        let counters = ebpf.take_map(names::COUNTERS).context("the object has no counters")?;
        let counters = PerCpuArray::try_from(counters).context("counters of an unexpected kind")?;
        let maps = maps_of(&mut ebpf)?;
        Ok(Self { ebpf, maps, counters, nic })
    }

    /// Where every packet leaves.
    pub fn link(&self) -> Link {
        Link { ifindex: self.nic, dst_mac: GATEWAY_MAC, src_mac: NIC_MAC }
    }

    /// Makes the maps say what `tables` say. Entries that only the maps have stay, but for flows and
    /// affinity.
    pub fn install(&mut self, tables: &HostTables) -> anyhow::Result<()> {
        let config = tables.config.unwrap_or_default();
        self.maps.update(names::CONFIG, &[0u32], &[config])?;
        let (words, bits): (Vec<u32>, Vec<u64>) = tables.gate.iter().unzip();
        self.maps.update(names::GATE, &words, &bits)?;
        let (indexes, ids): (Vec<u32>, Vec<Live>) = tables.live.iter().unzip();
        self.maps.update(names::LIVE, &indexes, &ids)?;
        let (keys, values): (Vec<_>, Vec<_>) = tables.affinity.iter().unzip();
        self.replace::<AffinityKey, Affinity>(names::AFFINITY, keys, values)?;
        self.install_sources(names::SOURCES4, &tables.v4)?;
        self.install_sources(names::SOURCES6, &tables.v6)?;
        self.install_family(&tables.v4, &names::MAPS4)?;
        self.install_family(&tables.v6, &names::MAPS6)
    }

    fn install_sources<const N: usize>(
        &mut self,
        map: &'static str,
        family: &Family<N>,
    ) -> anyhow::Result<()> {
        let keys: Vec<_> = family.sources.iter().copied().collect();
        Ok(self.maps.update(map, &keys, &vec![1u32; keys.len()])?)
    }

    fn install_family<const N: usize>(
        &mut self,
        family: &Family<N>,
        [frontends, endpoints, addresses, flows]: &[&'static str; 4],
    ) -> anyhow::Result<()> {
        let (keys, values): (Vec<_>, Vec<_>) = family.endpoints.iter().unzip();
        self.put(endpoints, keys, values)?;
        let (keys, values): (Vec<_>, Vec<_>) = family.frontends.iter().unzip();
        self.put(frontends, keys, values)?;
        let addresses_now: Vec<[u8; N]> = family.node_addresses.iter().copied().collect();
        self.maps.update(addresses, &addresses_now, &vec![1u32; addresses_now.len()])?;
        let (keys, values): (Vec<_>, Vec<_>) = family.flows.iter().unzip();
        self.replace::<FlowKey<N>, Flow<N>>(flows, keys, values)
    }

    /// Makes these the map's only entries.
    fn replace<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: Vec<&K>,
        values: Vec<&V>,
    ) -> anyhow::Result<()> {
        let old: Vec<K> = self.maps.entries::<K, V>(map)?.into_iter().map(|(key, _)| key).collect();
        self.maps.delete(map, &old)?;
        self.put(map, keys, values)
    }

    fn put<K: Plain, V: Plain>(
        &mut self,
        map: &'static str,
        keys: Vec<&K>,
        values: Vec<&V>,
    ) -> anyhow::Result<()> {
        let keys: Vec<K> = keys.into_iter().copied().collect();
        let values: Vec<V> = values.into_iter().copied().collect();
        Ok(self.maps.update(map, &keys, &values)?)
    }

    /// One packet through the program of a hook.
    pub fn run(&self, hook: Hook, frame: &[u8]) -> anyhow::Result<Outcome> {
        let mut out = vec![0; FRAME_MAX];
        let (action, len, _) = self.test_run(hook.name(), frame, Some(&mut out), 1)?;
        out.truncate(len);
        Ok(Outcome { action, frame: out })
    }

    /// Mean time of `repeat` runs of a program in a row, in ns. The frame is not restored in between.
    ///
    /// The kernel gives whole ns, which is 2 % of a packet: for many packets on TC our own clock
    /// around the call is finer, although it counts the call (some µs) too. A call for XDP waits
    /// for the kernel to change its dispatcher, so there the kernel's clock stays.
    pub fn time(&self, program: &str, frame: &[u8], repeat: u32) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let (.., mean) = self.test_run(program, frame, None, repeat)?;
        let call = begun.elapsed().as_secs_f64() * 1e9;
        let is_tc = matches!(self.ebpf.program(program), Some(Program::SchedClassifier(_)));
        let whole = mean.as_secs_f64() * 1e9;
        Ok(if is_tc && repeat >= MANY { call / f64::from(repeat) } else { whole })
    }

    fn test_run(
        &self,
        name: &str,
        frame: &[u8],
        out: Option<&mut [u8]>,
        repeat: u32,
    ) -> anyhow::Result<(u32, usize, Duration)> {
        let mut options = TestRunOptions::new();
        options.data_in = Some(frame);
        options.data_out = out;
        options.repeat = repeat;
        let program = self.ebpf.program(name).with_context(|| format!("no program {name}"))?;
        let context = self.xdp_context(frame.len())?;
        let result = match program {
            Program::Xdp(program) => {
                options.ctx_in = Some(&context);
                program.test_run(options)
            }
            Program::SchedClassifier(program) => program.test_run(options),
            other => bail!("{name} takes no packets: {other:?}"),
        };
        let result = result.with_context(|| format!("cannot run {name}"))?;
        Ok((result.return_value, result.data_size_out as usize, result.duration))
    }

    /// `struct xdp_md`: the packet came in by the NIC.
    fn xdp_context(&self, len: usize) -> anyhow::Result<Vec<u8>> {
        let words = [0, u32::try_from(len)?, 0, self.nic, 0, 0];
        Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
    }

    /// What every route lookup says here.
    pub fn route(&self) -> Route {
        Route::Link(self.link())
    }
}

/// The maps of the object, new and empty in the kernel; no program is loaded. Needs root and BPF.
pub fn empty_maps(flows: u32) -> anyhow::Result<KernelMaps> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(names::FLOWS4, flows).map_max_entries(names::FLOWS6, flows);
    let mut ebpf = loader.load(object()?).context("cannot load the eBPF object")?;
    maps_of(&mut ebpf)
}

/// Instructions that the verifier walked for every program of the object, by name.
///
/// Needs root and BPF. Nothing is attached.
pub fn verified_instructions(log_level: u8) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut ebpf = EbpfLoader::new()
        .override_global("AYA_LOG_LEVEL", &log_level, false)
        .load(object()?)
        .context("cannot load the eBPF object")?;
    let mut counts = BTreeMap::new();
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            other => bail!("unexpected kind of program {name}: {other:?}"),
        };
        loaded.with_context(|| format!("the kernel refuses {name}"))?;
        let count = program.info()?.verified_instruction_count();
        counts.insert(name.to_owned(), count.context("this kernel does not tell")?);
    }
    Ok(counts)
}

fn load_packet_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    for (name, program) in ebpf.programs_mut() {
        let loaded = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            _ => Ok(()),
        };
        loaded.with_context(|| format!("the kernel refuses {name}"))?;
    }
    let program: &mut Xdp =
        ebpf.program_mut(names::NIC_XDP).context("no XDP program")?.try_into()?;
    // The kernel runs XDP tests only on queues of a device that has XDP.
    program.attach("nic", XdpMode::Driver).context("cannot attach XDP to the NIC")?;
    Ok(())
}

/// The maps of a loaded object, but for the counters, which are per CPU.
pub(crate) fn maps_of(ebpf: &mut Ebpf) -> anyhow::Result<KernelMaps> {
    let mut maps = KernelMaps::default();
    for name in names::MAPS.into_iter().filter(|name| *name != names::COUNTERS) {
        let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
        maps.insert(name, data(map)?)?;
    }
    Ok(maps)
}

/// The current tick of flow entries.
pub fn monotonic_tick() -> anyhow::Result<u32> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC_COARSE)?;
    let (seconds, ns) = (u64::try_from(now.tv_sec())?, u64::try_from(now.tv_nsec())?);
    Ok(tick(seconds * 1_000_000_000 + ns))
}

fn data(map: Map) -> anyhow::Result<MapData> {
    Ok(match map {
        Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) => data,
        other => bail!("unexpected kind of map: {other:?}"),
    })
}
