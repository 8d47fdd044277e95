//! The eBPF backend as the loop drives it: a program and the maps that it goes to.

use std::{collections::BTreeMap, time::Duration};

use super::{flows, maps::MapWriter, program::Program};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Fill, Mode, Needs, Node,
        ServicePort, Upkeep,
    },
    model::{PortKey, PortState},
};

/// Programs, as far as their maps are concerned; attachments are the daemon's.
#[derive(Debug)]
pub struct Ebpf<M> {
    maps: M,
    /// `None` until the maps could be read.
    program: Option<Program>,
    nobody: BTreeMap<PortKey, CapacityError>,
}

impl<M> Ebpf<M> {
    /// A backend that has not looked at its maps yet.
    pub fn new(maps: M) -> Self {
        Self { maps, program: None, nobody: BTreeMap::new() }
    }

    /// The maps, to break them.
    #[cfg(test)]
    pub(crate) fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The maps.
    pub fn into_maps(self) -> M {
        self.maps
    }
}

impl<M: MapWriter + Send> Backend for Ebpf<M> {
    fn mode(&self) -> Mode {
        Mode::Ebpf
    }

    fn observe(&mut self) -> Result<(), Error> {
        self.program = Some(Program::observe(&mut self.maps)?);
        Ok(())
    }

    /// Nothing: `CONFIG` and the node's addresses have a writer of their own.
    fn set_node(&mut self, _node: &Node) {}

    fn compile(&mut self, table: &dyn Desired) {
        if let Some(program) = &mut self.program {
            program.compile(table);
        }
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        if let Some(program) = &mut self.program {
            // An error is kept in the program and shown in the status.
            let _ = program.change(key, state);
        }
    }

    fn reclaim(&mut self, now_ms: u64) -> bool {
        self.program.as_mut().is_some_and(|program| program.reclaim(now_ms))
    }

    fn retry(&mut self, table: &dyn Desired) {
        if let Some(program) = &mut self.program {
            program.retry(table);
        }
    }

    fn is_resting(&self) -> bool {
        self.program.as_ref().is_some_and(Program::is_resting)
    }

    fn pending(&self) -> usize {
        self.program.as_ref().map_or(0, Program::pending)
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        let drift = |program: &Program| (program.pending(), program.drift(max));
        self.program.as_ref().map(drift).unwrap_or_default()
    }

    fn apply(&mut self, now_ms: u64) -> Result<Applied, Error> {
        let Some(program) = &mut self.program else { return Ok(Applied::default()) };
        Ok(program.apply(&mut self.maps, now_ms)?)
    }

    /// Expires flows, and clears gate bits that nobody needs any more (with the next apply).
    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now_ns =
            now.map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(0));
        let sweep = flows::sweep(&mut self.maps, dataplane_common::flow::tick(now_ns))?;
        if let Some(program) = &mut self.program {
            program.clear_gate(&sweep.gate_bits);
        }
        Ok(Upkeep { flow_entries: sweep.entries, drifted: 0 })
    }

    fn take_departed(&mut self) -> Vec<Departed> {
        self.program.as_mut().map(Program::take_departed).unwrap_or_default()
    }

    fn needs(&self) -> Needs {
        self.program.as_ref().map_or_else(Needs::default, |program| Needs {
            nic_replies: program.needs_nic_replies(),
            host_ports: program.host_ports(),
        })
    }

    fn services(&self) -> Vec<ServicePort> {
        self.program.as_ref().map(Program::services).unwrap_or_default()
    }

    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        self.program.as_ref().map_or(&self.nobody, Program::left_out)
    }

    fn contested(&self) -> usize {
        self.program.as_ref().map_or(0, Program::contested)
    }

    fn fill(&self) -> Vec<Fill> {
        self.program.as_ref().map(|program| program.fill().to_vec()).unwrap_or_default()
    }

    /// Nothing: the maps go with the pins, which the daemon removes once nothing is attached.
    fn remove(&mut self) -> Result<(), Error> {
        Ok(())
    }
}
