//! Loads the programs, creates or adopts the pinned maps.

use std::{collections::BTreeSet, io, path::PathBuf, time::Duration};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{MapError, MapInfo},
    programs::{CgroupSockAddr, ProgramError, SchedClassifier, Xdp},
    util::KernelVersion,
};
use aya_log::EbpfLogger;
use dataplane_common::{
    Affinity, AffinityKey, Config, Endpoint, EndpointId, Flow, FlowKey, Frontend, FrontendKey,
    Live, Peer, PeerKey, SourceKey, V4, V6, gate, names, reason,
};

use super::{
    object::{NoObject, object},
    pin::{self, Pins},
    records::Records,
};

/// The programs' own variable, and its value that lets debug records pass.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
const LOG_DEBUG: u8 = aya_log::Level::Debug as u8;
/// Entries of maps that are made for the verifier's sake.
const VERIFY_ENTRIES_MAX: u32 = 1 << 10;
/// Between two looks at the programs' log records; they are for debugging only.
const LOG_PAUSE: Duration = Duration::from_millis(50);

/// How many entries the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Frontends per family.
    pub frontends: u32,
    /// Slots for endpoints per family.
    pub endpoints: u32,
    /// Entries for flows per family; a flow takes two.
    pub flows: u32,
    /// Translations of sockets.
    pub peers: u32,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            frontends: names::FRONTENDS_MAX,
            endpoints: names::ENDPOINTS_MAX,
            flows: names::FLOWS_MAX,
            peers: names::PEERS_MAX,
        }
    }
}

/// Which programs are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The socket hooks.
    pub sockets: bool,
    /// The TC programs.
    pub tc: bool,
    /// The XDP program.
    pub xdp: bool,
}

/// What of the kernel the programs may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `bpf_set_retval` in socket hooks (Linux 5.18).
    pub set_retval: bool,
}

/// Why the programs are not in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Built without the BPF tools.
    #[error(transparent)]
    NoObject(#[from] NoObject),
    /// Not root.
    #[error("hashplane has to run as root (or with CAP_BPF, CAP_NET_ADMIN and CAP_SYS_ADMIN)")]
    NotRoot,
    /// The kernel was built without BPF, or a sandbox forbids it.
    #[error("this kernel offers no BPF")]
    NoBpf(#[source] io::Error),
    /// The pins.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// An adopted map does not fit.
    #[error(
        "map {name} at {} has {what} {found}, but {wanted} is asked for; run `hashplane cleanup` \
         to start with new maps",
        path.display()
    )]
    Unfit {
        /// The map.
        name: &'static str,
        /// Where it is pinned.
        path: PathBuf,
        /// What of it is different.
        what: &'static str,
        /// As it is.
        found: u32,
        /// As it should be.
        wanted: u32,
    },
    /// A pinned map cannot be read.
    #[error("cannot read the pinned map {name}")]
    Map {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<MapError>,
    },
    /// The object or its maps.
    #[error("cannot load the eBPF object")]
    Object(#[source] Box<EbpfError>),
    /// A program that the object does not hold, or holds with another type.
    #[error("the eBPF object has no program {name} of the right type")]
    NoProgram {
        /// The program.
        name: &'static str,
    },
    /// A program that the kernel refuses.
    #[error("the kernel refuses program {name}")]
    Program {
        /// The program.
        name: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The loaded programs. Dropping them leaves everything that is pinned.
#[derive(Debug)]
pub struct Programs {
    pub(super) ebpf: Ebpf,
    /// Programs that this kernel does not take and that others stand in for.
    pub(super) missing: BTreeSet<&'static str>,
    /// What the kernel offers.
    pub features: Features,
}

/// Whether this process can program the kernel at all.
pub fn check_environment() -> Result<(), Error> {
    object()?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    match aya::sys::is_map_supported(aya::maps::MapType::Array) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::NoBpf(io::ErrorKind::Unsupported.into())),
        Err(error) => Err(Error::NoBpf(error.io_error)),
    }
}

/// Loads the wanted programs; maps that are pinned already are adopted with what is in them.
pub fn load(pins: &Pins, sizes: &MapSizes, wanted: Wanted) -> Result<Programs, Error> {
    check_environment()?;
    if pins.create()? {
        tracing::info!(path = %pins.root().display(), "mounted the BPF file system");
    }
    let adopted = check_pinned(pins, sizes)?;
    tracing::info!(adopted, path = %pins.maps().display(), "maps");
    // Below the level of a record the verifier removes the code that would send it.
    let level = u8::from(tracing::enabled!(tracing::Level::DEBUG)) * LOG_DEBUG;
    let mut loader = EbpfLoader::new();
    loader.override_global(LOG_LEVEL, &level, false);
    for layout in layouts(sizes) {
        loader.map_pin_path(layout.name, pins.map(layout.name));
        loader.map_max_entries(layout.name, layout.entries);
    }
    let mut ebpf = loader.load(object()?).map_err(|error| Error::Object(Box::new(error)))?;
    let missing = load_programs(&mut ebpf, wanted)?;
    Ok(Programs { ebpf, missing, features: features() })
}

/// Loads every program that nothing stands in for, into maps that hold little; all of it ends here.
pub fn verify() -> Result<(), Error> {
    let mut loader = EbpfLoader::new();
    for layout in layouts(&MapSizes::default()) {
        loader.map_max_entries(layout.name, layout.entries.min(VERIFY_ENTRIES_MAX));
    }
    let mut ebpf = loader.load(object()?).map_err(|error| Error::Object(Box::new(error)))?;
    for name in [names::POD_INGRESS, names::POD_EGRESS, names::NIC_INGRESS, names::NIC_EGRESS] {
        let program: &mut SchedClassifier = program(&mut ebpf, name)?;
        program.load().map_err(|error| refused(name, error))?;
    }
    for name in names::SOCKETS.into_iter().filter(|name| !name.starts_with("getpeername")) {
        let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
        program.load().map_err(|error| refused(name, error))?;
    }
    Ok(())
}

/// Passes the programs' log records on, from a task that ends with the process.
///
/// Says why if there are none: an object may be built without them.
pub fn follow_log(programs: &mut Programs) {
    let mut logger = match EbpfLogger::init_with_logger(&mut programs.ebpf, Records) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "no log records from the eBPF programs");
            return;
        }
    };
    tokio::spawn(async move {
        let mut pause = tokio::time::interval(LOG_PAUSE);
        loop {
            pause.tick().await;
            logger.flush();
        }
    });
}

fn features() -> Features {
    let with_set_retval = KernelVersion::new(5, 18, 0);
    Features { set_retval: KernelVersion::current().is_ok_and(|ours| ours >= with_set_retval) }
}

/// Loads what is wanted; says which programs the kernel does not take while others stand in.
fn load_programs(ebpf: &mut Ebpf, wanted: Wanted) -> Result<BTreeSet<&'static str>, Error> {
    let mut missing = BTreeSet::new();
    if wanted.tc {
        for name in [names::POD_INGRESS, names::POD_EGRESS, names::NIC_INGRESS, names::NIC_EGRESS] {
            let program: &mut SchedClassifier = program(ebpf, name)?;
            program.load().map_err(|error| refused(name, error))?;
        }
    }
    if wanted.xdp {
        missing.extend(load_xdp(ebpf, wanted.tc)?);
    }
    if wanted.sockets {
        missing.extend(load_sockets(ebpf, wanted.tc)?);
    }
    Ok(missing)
}

/// Both modes or none: which one a NIC takes is not known yet.
fn load_xdp(ebpf: &mut Ebpf, tc: bool) -> Result<Option<&'static str>, Error> {
    for name in [names::NIC_XDP, names::NIC_XDP_GENERIC] {
        let program: &mut Xdp = program(ebpf, name)?;
        if let Err(error) = program.load().map_err(|error| refused(name, error)) {
            stand_in(tc, error, "without XDP the TC programs serve the NICs")?;
            return Ok(Some(names::NIC_XDP));
        }
    }
    Ok(None)
}

/// All hooks or none: a socket that is translated one way only is worse than one that is not. But
/// for `getpeername` (Linux 5.8), without which a client merely sees whom it really talks to.
fn load_sockets(ebpf: &mut Ebpf, tc: bool) -> Result<BTreeSet<&'static str>, Error> {
    let mut missing = BTreeSet::new();
    for name in names::SOCKETS {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        let Err(error) = program.load().map_err(|error| refused(name, error)) else { continue };
        if name.starts_with("getpeername") {
            stand_in(true, error, "clients of a service see the endpoint as their peer")?;
            missing.insert(name);
        } else {
            let without = "without socket hooks the TC programs serve the pods, and the node's own \
                           processes reach no service";
            stand_in(tc, error, without)?;
            return Ok(names::SOCKETS.into());
        }
    }
    Ok(missing)
}

/// Goes on without a program if something else does its work, and says so.
fn stand_in(there_is: bool, error: Error, without: &str) -> Result<(), Error> {
    if !there_is {
        return Err(error);
    }
    tracing::warn!(error = super::attach::chain(&error), "{without}");
    Ok(())
}

/// One sentence; what the verifier has to say fills screens and is for debugging.
fn refused(name: &'static str, error: ProgramError) -> Error {
    let source = if let ProgramError::LoadError { io_error, verifier_log } = error {
        tracing::debug!(program = name, "{verifier_log}");
        io_error
    } else {
        io::Error::other(error)
    };
    Error::Program { name, source }
}

/// The program `name` of `ebpf`.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, Error>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    let program = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    program.ok_or(Error::NoProgram { name })
}

/// Layout and size of a map.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The map.
    pub name: &'static str,
    /// Bytes of a key.
    pub key: u32,
    /// Bytes of a value.
    pub value: u32,
    /// Entries.
    pub entries: u32,
}

/// Layout and size of every map.
pub fn layouts(sizes: &MapSizes) -> [Layout; 16] {
    const fn layout<K, V>(name: &'static str, entries: u32) -> Layout {
        #[expect(clippy::cast_possible_truncation, reason = "keys and values are tens of bytes")]
        let (key, value) = (size_of::<K>() as u32, size_of::<V>() as u32);
        Layout { name, key, value, entries }
    }
    let addresses = names::NODE_ADDRESSES_MAX;
    [
        layout::<u32, Config>(names::CONFIG, 1),
        layout::<u32, Live>(names::LIVE, EndpointId::INDEX_MAX),
        layout::<u32, u64>(names::GATE, gate::WORDS),
        layout::<u32, Endpoint<V4>>(names::ENDPOINTS4, sizes.endpoints),
        layout::<u32, Endpoint<V6>>(names::ENDPOINTS6, sizes.endpoints),
        layout::<FrontendKey<V4>, Frontend>(names::FRONTENDS4, sizes.frontends),
        layout::<FrontendKey<V6>, Frontend>(names::FRONTENDS6, sizes.frontends),
        layout::<[u8; V4], u32>(names::NODE_ADDRESSES4, addresses),
        layout::<[u8; V6], u32>(names::NODE_ADDRESSES6, addresses),
        layout::<FlowKey<V4>, Flow<V4>>(names::FLOWS4, sizes.flows),
        layout::<FlowKey<V6>, Flow<V6>>(names::FLOWS6, sizes.flows),
        layout::<PeerKey, Peer>(names::PEERS, sizes.peers),
        layout::<SourceKey<V4>, u32>(names::SOURCES4, names::SOURCES_MAX),
        layout::<SourceKey<V6>, u32>(names::SOURCES6, names::SOURCES_MAX),
        layout::<AffinityKey, Affinity>(names::AFFINITY, names::AFFINITY_MAX),
        layout::<u32, u64>(names::COUNTERS, reason::COUNTERS_MAX),
    ]
}

/// How many maps are pinned already; an error if one of them does not fit.
fn check_pinned(pins: &Pins, sizes: &MapSizes) -> Result<usize, Error> {
    let mut adopted = 0;
    for layout in layouts(sizes) {
        let Layout { name, .. } = layout;
        let path = pins.map(name);
        if !path.exists() {
            continue;
        }
        let found = MapInfo::from_pin(&path)
            .map_err(|source| Error::Map { name, source: Box::new(source) })?;
        let unfit = |what, found, wanted| Error::Unfit { name, path, what, found, wanted };
        if found.key_size() != layout.key {
            return Err(unfit("a key size of", found.key_size(), layout.key));
        }
        if found.value_size() != layout.value {
            return Err(unfit("a value size of", found.value_size(), layout.value));
        }
        if found.max_entries() != layout.entries {
            return Err(unfit("a capacity of", found.max_entries(), layout.entries));
        }
        adopted += 1;
    }
    Ok(adopted)
}
