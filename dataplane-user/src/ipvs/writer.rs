//! Makes the kernel hold what a program says: servers before the elements that lead to them, elements
//! before the addresses that bring packets; and back in the other order.

mod compare;
mod leaving;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{IpAddr, SocketAddr},
};

use self::leaving::Leaving;
use super::{
    contents::{Contents, Dirty, Element, Held},
    error::IpvsError,
    server::{Server, ServerKey, Virtual},
    system::{FAMILIES, Step, Stopped, System, Transaction, Which},
};
use crate::{
    backend::Applied,
    model::{Family, Protocol},
};

/// What the kernel holds, as far as we know, and what is left to do.
#[derive(Debug, Default)]
pub struct Writer {
    /// Destinations are those that take new connections.
    seen: Contents,
    leaving: Leaving,
    /// Virtual servers of others, which become ours where we want one.
    foreign: BTreeSet<ServerKey>,
    /// Families whose table has to be made.
    broken: BTreeSet<Family>,
    todo: Dirty,
    /// Something failed half-way: look before the next step.
    unsure: bool,
    /// Where the next look at destinations begins.
    checked: Option<ServerKey>,
    /// When the last call came.
    now_ms: u64,
}

/// Decides in which order the destinations of a virtual server are added. Where they take turns, the
/// kernel begins with the one that came last: were that the same for all, the first clients of all
/// services would meet on one endpoint.
fn turn(key: ServerKey, to: &SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, to).hash(&mut hasher);
    hasher.finish()
}

impl Writer {
    /// What the kernel holds, as far as we know.
    pub const fn seen(&self) -> &Contents {
        &self.seen
    }

    /// Destinations that keep their last connections.
    pub fn leaving(&self) -> usize {
        self.leaving.len()
    }

    /// How many entries may differ from the kernel's.
    pub fn pending(&self) -> usize {
        self.todo.len() + self.broken.len() + usize::from(self.unsure)
    }

    /// Takes over what changed in the program.
    pub fn mark(&mut self, dirty: Dirty) {
        self.todo.servers.extend(dirty.servers);
        self.todo.addresses.extend(dirty.addresses);
        self.todo.elements.extend(dirty.elements);
    }

    /// Reads back everything; all of it is compared with the program at the next apply.
    pub fn observe(&mut self, system: &mut impl System, now_ms: u64) -> Result<(), IpvsError> {
        system.prepare()?;
        let found = system.observe(Which::All, true)?;
        self.take_over(found, now_ms);
        self.todo.all(&self.seen);
        Ok(())
    }

    /// Makes the kernel hold `wanted`. After an error the rest stays pending.
    pub fn apply(
        &mut self,
        wanted: &Contents,
        system: &mut impl System,
        now_ms: u64,
    ) -> Result<Applied, IpvsError> {
        let mut applied = Applied::default();
        self.now_ms = now_ms;
        if self.unsure {
            self.observe(system, now_ms)?;
            self.todo.all(wanted);
            self.unsure = false;
        }
        if self.pending() == 0 && self.leaving.is_swept() {
            return Ok(applied);
        }
        let result = self.write(wanted, system, now_ms, &mut applied);
        self.unsure = result.is_err();
        result.map(|()| applied)
    }

    fn write(
        &mut self,
        wanted: &Contents,
        system: &mut impl System,
        now_ms: u64,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        let keys: Vec<ServerKey> = self.todo.servers.iter().copied().collect();
        let steps = keys.iter().flat_map(|key| self.steps_in(*key, wanted)).collect();
        self.run(steps, system, now_ms, applied)?;
        self.write_tables(wanted, system, applied)?;
        let addresses = std::mem::take(&mut self.todo.addresses);
        // What is not reached stays to be done.
        self.todo.addresses.clone_from(&addresses);
        for address in addresses.iter().filter(|it| wanted.addresses.contains(it)) {
            self.write_address(*address, true, system, applied)?;
        }
        let steps = keys.iter().flat_map(|key| self.steps_out(*key, wanted)).collect();
        self.run(steps, system, now_ms, applied)?;
        self.sweep(keys, wanted, system, now_ms, applied)?;
        self.take_addresses(wanted, system, applied)
    }

    /// Removes everything that is ours, connections too. Twice is once.
    pub fn remove(&mut self, system: &mut impl System) -> Result<(), IpvsError> {
        let found = system.observe(Which::Of(&BTreeSet::new()), false)?;
        let ours = found.servers.iter().filter(|(_, server)| server.is_ours);
        let steps: Vec<Step> = ours.map(|(key, _)| Step::NoServer(*key)).collect();
        system.change_servers(&steps).map_err(|Stopped { error, .. }| error)?;
        system.remove()?;
        *self = Self { unsure: true, ..Self::default() };
        Ok(())
    }

    /// What makes a virtual server take at least the connections that it should.
    fn steps_in(&self, key: ServerKey, wanted: &Contents) -> Vec<Step> {
        let Some(Server { scheduling, destinations }) = wanted.servers.get(&key) else {
            return Vec::new();
        };
        let seen = self.seen.servers.get(&key);
        let mut steps = Vec::new();
        if seen.is_none_or(|seen| seen.scheduling != *scheduling) || self.foreign.contains(&key) {
            steps.push(Step::Server { key, scheduling: *scheduling, exists: seen.is_some() });
        }
        let is_new = |to: &&SocketAddr| seen.is_none_or(|seen| !seen.destinations.contains(*to));
        let mut new: Vec<&SocketAddr> = destinations.iter().filter(is_new).collect();
        new.sort_by_key(|to| turn(key, to));
        steps.extend(new.into_iter().map(|to| {
            let exists = self.leaving.contains(key, *to);
            Step::Destination { key, to: *to, takes_new: true, exists }
        }));
        steps
    }

    /// What makes a virtual server take no other connections than it should.
    fn steps_out(&self, key: ServerKey, wanted: &Contents) -> Vec<Step> {
        let Some(seen) = self.seen.servers.get(&key) else { return Vec::new() };
        let server = wanted.servers.get(&key);
        if self.foreign.contains(&key) {
            return Vec::new();
        }
        let keeps = keeps_connections(key);
        if server.is_none() && !keeps {
            return vec![Step::NoServer(key)];
        }
        let goes = |to: &&SocketAddr| server.is_none_or(|it| !it.destinations.contains(*to));
        let step = |to: &SocketAddr| {
            if keeps {
                Step::Destination { key, to: *to, takes_new: false, exists: true }
            } else {
                Step::NoDestination(key, *to)
            }
        };
        seen.destinations.iter().filter(goes).map(step).collect()
    }

    /// Does steps, and takes note of those that were done.
    fn run(
        &mut self,
        steps: Vec<Step>,
        system: &mut impl System,
        now_ms: u64,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        if steps.is_empty() {
            return Ok(());
        }
        let result = system.change_servers(&steps);
        let done = result.as_ref().map_or_else(|stopped| stopped.done, |()| steps.len());
        for step in steps.into_iter().take(done) {
            self.note(step, now_ms, applied);
        }
        result.map_err(|Stopped { error, .. }| error)
    }

    fn note(&mut self, step: Step, now_ms: u64, applied: &mut Applied) {
        match step {
            Step::Server { key, scheduling, .. } => {
                let empty = Server { scheduling, destinations: BTreeSet::new() };
                self.seen.servers.entry(key).or_insert(empty).scheduling = scheduling;
                self.foreign.remove(&key);
                applied.written += 1;
            }
            Step::NoServer(key) => {
                self.seen.servers.remove(&key);
                self.leaving.forget(key);
                self.unused(key);
                applied.deleted += 1;
            }
            Step::Destination { key, to, takes_new, .. } => {
                let Some(server) = self.seen.servers.get_mut(&key) else { return };
                if takes_new {
                    server.destinations.insert(to);
                    self.leaving.remove(key, to);
                } else {
                    server.destinations.remove(&to);
                    self.leaving.insert(key, to, now_ms);
                }
                applied.written += 1;
            }
            Step::NoDestination(key, to) => {
                if let Some(server) = self.seen.servers.get_mut(&key) {
                    server.destinations.remove(&to);
                }
                self.leaving.remove(key, to);
                applied.deleted += 1;
            }
        }
    }

    /// A virtual server that went may have been the last on its address.
    fn unused(&mut self, key: ServerKey) {
        if let ServerKey::Address(Virtual { address, .. }) = key
            && self.seen.addresses.contains(&address)
        {
            self.todo.addresses.insert(address);
        }
    }

    fn write_tables(
        &mut self,
        wanted: &Contents,
        system: &mut impl System,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        for family in FAMILIES {
            let change = self.transaction(family, wanted);
            if change != Transaction::default() {
                system.change_table(family, &change)?;
                self.broken.remove(&family);
                applied.written += change.add.len();
                applied.deleted += change.remove.len();
            }
            if change.rebuild {
                self.seen.elements.retain(|element, _| element.family() != family);
            }
            for element in change.remove {
                self.seen.elements.remove(&element);
            }
            self.seen.elements.extend(change.add);
            self.todo.elements.retain(|element| element.family() != family);
        }
        Ok(())
    }

    /// What makes the elements of a family right.
    fn transaction(&self, family: Family, wanted: &Contents) -> Transaction {
        if self.broken.contains(&family) {
            let mut all: BTreeMap<Element, Held> = wanted
                .elements_of(family)
                .map(|(element, held)| (element.clone(), *held))
                .collect();
            let closed = self.seen.addresses.iter().filter(|it| Family::of(**it) == family);
            all.extend(closed.map(|address| (Element::Closed(*address), Held::Nothing)));
            let add = all.into_iter().collect();
            return Transaction { rebuild: true, remove: Vec::new(), add };
        }
        let mut change = Transaction::default();
        for element in self.todo.elements.iter().filter(|element| element.family() == family) {
            let held = wanted.elements.get(element).copied().or_else(|| self.still(element));
            let seen = self.seen.elements.get(element).copied();
            if held == seen {
                continue;
            }
            if seen.is_some() {
                change.remove.push(element.clone());
            }
            change.add.extend(held.map(|held| (element.clone(), held)));
        }
        change
    }

    /// An address stays closed for as long as it is the node's own.
    fn still(&self, element: &Element) -> Option<Held> {
        match element {
            Element::Closed(address) => {
                self.seen.addresses.contains(address).then_some(Held::Nothing)
            }
            Element::Service(_)
            | Element::Mark(_)
            | Element::Range(..)
            | Element::Node(_)
            | Element::Hairpin(_)
            | Element::PodLink(..) => None,
        }
    }

    fn write_address(
        &mut self,
        address: IpAddr,
        comes: bool,
        system: &mut impl System,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        if self.seen.addresses.contains(&address) != comes {
            system.change_address(address, comes)?;
            if comes {
                self.seen.addresses.insert(address);
                applied.written += 1;
            } else {
                self.seen.addresses.remove(&address);
                applied.deleted += 1;
            }
        }
        self.todo.addresses.remove(&address);
        Ok(())
    }

    /// Takes off addresses that nobody wants and no virtual server needs for its last connections.
    fn take_addresses(
        &mut self,
        wanted: &Contents,
        system: &mut impl System,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        for address in self.todo.addresses.clone() {
            // The last virtual server that goes marks the address again.
            if self.has_server(address) && self.seen.addresses.contains(&address) {
                self.todo.addresses.remove(&address);
                continue;
            }
            self.write_address(address, wanted.addresses.contains(&address), system, applied)?;
            self.todo.elements.insert(Element::Closed(address));
        }
        self.write_tables(wanted, system, applied)
    }

    fn has_server(&self, address: IpAddr) -> bool {
        let least = ServerKey::Address(Virtual { address, protocol: Protocol::Tcp, port: 0 });
        let mut on_it =
            self.seen.servers.range(least..).map(|(key, _)| key).take_while(|key| match key {
                ServerKey::Address(at) => at.address == address,
                ServerKey::Mark(..) => false,
            });
        on_it.any(|key| !self.foreign.contains(key))
    }
}

/// Whether connections outlive their endpoint's time in the table.
const fn keeps_connections(key: ServerKey) -> bool {
    match key {
        ServerKey::Address(Virtual { protocol: Protocol::Udp, .. }) => false,
        // A server with a mark serves all protocols.
        ServerKey::Address(Virtual { protocol: Protocol::Tcp | Protocol::Sctp, .. })
        | ServerKey::Mark(..) => true,
    }
}
