//! ns per packet of each path, beside an empty program and a parse with one lookup, in one run.

mod features;
mod sockets;
mod world;

use anyhow::ensure;
use dataplane_common::{Hook, Reason, reason};

use self::world::{Case, World};
use crate::{report::Row, rig::Rig};

/// Samples per row; each is the mean of many runs in one call of the kernel.
const SAMPLES: usize = 60;
/// Rounds over all rows before the samples count.
const WARM_UP: usize = 5;
/// Packets of a known flow before those that are measured.
const WARM_UP_PACKETS: u32 = 20;
/// Entries of the flow tables.
const FLOWS: u32 = 1 << 16;

/// Measures every path. Needs root and BPF; moves this thread into a network namespace of its own.
///
/// Rows are interleaved, so that a disturbance of the machine hits all of them alike. The unit is
/// nanoseconds; the kernel's own loop and clock are in every row, and in `empty` nothing else is.
pub fn run() -> anyhow::Result<Vec<Row>> {
    let mut rig = Rig::new(FLOWS)?;
    let [plain, featured] = [false, true].map(|features| World::new(&rig, features));
    let cases = World::cases();
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); cases.len()];
    for round in 0..WARM_UP + SAMPLES {
        for (case, samples) in cases.iter().zip(&mut samples) {
            let world = if case.features { &featured } else { &plain };
            let ns = measure(&mut rig, world, case)?;
            if round >= WARM_UP {
                samples.push(ns);
            }
        }
    }
    let mut rows: Vec<Row> = cases
        .iter()
        .zip(samples)
        .map(|(case, samples)| crate::report::summarise(case.name, "ns", samples))
        .collect();
    rows.extend(sockets::run()?);
    Ok(rows)
}

/// Mean time of one packet, after making sure that every packet took the path that is named.
fn measure(rig: &mut Rig, world: &World, case: &Case) -> anyhow::Result<f64> {
    world.restore(rig)?;
    if let Some((_, Reason::Established)) = case.counts {
        // Entries that were written a moment ago are in no cache of this processor.
        rig.time(case.program, &case.frame, WARM_UP_PACKETS)?;
    }
    let before = counted(rig, case)?;
    let ns = rig.time(case.program, &case.frame, case.repeat)?;
    if let Some((hook, why)) = case.counts {
        let packets = counted(rig, case)? - before;
        ensure!(
            packets == u64::from(case.repeat),
            "{}: {packets} of {} packets ended as {} at {}",
            case.name,
            case.repeat,
            why.name(),
            hook.name()
        );
    }
    Ok(ns)
}

fn counted(rig: &Rig, case: &Case) -> anyhow::Result<u64> {
    match case.counts {
        Some((hook, why)) => rig.counter(hook, why),
        None => Ok(0),
    }
}

impl Rig {
    /// Packets that ended at this hook for this reason, on all CPUs.
    pub fn counter(&self, hook: Hook, why: Reason) -> anyhow::Result<u64> {
        let values = self.counters.get(&reason::counter(hook, why), 0)?;
        Ok(values.iter().sum())
    }
}
