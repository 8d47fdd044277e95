//! A table, its program and real maps: filled from objects, changed, and read back.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use dataplane_common::{Endpoint, Frontend, FrontendKey, Live, Slots, TCP, names};
use dataplane_user::{
    ebpf::{
        Program,
        maps::{KernelMaps, MapWriter as _},
    },
    model::{Kind, NodeIdentity, ObjectEvent, ServiceTable},
};

use nix::time::{ClockId, clock_gettime};

use super::objects;
use crate::rig::empty_maps;

/// Flow tables are not measured here; they only have to exist.
const FLOWS: u32 = 1 << 10;
/// This node's address.
pub(super) const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Everything between an object and the kernel.
pub struct World {
    table: ServiceTable,
    program: Program,
    maps: KernelMaps,
    begun: Instant,
}

/// Where the time from objects to maps went.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cold {
    /// Objects into the table.
    pub(super) table: Duration,
    /// The table into the program.
    pub(super) compile: Duration,
    /// The program into the maps; nearly all of it is the kernel's.
    pub(super) write: Duration,
    /// Processor time of all that. On a machine with other work it is less than the sum.
    pub(super) processor: Duration,
}

impl Cold {
    /// From the first object to the last map entry.
    pub(super) fn total(&self) -> Duration {
        self.table + self.compile + self.write
    }
}

impl World {
    /// Empty maps in the kernel, an empty table, an empty program. Needs root and BPF.
    pub fn new() -> anyhow::Result<Self> {
        let maps = empty_maps(FLOWS)?;
        let table = ServiceTable::new(NodeIdentity::new(objects::NODE, [IpAddr::from(NODE_IP)]));
        let program = Program::new(maps.limits()?);
        Ok(Self { table, program, maps, begun: Instant::now() })
    }

    /// Every event of a source that has this many services to tell.
    pub fn events(services: u32, endpoints: u32) -> impl Iterator<Item = ObjectEvent> {
        let begin = |kind| std::iter::once(ObjectEvent::ListBegin(kind));
        let end = |kind| std::iter::once(ObjectEvent::ListEnd(kind));
        begin(Kind::Service)
            .chain((0..services).map(objects::service))
            .chain(end(Kind::Service))
            .chain(begin(Kind::EndpointSlice))
            .chain((0..services).map(move |number| objects::slice(number, endpoints, None)))
            .chain(end(Kind::EndpointSlice))
            .chain(std::iter::once(ObjectEvent::Synced))
    }

    /// From objects to maps, the way the daemon starts. Objects are dropped as they are read.
    pub(super) fn fill(
        &mut self,
        events: impl IntoIterator<Item = ObjectEvent>,
    ) -> anyhow::Result<Cold> {
        let processor = processor_time()?;
        let begun = Instant::now();
        for event in events {
            self.table.apply(event);
        }
        // The first compilation covers everything.
        drop(self.table.take_changed());
        let table = begun.elapsed();
        let begun = Instant::now();
        self.program.compile(&self.table);
        let compile = begun.elapsed();
        let begun = Instant::now();
        self.program.apply(&mut self.maps, 0)?;
        let write = begun.elapsed();
        Ok(Cold { table, compile, write, processor: processor_time()?.saturating_sub(processor) })
    }

    /// As [`Self::fill`], one object at a time, for who counts what remains.
    pub fn fill_one_by_one(&mut self, services: u32, endpoints: u32) -> anyhow::Result<()> {
        self.fill(Self::events(services, endpoints)).map(drop)
    }

    /// From one event to the maps, the way the daemon does a round; says how long it took.
    pub(super) fn change(&mut self, event: ObjectEvent) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.table.apply(event);
        let now_ms = u64::try_from(self.begun.elapsed().as_millis())?;
        self.program.reclaim(now_ms);
        for key in self.table.take_changed() {
            self.program.change(&key, self.table.port(&key).as_ref())?;
        }
        self.program.apply(&mut self.maps, now_ms)?;
        let elapsed = begun.elapsed();
        drop(self.program.take_departed());
        Ok(elapsed)
    }

    /// Whether the maps have everything that the program has.
    pub(super) fn verify_fill(&mut self, services: u32, endpoints: u32) -> anyhow::Result<()> {
        let left_out = self.program.left_out().values().next();
        ensure!(left_out.is_none(), "not every service fits: {left_out:?}");
        ensure!(self.program.pending() == 0, "entries are pending");
        let entries = self.maps.entries::<FrontendKey<4>, Frontend>(names::FRONTENDS4)?;
        let slots: u64 = entries.iter().map(|(_, frontend)| u64::from(frontend.inside.count)).sum();
        let outside: u64 =
            entries.iter().map(|(_, frontend)| u64::from(frontend.outside.count)).sum();
        let wanted = u64::from(services) * u64::from(endpoints);
        // Every service has a cluster IP of its own, and each of those is an entry more.
        ensure!(
            (entries.len(), slots, outside) == (2 * services as usize, wanted, wanted),
            "{} entries with {slots} and {outside} endpoints are in the map instead of twice \
             {services} with {wanted}",
            entries.len(),
        );
        Ok(())
    }

    /// Whether the maps lead from a service to this endpoint, with an identity that takes flows.
    pub(super) fn verify_endpoint(&mut self, service: u32, wanted: Ipv4Addr) -> anyhow::Result<()> {
        let address = objects::cluster_ip(service);
        let key = FrontendKey::new(address.octets(), objects::PORT, TCP);
        let frontend: Option<Frontend> = self.maps.lookup(names::FRONTENDS4, &key)?;
        let Frontend { inside: Slots { base, count }, .. } =
            frontend.with_context(|| format!("{address} is not in the map"))?;
        for slot in base..base + count {
            let endpoint: Option<Endpoint<4>> = self.maps.lookup(names::ENDPOINTS4, &slot)?;
            let endpoint = endpoint.context("a slot of the block is not in the map")?;
            if endpoint.addr() == wanted.octets() {
                let live: Option<Live> = self.maps.lookup(names::LIVE, &endpoint.id().index())?;
                ensure!(
                    live.is_some_and(|live| live.takes(endpoint.id(), Live::CLUSTER)),
                    "{wanted} takes no flows"
                );
                return Ok(());
            }
        }
        anyhow::bail!("{address} does not lead to {wanted}")
    }
}

/// What this thread has had of a processor.
fn processor_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}
