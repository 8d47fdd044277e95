//! Compares what was found with what we knew, and remembers the difference.

use std::{collections::BTreeSet, net::SocketAddr};

use super::Writer;
use crate::ipvs::{
    contents::{Contents, Element},
    error::IpvsError,
    server::{Scheduler, Scheduling, Server, ServerKey},
    system::{FAMILIES, Found, Seen, System, Which},
};

/// So many virtual servers have their destinations looked at each time.
const CHECKED_MAX: usize = 256;

impl Writer {
    /// Believes what was found, all of which was read.
    pub(super) fn take_over(&mut self, found: Seen, now_ms: u64) {
        self.seen = Contents::default();
        self.foreign.clear();
        self.broken = found.broken;
        self.seen.addresses = found.addresses;
        for family in FAMILIES.iter().filter(|family| !self.broken.contains(family)) {
            let elements = found.elements.get(family).cloned().flatten();
            self.seen.elements.extend(elements.unwrap_or_default());
        }
        let mut leaving = std::mem::take(&mut self.leaving);
        for (key, server) in found.servers {
            self.take_server(key, server, now_ms);
        }
        // Who left before this look has left since then.
        for ((key, to), since) in leaving.take() {
            self.leaving.since(key, to, since);
        }
    }

    fn take_server(&mut self, key: ServerKey, found: Found, now_ms: u64) {
        if !found.is_ours {
            self.foreign.insert(key);
        }
        let mut server = Server {
            scheduling: found.scheduling.unwrap_or(UNKNOWN),
            destinations: BTreeSet::new(),
        };
        for (to, destination) in found.destinations.unwrap_or_default() {
            if destination.weight > 0 {
                server.destinations.insert(to);
            } else {
                self.leaving.insert(key, to, now_ms);
            }
        }
        self.seen.servers.insert(key, server);
    }

    /// Finds what others changed, and marks it; says how many entries that were.
    pub fn check(&mut self, system: &mut impl System) -> Result<usize, IpvsError> {
        if self.unsure {
            return Ok(0);
        }
        let keys = self.next_checked();
        let found = system.observe(Which::Of(&keys), false)?;
        let mut drifted = self.check_servers(&found, &keys);
        for address in self.seen.addresses.symmetric_difference(&found.addresses) {
            self.todo.addresses.insert(*address);
            drifted += 1;
        }
        self.seen.addresses = found.addresses;
        for family in FAMILIES {
            if found.broken.contains(&family) && self.broken.insert(family) {
                drifted += 1;
            } else if let Some(Some(elements)) = found.elements.get(&family) {
                let now: BTreeSet<&Element> = elements.keys().collect();
                let before: BTreeSet<Element> =
                    self.seen.elements_of(family).map(|(element, _)| element.clone()).collect();
                let changed: Vec<Element> = before
                    .iter()
                    .chain(now.iter().copied().filter(|it| !before.contains(it)))
                    .filter(|it| self.seen.elements.get(*it) != elements.get(*it))
                    .cloned()
                    .collect();
                drifted += changed.len();
                self.seen.elements.retain(|element, _| element.family() != family);
                self.seen.elements.extend(elements.clone());
                self.todo.elements.extend(changed);
            }
        }
        Ok(drifted)
    }

    fn check_servers(&mut self, found: &Seen, keys: &BTreeSet<ServerKey>) -> usize {
        let mut drifted = Vec::new();
        for (key, server) in &self.seen.servers {
            let is_foreign = self.foreign.contains(key);
            match found.servers.get(key) {
                None => drifted.push(*key),
                Some(_) if is_foreign => {}
                Some(now) => {
                    let is_same = now.is_ours
                        && now.scheduling == Some(server.scheduling)
                        && now.destinations.as_ref().is_none_or(|all| {
                            let taking = all.iter().filter(|(_, it)| it.weight > 0);
                            let taking: Vec<&SocketAddr> = taking.map(|(to, _)| to).collect();
                            server.destinations.iter().eq(taking)
                        });
                    if !is_same {
                        drifted.push(*key);
                    }
                }
            }
        }
        let is_new = |(key, now): &(&ServerKey, &Found)| {
            now.is_ours && !self.seen.servers.contains_key(*key)
        };
        drifted.extend(found.servers.iter().filter(is_new).map(|(key, _)| *key));
        for key in &drifted {
            self.believe(*key, found.servers.get(key), keys.contains(key));
        }
        self.todo.servers.extend(drifted.iter().copied());
        drifted.len()
    }

    /// Believes what was found of one virtual server; others look at the rest.
    fn believe(&mut self, key: ServerKey, found: Option<&Found>, was_read: bool) {
        let Some(found) = found else {
            let old = self.seen.servers.remove(&key);
            self.leaving.forget(key);
            self.foreign.remove(&key);
            if old.is_some() {
                self.unused(key);
            }
            return;
        };
        if was_read {
            self.seen.servers.remove(&key);
            self.take_server(key, found.clone(), self.now_ms);
        } else {
            // Its destinations are not known: everything is looked at before the next step.
            self.unsure = true;
        }
    }

    /// The next ones in turn.
    fn next_checked(&mut self) -> BTreeSet<ServerKey> {
        let from = self.checked.take();
        let all = self.seen.servers.keys();
        let after = all.clone().filter(|key| from.is_none_or(|from| **key > from));
        let keys: BTreeSet<ServerKey> = after.take(CHECKED_MAX).copied().collect();
        self.checked = keys.last().copied().filter(|_| keys.len() == CHECKED_MAX);
        keys
    }
}

/// What a virtual server does that we never ask for: it differs from all that we do.
const UNKNOWN: Scheduling =
    Scheduling { scheduler: Scheduler::RoundRobin, persistence_s: Some(u32::MAX) };
