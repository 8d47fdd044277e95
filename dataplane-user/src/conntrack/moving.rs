//! Takes running connections along when another backend takes over.
//!
//! [`Moving::begin`] is called while the old backend still serves and the new one is programmed, but
//! before programs are attached (to eBPF) or detached (from eBPF); [`Moving::finish`] once only the
//! new one serves. In between, a packet may meet either of them, and finds its way with both.

mod frontends;

use std::{collections::BTreeMap, io};

use dataplane_common::{Config, Flow, FlowKey, V4, V6, names};

use self::frontends::Frontends;
use super::{
    Entry, Table, convert,
    entry::status,
    guard::{self, Guard},
};
use crate::{
    backend::{Mode, Node},
    ebpf::maps::{MapError, MapWriter},
    model::Family,
    netlink,
};

/// Why connections stay behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Connection tracking, or the tables that help.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The maps.
    #[error(transparent)]
    Maps(#[from] MapError),
    /// The clock of flows.
    #[error("cannot read the clock")]
    Clock(#[source] io::Error),
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// The new backend has them.
    pub moved: usize,
    /// The kernel goes on translating them by itself, until they end.
    pub kept: usize,
}

/// Connections on their way.
#[derive(Debug)]
pub struct Moving {
    table: Table,
    instance: String,
    to: Mode,
    /// Entries that the programs' flows stand for, once these are attached.
    leaving: Vec<Entry>,
    moved: Moved,
}

impl Moving {
    /// Lets the new backend know the connections of the old one. `maps` are those of the programs,
    /// where one of both is eBPF.
    pub fn begin(
        (from, to): (Mode, Mode),
        maps: Option<&mut impl MapWriter>,
        node: &Node,
        instance: &str,
    ) -> Result<Self, Error> {
        let mut moving = Self {
            table: Table::open()?,
            instance: instance.to_owned(),
            to,
            leaving: Vec::new(),
            moved: Moved::default(),
        };
        match (from, to, maps) {
            (Mode::Nftables | Mode::Iptables | Mode::Ipvs, Mode::Ebpf, Some(maps)) => {
                moving.into_flows(maps, node)?;
            }
            (Mode::Ebpf, Mode::Nftables | Mode::Iptables | Mode::Ipvs, Some(maps)) => {
                moving.into_entries(maps, to)?;
            }
            (Mode::Ipvs, Mode::Nftables | Mode::Iptables, _) => moving.translate()?,
            (Mode::Nftables | Mode::Iptables, Mode::Ipvs, _) => moving.keep(to)?,
            // Both read the same table of connections, or there is nothing to read.
            (Mode::Nftables | Mode::Iptables, Mode::Nftables | Mode::Iptables, _)
            | (Mode::Ipvs, Mode::Ipvs, _)
            | (Mode::Ebpf, Mode::Ebpf, _)
            | (Mode::Ebpf, _, None)
            | (_, Mode::Ebpf, None) => {}
        }
        Ok(moving)
    }

    /// Only the new backend serves now: takes away what was needed for the way.
    pub fn finish(mut self) -> Result<Moved, Error> {
        for entry in &self.leaving {
            self.table.delete(entry)?;
        }
        Guard::Untracked.lower(&mut self.table.socket, &self.instance)?;
        match self.to {
            // They have chains of type nat of their own.
            Mode::Nftables | Mode::Iptables => {
                Guard::Translating.lower(&mut self.table.socket, &self.instance)?;
            }
            Mode::Ebpf | Mode::Ipvs => {}
        }
        Ok(self.moved)
    }

    /// The old backend serves on: as if nothing had been.
    pub fn abandon(mut self) -> Result<(), Error> {
        Guard::Untracked.lower(&mut self.table.socket, &self.instance)?;
        Ok(Guard::Translating.lower(&mut self.table.socket, &self.instance)?)
    }

    /// Tracked connections into flows, before the programs are attached.
    ///
    /// What the programs would not see (sockets of the host) or would not find (answers to another
    /// address or port than theirs, services that are gone) the kernel goes on translating.
    #[expect(clippy::wrong_self_convention, reason = "connections go into flows, not this")]
    fn into_flows(&mut self, maps: &mut impl MapWriter, node: &Node) -> Result<(), Error> {
        let config = maps.lookup::<u32, Config>(names::CONFIG, &0)?.unwrap_or_default();
        let now = now_ticks().map_err(Error::Clock)?;
        let mut entries = self.table.entries(Family::V4)?;
        entries.extend(self.table.entries(Family::V6)?);
        entries.retain(|entry| entry.endpoint().is_some());
        let mut frontends = Frontends::new(node);
        let (mut v4, mut v6, mut halves) = (Vec::new(), Vec::new(), Vec::new());
        for entry in entries {
            let known = if is_hosts(&entry, node) { None } else { frontends.find(maps, &entry)? };
            let Some(known) = known else {
                self.moved.kept += 1;
                continue;
            };
            let (four, six) =
                (convert::flow::<V4>(&entry, known, now), convert::flow::<V6>(&entry, known, now));
            if four.is_none() && six.is_none() {
                continue;
            }
            v4.extend(four.into_iter().flatten());
            v6.extend(six.into_iter().flatten());
            match entry.masquerade() {
                Some(source) if !convert::is_in_reach(&config, source) => halves.push(entry),
                _ => self.leaving.push(entry),
            }
        }
        self.moved = Moved { moved: self.leaving.len() + halves.len(), kept: self.moved.kept };
        if self.moved.kept + halves.len() > 0 {
            guard::keep_translating(&mut self.table.socket, &self.instance)?;
        }
        for entry in &halves {
            self.table.loosen(entry)?;
        }
        let direct = self.leaving.iter().filter(|entry| entry.masquerade().is_none());
        let direct: Vec<Entry> = direct.copied().collect();
        guard::untrack(&mut self.table.socket, &self.instance, &direct)?;
        write(maps, names::FLOWS4, &v4)?;
        write(maps, names::FLOWS6, &v6)
    }

    /// Flows into tracked connections, before the programs are detached.
    #[expect(clippy::wrong_self_convention, reason = "connections go into entries, not this")]
    fn into_entries(&mut self, maps: &mut impl MapWriter, to: Mode) -> Result<(), Error> {
        let mut entries = read::<V4>(maps, names::FLOWS4)?;
        entries.extend(read::<V6>(maps, names::FLOWS6)?);
        let direct = entries.iter().filter(|entry| entry.masquerade().is_none());
        let direct: Vec<Entry> = direct.copied().collect();
        guard::untrack(&mut self.table.socket, &self.instance, &direct)?;
        if to == Mode::Ipvs && !entries.is_empty() {
            guard::keep_translating(&mut self.table.socket, &self.instance)?;
        }
        for entry in &entries {
            self.track(entry)?;
        }
        self.moved.moved = entries.len();
        Ok(())
    }

    /// What IPVS translated and connection tracking only noted, the kernel translates from now on.
    fn translate(&mut self) -> Result<(), Error> {
        for of in [Family::V4, Family::V6] {
            for entry in self.table.entries(of)? {
                let noted = entry.status & status::DESTINATION_NAT == 0;
                if entry.endpoint().is_some() && noted {
                    self.track(&entry)?;
                    self.moved.moved += 1;
                }
            }
        }
        Ok(())
    }

    /// Nothing of the new backend translates what is tracked, so somebody else has to.
    fn keep(&mut self, to: Mode) -> Result<(), Error> {
        debug_assert_eq!(to, Mode::Ipvs);
        for of in [Family::V4, Family::V6] {
            let entries = self.table.entries(of)?;
            self.moved.kept += entries.iter().filter(|entry| entry.endpoint().is_some()).count();
        }
        if self.moved.kept > 0 {
            guard::keep_translating(&mut self.table.socket, &self.instance)?;
        }
        Ok(())
    }

    /// Makes an entry, in the place of those that have its packets now.
    fn track(&mut self, entry: &Entry) -> Result<(), Error> {
        /// A packet may make another one in between; it has to be quick.
        const TRIES: u32 = 8;
        for _ in 0..TRIES {
            self.table.forget(entry.original, entry.protocol)?;
            self.table.forget(entry.reply, entry.protocol)?;
            if self.table.create(entry)? {
                break;
            }
        }
        Ok(())
    }
}

/// Removes the table that keeps the kernel translating once nothing is translated any more; whether
/// it is gone. Reads the table of connections: not for every second.
pub fn release(instance: &str) -> Result<bool, Error> {
    let mut table = Table::open()?;
    if !Guard::Translating.is_up(&mut table.socket, instance)? {
        return Ok(true);
    }
    for of in [Family::V4, Family::V6] {
        if table.entries(of)?.iter().any(|entry| entry.endpoint().is_some()) {
            return Ok(false);
        }
    }
    Guard::Translating.lower(&mut table.socket, instance)?;
    Ok(true)
}

/// Removes what a process that died may have left on the way, and what it kept.
pub fn clear(instance: &str) -> Result<(), Error> {
    let mut table = Table::open()?;
    Guard::Untracked.lower(&mut table.socket, instance)?;
    Guard::Translating.lower(&mut table.socket, instance)?;
    Ok(())
}

/// Whether a socket of the host began it: programs on devices never see its packets.
fn is_hosts(entry: &Entry, node: &Node) -> bool {
    let client = entry.original.source.ip();
    client.is_loopback() || node.addresses.contains(&client)
}

fn write<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
    halves: &[(FlowKey<N>, Flow<N>)],
) -> Result<(), Error> {
    let (keys, flows): (Vec<_>, Vec<_>) = halves.iter().copied().unzip();
    Ok(maps.update(map, &keys, &flows)?)
}

fn read<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
) -> Result<Vec<Entry>, MapError> {
    let flows: BTreeMap<FlowKey<N>, Flow<N>> = maps.entries(map)?.into_iter().collect();
    let entry = |(key, flow): (&FlowKey<N>, &Flow<N>)| {
        let answers = flows.get(&key.partner(&flow.to)).map_or(0, |partner| {
            let fin = if partner.flags & Flow::<N>::FIN == 0 { 0 } else { Flow::<N>::PARTNER_FIN };
            partner.flags | fin
        });
        convert::entry(key, flow, answers)
    };
    Ok(flows.iter().filter_map(entry).collect())
}

fn now_ticks() -> io::Result<u32> {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?;
    let now_ns = u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or(u64::MAX);
    Ok(dataplane_common::flow::tick(now_ns))
}

#[cfg(test)]
mod tests;
