//! The kernel of this host: IPVS, a dummy device and two nftables tables.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    device::{self, Device},
    error::IpvsError,
    message::SeenDestination,
    rules::Rules,
    server::{Scheduler, Scheduling, ServerKey},
    services::Services,
    settings,
    system::{FAMILIES, Found, Seen, Step, Stopped, System, Transaction, Which},
    table::FamilyTable,
};
use crate::{model::Family, nftables::socket::Netfilter};

/// Sockets of one network namespace, opened when they are first needed.
#[derive(Debug)]
pub struct Host {
    device_name: String,
    tables: [FamilyTable; 2],
    open: Option<Open>,
    /// The number of the kernel's tables' state in which we know ours.
    generation: Option<u32>,
}

#[derive(Debug)]
struct Open {
    services: Services,
    device: Device,
    netfilter: Netfilter,
}

impl Host {
    /// The kernel as an instance sees it; nothing is asked yet.
    pub fn new(instance: &str, masquerade_bit: u32) -> Self {
        let table = |family| {
            let name = if instance == "default" {
                "hashplane-ipvs".to_owned()
            } else {
                format!("hashplane-ipvs-{instance}")
            };
            FamilyTable::new(Rules { family, masquerade_bit }, name)
        };
        Self {
            device_name: device::name(instance),
            tables: FAMILIES.map(table),
            open: None,
            generation: None,
        }
    }

    fn open(&mut self) -> Result<&mut Open, IpvsError> {
        if self.open.is_none() {
            self.open = Some(Open {
                services: Services::open()?,
                device: Device::open(self.device_name.clone())?,
                netfilter: Netfilter::open()?,
            });
        }
        self.open.as_mut().ok_or(IpvsError::Missing)
    }

    const fn table(&self, family: Family) -> &FamilyTable {
        match family {
            Family::V4 => &self.tables[0],
            Family::V6 => &self.tables[1],
        }
    }

    /// Reads the tables, unless nobody can have changed them.
    fn read_tables(&mut self, all: bool, seen: &mut Seen) -> Result<(), IpvsError> {
        let known = self.generation;
        let tables = self.tables.clone();
        let open = self.open()?;
        let generation = open.netfilter.generation()?;
        if !all && known == Some(generation) {
            seen.elements = FAMILIES.map(|family| (family, None)).into();
            return Ok(());
        }
        for (family, table) in FAMILIES.into_iter().zip(&tables) {
            let mut elements = None;
            if table.is_sound(&mut open.netfilter)? {
                elements = table.elements(&mut open.netfilter)?;
            }
            if elements.is_none() {
                seen.broken.insert(family);
            }
            seen.elements.insert(family, elements);
        }
        self.generation = Some(generation);
        Ok(())
    }
}

fn scheduling(name: &str, persistence_s: Option<u32>) -> Option<Scheduling> {
    let scheduler =
        [Scheduler::RoundRobin, Scheduler::Maglev].into_iter().find(|it| it.name() == name)?;
    Some(Scheduling { scheduler, persistence_s })
}

impl System for Host {
    fn prepare(&mut self) -> Result<(), IpvsError> {
        let open = self.open()?;
        settings::make()?;
        open.services.remember_tcp(settings::TCP_TIMEOUT_S)
    }

    fn observe(&mut self, which: Which<'_>, all: bool) -> Result<Seen, IpvsError> {
        let mut seen = Seen::default();
        self.read_tables(all, &mut seen)?;
        let open = self.open()?;
        for service in open.services.list()? {
            let is_read = match which {
                Which::All => true,
                Which::Of(keys) => keys.contains(&service.key),
            };
            let destinations =
                if is_read { Some(open.services.destinations(&service.key)?) } else { None };
            let found = Found {
                scheduling: scheduling(&service.scheduler, service.persistence_s),
                is_ours: service.is_ours,
                destinations,
            };
            seen.servers.insert(service.key, found);
        }
        seen.addresses = open.device.addresses()?;
        Ok(seen)
    }

    fn destinations(
        &mut self,
        key: &ServerKey,
    ) -> Result<BTreeMap<SocketAddr, SeenDestination>, IpvsError> {
        self.open()?.services.destinations(key)
    }

    fn change_servers(&mut self, steps: &[Step]) -> Result<(), Stopped> {
        let open = self.open().map_err(|error| Stopped { done: 0, error })?;
        open.services.change(steps)
    }

    fn change_address(&mut self, address: IpAddr, comes: bool) -> Result<(), IpvsError> {
        self.open()?.device.change(address, comes)
    }

    fn change_table(&mut self, family: Family, change: &Transaction) -> Result<(), IpvsError> {
        let table = self.table(family).clone();
        let known = self.generation.take();
        let open = self.open()?;
        let before = open.netfilter.generation()?;
        table.change(&mut open.netfilter, change)?;
        let after = open.netfilter.generation()?;
        // Only our own transaction lies between: what we knew, we know.
        let is_ours = known == Some(before) && after == before.wrapping_add(1);
        self.generation = is_ours.then_some(after);
        Ok(())
    }

    fn remove(&mut self) -> Result<(), IpvsError> {
        let tables = self.tables.clone();
        self.generation = None;
        let open = self.open()?;
        open.device.remove()?;
        for table in &tables {
            table.remove(&mut open.netfilter)?;
        }
        Ok(())
    }
}

/// What an instance has left in the kernel, if anything.
pub fn leftovers(instance: &str) -> Result<bool, IpvsError> {
    let mut host = Host::new(instance, super::treatment::MASQUERADE);
    let found = host.observe(Which::Of(&BTreeSet::new()), true)?;
    let has_table = found.broken.len() < FAMILIES.len();
    Ok(has_table
        || !found.addresses.is_empty()
        || found.servers.values().any(|server| server.is_ours))
}

#[cfg(test)]
mod tests;
