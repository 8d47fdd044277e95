//! A backend of rules, and what eBPF would do in its place.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::{
    Counts,
    listen::{Image, Listener},
    nowhere::Nowhere,
};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Fill, Mode, Needs, Node,
        ServicePort, Upkeep,
    },
    ebpf::{Limits, Program},
    model::{PortKey, PortState},
};

/// A backend whose decisions are compared with those of eBPF, connection by connection. Traffic
/// does not notice.
#[derive(Debug)]
pub struct Shadowed<B> {
    rules: B,
    image: Arc<Mutex<Image>>,
    counts: Counts,
    listener: Option<Listener>,
}

impl<B: Backend> Shadowed<B> {
    /// Compares these rules, and counts.
    pub fn new(rules: B, counts: Counts) -> Self {
        let image = Image {
            program: Program::new(Limits::default()),
            node: Node::default(),
            changed: Instant::now(),
        };
        Self { rules, image: Arc::new(Mutex::new(image)), counts, listener: None }
    }

    pub(super) fn image(&self) -> MutexGuard<'_, Image> {
        // A panic elsewhere does not make the program wrong.
        self.image.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Backend> Backend for Shadowed<B> {
    fn mode(&self) -> Mode {
        self.rules.mode()
    }

    fn observe(&mut self) -> Result<(), Error> {
        self.rules.observe()
    }

    fn set_node(&mut self, node: &Node) {
        let mut image = self.image();
        image.node.clone_from(node);
        image.changed = Instant::now();
        drop(image);
        self.rules.set_node(node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        let mut image = self.image();
        image.program.compile(table);
        image.changed = Instant::now();
        drop(image);
        self.rules.compile(table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        let mut image = self.image();
        // What finds no room in the maps is a difference when somebody connects.
        let _ = image.program.change(key, state);
        image.changed = Instant::now();
        drop(image);
        self.rules.change(key, state);
    }

    fn reclaim(&mut self, now_ms: u64) -> bool {
        self.image().program.reclaim(now_ms);
        self.rules.reclaim(now_ms)
    }

    fn retry(&mut self, table: &dyn Desired) {
        self.rules.retry(table);
    }

    fn is_resting(&self) -> bool {
        self.rules.is_resting() || self.image().program.is_resting()
    }

    fn pending(&self) -> usize {
        self.rules.pending()
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        self.rules.drift(max)
    }

    fn apply(&mut self, now_ms: u64) -> Result<Applied, Error> {
        let applied = self.rules.apply(now_ms)?;
        let mut image = self.image();
        image.program.apply(&mut Nowhere, now_ms)?;
        image.program.take_departed();
        image.changed = Instant::now();
        drop(image);
        if self.listener.is_none() {
            let listener = Listener::start(Arc::clone(&self.image), self.counts.clone());
            match listener {
                Ok(listener) => self.listener = Some(listener),
                // Traffic comes first.
                Err(error) => {
                    let error = crate::ebpf::attach::chain(&error);
                    tracing::warn!(error, "new connections are not compared, trying again");
                }
            }
        }
        Ok(applied)
    }

    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        self.rules.upkeep()
    }

    fn take_departed(&mut self) -> Vec<Departed> {
        self.rules.take_departed()
    }

    fn needs(&self) -> Needs {
        self.rules.needs()
    }

    fn services(&self) -> Vec<ServicePort> {
        self.rules.services()
    }

    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        self.rules.left_out()
    }

    fn limits(&self) -> Option<&BTreeMap<PortKey, Vec<&'static str>>> {
        self.rules.limits()
    }

    fn contested(&self) -> usize {
        self.rules.contested()
    }

    fn fill(&self) -> Vec<Fill> {
        self.rules.fill()
    }

    fn remove(&mut self) -> Result<(), Error> {
        self.listener = None;
        self.rules.remove()
    }
}
