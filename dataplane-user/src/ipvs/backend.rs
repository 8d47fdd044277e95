//! The IPVS backend as the loop drives it: a program, and the kernel that it goes to.

use std::{collections::BTreeMap, time::Instant};

use super::{
    contents::Contents, drift::differences, host::Host, program::Program, system::System,
    treatment::MASQUERADE, writer::Writer,
};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Fill, Mode, Node,
        ServicePort, Upkeep,
    },
    model::{PortKey, PortState},
};

/// Virtual servers, a dummy device and two tables.
#[derive(Debug)]
pub struct Ipvs<S = Host> {
    system: S,
    program: Program,
    writer: Writer,
    /// Endpoints that left with the last apply.
    departed: Vec<Departed>,
    started: Instant,
    nobody: BTreeMap<PortKey, CapacityError>,
}

impl Ipvs<Host> {
    /// The backend of an instance, in the network namespace of the thread that first calls it.
    pub fn new(instance: &str) -> Self {
        Self::with_masquerade_bit(instance, MASQUERADE)
    }

    /// The same with another bit of the mark for "masquerade".
    pub fn with_masquerade_bit(instance: &str, masquerade_bit: u32) -> Self {
        Self::on(Host::new(instance, masquerade_bit))
    }
}

impl<S: System> Ipvs<S> {
    /// A backend that has not looked at the kernel yet.
    pub fn on(system: S) -> Self {
        Self {
            system,
            program: Program::new(),
            writer: Writer::default(),
            departed: Vec::new(),
            started: Instant::now(),
            nobody: BTreeMap::new(),
        }
    }

    /// What the kernel should hold.
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// What the kernel holds, as far as this process knows.
    pub const fn seen(&self) -> &Contents {
        self.writer.seen()
    }

    /// The kernel, to break it.
    #[cfg(test)]
    pub(super) fn system_mut(&mut self) -> &mut S {
        &mut self.system
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl<S: System> Backend for Ipvs<S> {
    fn mode(&self) -> Mode {
        Mode::Ipvs
    }

    fn observe(&mut self) -> Result<(), Error> {
        let now_ms = self.elapsed_ms();
        self.writer.observe(&mut self.system, now_ms)?;
        self.program.keep_marks(self.writer.seen());
        Ok(())
    }

    fn set_node(&mut self, node: &Node) {
        self.program.set_node(node);
        self.writer.mark(self.program.take_dirty());
    }

    fn compile(&mut self, table: &dyn Desired) {
        self.program.compile(table);
        self.writer.mark(self.program.take_dirty());
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.program.change(key, state);
        self.writer.mark(self.program.take_dirty());
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        differences(&self.program, self.writer.seen(), max)
    }

    fn pending(&self) -> usize {
        self.writer.pending()
    }

    fn apply(&mut self, _now_ms: u64) -> Result<Applied, Error> {
        let now_ms = self.elapsed_ms();
        let applied = self.writer.apply(self.program.contents(), &mut self.system, now_ms)?;
        self.departed.extend(self.program.take_departed());
        Ok(applied)
    }

    /// Finds what others changed, and lets destinations go whose last connection has ended; both are
    /// put right with the next apply.
    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        let drifted = self.writer.check(&mut self.system)?;
        self.writer.look_at_leaving();
        Ok(Upkeep { flow_entries: 0, drifted })
    }

    fn take_departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    fn services(&self) -> Vec<ServicePort> {
        self.program.services()
    }

    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        &self.nobody
    }

    fn limits(&self) -> Option<&BTreeMap<PortKey, Vec<&'static str>>> {
        Some(self.program.limits())
    }

    fn contested(&self) -> usize {
        self.program.contested()
    }

    fn fill(&self) -> Vec<Fill> {
        Vec::new()
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.writer.remove(&mut self.system)?;
        Ok(())
    }
}
