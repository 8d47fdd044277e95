//! Destinations that take no new connections and keep the ones they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use super::Writer;
use crate::{
    backend::Applied,
    ipvs::{
        contents::Contents,
        error::IpvsError,
        server::ServerKey,
        system::{Step, System},
    },
};

/// After so long a destination goes, whatever it is connected to: a silent connection has been
/// forgotten by then ([`super::super::settings::TCP_TIMEOUT_S`]).
const LEAVING_MS_MAX: u64 = 24 * 60 * 60 * 1000;
/// Of more than so many those go first that came first.
const LEAVING_MAX: usize = 100_000;

/// Who leaves, and since when.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    since_ms: BTreeMap<(ServerKey, SocketAddr), u64>,
    /// Servers whose destinations have not been looked at since they left.
    fresh: BTreeSet<ServerKey>,
}

impl Leaving {
    pub(super) fn len(&self) -> usize {
        self.since_ms.len()
    }

    pub(super) fn contains(&self, key: ServerKey, to: SocketAddr) -> bool {
        self.since_ms.contains_key(&(key, to))
    }

    pub(super) fn insert(&mut self, key: ServerKey, to: SocketAddr, now_ms: u64) {
        self.since_ms.entry((key, to)).or_insert(now_ms);
        self.fresh.insert(key);
    }

    pub(super) fn remove(&mut self, key: ServerKey, to: SocketAddr) {
        self.since_ms.remove(&(key, to));
    }

    pub(super) fn forget(&mut self, key: ServerKey) {
        let all: Vec<SocketAddr> = self.of(key).map(|(to, _)| to).collect();
        for to in all {
            self.remove(key, to);
        }
        self.fresh.remove(&key);
    }

    /// Nobody leaves any more; who did, and since when.
    pub(super) fn take(&mut self) -> BTreeMap<(ServerKey, SocketAddr), u64> {
        std::mem::take(&mut self.since_ms)
    }

    /// Whoever leaves has left since then.
    pub(super) fn since(&mut self, key: ServerKey, to: SocketAddr, since_ms: u64) {
        if let Some(since) = self.since_ms.get_mut(&(key, to)) {
            *since = since_ms;
        }
    }

    /// Everybody is looked at with the next sweep.
    pub(super) fn refresh(&mut self) {
        self.fresh.extend(self.since_ms.keys().map(|(key, _)| *key));
    }

    /// Whether nobody has to be looked at.
    pub(super) fn is_swept(&self) -> bool {
        self.fresh.is_empty()
    }

    fn of(&self, key: ServerKey) -> impl Iterator<Item = (SocketAddr, u64)> {
        let least = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        let all = self.since_ms.range((key, least)..);
        all.take_while(move |((of, _), _)| *of == key).map(|((_, to), since)| (*to, *since))
    }

    /// Since when the oldest may be there.
    fn since_ms_min(&self, now_ms: u64) -> u64 {
        let by_age = now_ms.saturating_sub(LEAVING_MS_MAX);
        let surplus = self.since_ms.len().saturating_sub(LEAVING_MAX);
        if surplus == 0 {
            return by_age;
        }
        let mut all: Vec<u64> = self.since_ms.values().copied().collect();
        all.sort_unstable();
        by_age.max(all[surplus - 1] + 1)
    }
}

impl Writer {
    /// Looks at those who leave once more, with the next apply.
    pub fn look_at_leaving(&mut self) {
        self.leaving.refresh();
    }

    /// Removes destinations whose last connection has ended, and servers that nobody wants and that
    /// have none left. `keys` are the servers that were written; they are done then.
    pub(super) fn sweep(
        &mut self,
        keys: Vec<ServerKey>,
        wanted: &Contents,
        system: &mut impl System,
        now_ms: u64,
        applied: &mut Applied,
    ) -> Result<(), IpvsError> {
        let since_ms_min = self.leaving.since_ms_min(now_ms);
        let fresh = self.leaving.fresh.clone();
        for key in &fresh {
            let found = system.destinations(key)?;
            let is_done = |to: &SocketAddr, since: u64| {
                since < since_ms_min || found.get(to).is_none_or(|it| it.connections == 0)
            };
            let gone = self.leaving.of(*key).filter(|(to, since)| is_done(to, *since));
            let steps = gone.map(|(to, _)| Step::NoDestination(*key, to)).collect();
            self.run(steps, system, now_ms, applied)?;
            self.leaving.fresh.remove(key);
        }
        let is_empty = |key: &&ServerKey| {
            self.seen.servers.contains_key(key)
                && !self.foreign.contains(key)
                && !wanted.servers.contains_key(key)
                && self.leaving.of(**key).next().is_none()
        };
        let candidates: BTreeSet<ServerKey> = keys.iter().chain(&fresh).copied().collect();
        let steps = candidates.iter().filter(is_empty).map(|key| Step::NoServer(*key)).collect();
        self.run(steps, system, now_ms, applied)?;
        for key in keys {
            self.todo.servers.remove(&key);
        }
        Ok(())
    }
}
