//! A kernel in memory that fails one call in ten, some of them half-way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    contents::{Element, Held},
    error::IpvsError,
    message::SeenDestination,
    server::ServerKey,
    system::{FAMILIES, Found, Seen, Step, Stopped, System, Transaction, Which},
};
use crate::model::Family;

/// What a kernel would hold, and which call fails next.
#[derive(Clone, Debug)]
pub(super) struct FakeSystem {
    pub(super) servers: BTreeMap<ServerKey, Found>,
    pub(super) addresses: BTreeSet<IpAddr>,
    pub(super) tables: BTreeMap<Family, BTreeMap<Element, Held>>,
    /// One call in so many fails; 0 means none.
    pub(super) fail_one_in: u64,
    pub(super) seed: u64,
    /// What was done, in order.
    pub(super) log: Vec<String>,
    /// Whether somebody changed tables since they were read.
    pub(super) touched: bool,
}

impl FakeSystem {
    pub(super) fn new() -> Self {
        Self {
            servers: BTreeMap::new(),
            addresses: BTreeSet::new(),
            tables: BTreeMap::new(),
            fail_one_in: 10,
            seed: 0x9e37_79b9_7f4a_7c15,
            log: Vec::new(),
            touched: false,
        }
    }

    fn fails(&mut self) -> bool {
        // xorshift64: the same failures in every run.
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.fail_one_in != 0 && self.seed.is_multiple_of(self.fail_one_in)
    }

    fn call(&mut self) -> Result<(), IpvsError> {
        if self.fails() { Err(IpvsError::Fake) } else { Ok(()) }
    }

    /// What the kernel would make of it: one error stops it.
    fn step(&mut self, step: &Step) {
        self.log.push(format!("{step:?}"));
        match step {
            Step::Server { key, scheduling, .. } => {
                let found = self.servers.entry(*key).or_default();
                (found.scheduling, found.is_ours) = (Some(*scheduling), true);
                found.destinations.get_or_insert_default();
            }
            Step::NoServer(key) => drop(self.servers.remove(key)),
            Step::Destination { key, to, takes_new, .. } => {
                let server = self.servers.get_mut(key).expect("the server comes first");
                let all = server.destinations.get_or_insert_default();
                all.entry(*to).or_default().weight = u32::from(*takes_new);
            }
            Step::NoDestination(key, to) => {
                if let Some(server) = self.servers.get_mut(key) {
                    server.destinations.get_or_insert_default().remove(to);
                }
            }
        }
    }
}

impl System for FakeSystem {
    fn prepare(&mut self) -> Result<(), IpvsError> {
        self.call()
    }

    fn observe(&mut self, which: Which<'_>, all: bool) -> Result<Seen, IpvsError> {
        self.call()?;
        let mut servers = self.servers.clone();
        if let Which::Of(keys) = which {
            for (_, server) in servers.iter_mut().filter(|(key, _)| !keys.contains(key)) {
                server.destinations = None;
            }
        }
        let is_read = all || std::mem::take(&mut self.touched);
        let of = |family| self.tables.get(family).cloned().filter(|_| is_read);
        Ok(Seen {
            servers,
            addresses: self.addresses.clone(),
            elements: FAMILIES.iter().map(|family| (*family, of(family))).collect(),
            broken: FAMILIES.into_iter().filter(|it| !self.tables.contains_key(it)).collect(),
        })
    }

    fn destinations(
        &mut self,
        key: &ServerKey,
    ) -> Result<BTreeMap<SocketAddr, SeenDestination>, IpvsError> {
        self.call()?;
        let server = self.servers.get(key);
        Ok(server.and_then(|it| it.destinations.clone()).unwrap_or_default())
    }

    fn change_servers(&mut self, steps: &[Step]) -> Result<(), Stopped> {
        let fails = self.fails();
        let done = if fails { steps.len() / 2 } else { steps.len() };
        steps[..done].iter().for_each(|step| self.step(step));
        if fails { Err(Stopped { done, error: IpvsError::Fake }) } else { Ok(()) }
    }

    fn change_address(&mut self, address: IpAddr, comes: bool) -> Result<(), IpvsError> {
        self.call()?;
        self.log.push(format!("address {address} {comes}"));
        if comes {
            self.addresses.insert(address);
        } else {
            self.addresses.remove(&address);
        }
        Ok(())
    }

    fn change_table(&mut self, family: Family, change: &Transaction) -> Result<(), IpvsError> {
        self.call()?;
        self.log.push(format!("table {family:?} {change:?}"));
        if change.rebuild {
            self.tables.insert(family, BTreeMap::new());
        }
        let table = self.tables.get_mut(&family).expect("the table comes first");
        for element in &change.remove {
            assert!(table.remove(element).is_some(), "{element:?} is not there");
        }
        for (element, held) in &change.add {
            let old = table.insert(element.clone(), *held);
            assert!(old.is_none_or(|old| old == *held), "{element:?} is there already");
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<(), IpvsError> {
        self.call()?;
        self.addresses.clear();
        self.tables.clear();
        Ok(())
    }
}
