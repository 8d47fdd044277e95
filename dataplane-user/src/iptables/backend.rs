//! The iptables backend as the loop drives it: a program, and what the kernel holds of it.

mod drift;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{
    command::{CommandError, Tools, Variant},
    limits,
    localnet::Localnet,
    observe::{self, Seen},
    port::Place,
    program::{MASQUERADE_MARK, Program},
    restore::{Kernel, Restore, removal, restore, whole},
};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Mode, Node, ServicePort,
        Upkeep,
    },
    model::{Family, PortKey, PortState},
};

/// So many service ports may be refused by one apply before it gives up until the next.
const REFUSED_MAX: usize = 8;

/// Reading everything back may take one part in so many of all time.
const LOOK_SHARE: u32 = 100;

/// Why the kernel does not hold what the program says.
#[derive(Debug, thiserror::Error)]
pub enum IptablesError {
    /// What the kernel holds cannot be read.
    #[error("cannot read the rules of {}", name(*.0))]
    Observe(Family, #[source] CommandError),
    /// It cannot be changed.
    #[error("cannot write the rules of {}", name(*.0))]
    Restore(Family, #[source] CommandError),
    /// The rules of one service port are refused; all others are in place.
    #[error("cannot serve port '{}' of {}/{}, all others are served", .0.port, .0.namespace, .0.service)]
    Refused(Box<PortKey>, #[source] Box<CommandError>),
}

const fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Rules of `iptables` and `ip6tables`.
#[derive(Debug)]
pub struct Iptables {
    instance: String,
    program: Program,
    tools: Tools,
    /// Which implementation was asked for, and which one is used.
    asked: Option<Variant>,
    variant: Variant,
    v4: Kernel,
    v6: Kernel,
    /// What another implementation holds of ours: it goes once this one holds everything.
    stale: Vec<(Family, Variant, Kernel)>,
    limits: BTreeMap<PortKey, Vec<&'static str>>,
    nobody: BTreeMap<PortKey, CapacityError>,
    departed: Vec<Departed>,
    localnet: Localnet,
    looked: Option<(Instant, Duration)>,
    /// Families of which a restore failed: one table may have been written and the other not.
    unsure: BTreeSet<Family>,
}

impl Iptables {
    /// A backend that has not looked at the kernel yet. Without a variant it takes the one that the
    /// node uses already.
    pub fn new(instance: &str, variant: Option<Variant>) -> Self {
        Self::with_tools(instance, variant, Tools::default())
    }

    /// With another bit of the mark that says "masquerade".
    #[must_use]
    pub fn with_masquerade_bit(mut self, bit: u32) -> Self {
        self.program = Program::new(&self.instance, bit);
        self
    }

    /// One whose commands are found elsewhere.
    pub fn with_tools(instance: &str, variant: Option<Variant>, tools: Tools) -> Self {
        Self {
            instance: instance.to_owned(),
            program: Program::new(instance, MASQUERADE_MARK),
            tools,
            asked: variant,
            variant: variant.unwrap_or(Variant::Default),
            v4: Kernel::default(),
            v6: Kernel::default(),
            stale: Vec::new(),
            limits: BTreeMap::new(),
            nobody: BTreeMap::new(),
            departed: Vec::new(),
            localnet: Localnet::default(),
            looked: None,
            unsure: BTreeSet::new(),
        }
    }

    /// What the kernel should hold, for people: what `iptables-restore` and `ip6tables-restore`
    /// would read if it held nothing.
    pub fn render(&self) -> String {
        let of = |family| whole(self.program.half(family), &self.program.fixed);
        format!("# iptables\n{}# ip6tables\n{}", of(Family::V4), of(Family::V6))
    }

    /// The implementation that is used.
    pub const fn variant(&self) -> Variant {
        self.variant
    }

    #[cfg(test)]
    pub(super) const fn program(&self) -> &Program {
        &self.program
    }

    /// Lets the next [`Backend::upkeep`] look, however long the last one took.
    #[cfg(test)]
    pub(super) const fn look_soon(&mut self) {
        self.looked = None;
    }

    const fn kernel(&mut self, family: Family) -> &mut Kernel {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Whether a family has services, or had some.
    pub(super) fn is_used(&self, family: Family) -> bool {
        let kernel = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        self.program.half(family).has_fronts() || !kernel.is_empty()
    }

    fn see(&self, family: Family, variant: Variant) -> Result<Seen, CommandError> {
        let text = self.tools.save(family, variant)?;
        Ok(observe::read(&text, &self.program.fixed.names))
    }

    /// What each implementation holds of one family. One that is not there holds nothing.
    fn see_all(&self, family: Family) -> Result<BTreeMap<Variant, Seen>, IptablesError> {
        let mut all = BTreeMap::new();
        for variant in [Variant::Nft, Variant::Legacy] {
            match self.see(family, variant) {
                Ok(seen) => drop(all.insert(variant, seen)),
                Err(CommandError::Missing { .. }) => {}
                Err(_) if self.asked.is_some_and(|asked| asked != variant) => {}
                Err(error) => return Err(IptablesError::Observe(family, error)),
            }
        }
        Ok(all)
    }

    /// The one that was asked for, else that of the kubelet, else the one with more rules.
    fn pick(&self, seen: &BTreeMap<Variant, Seen>) -> Variant {
        if let Some(asked) = self.asked {
            return asked;
        }
        let hinted = seen.iter().find(|(_, seen)| seen.is_hinted);
        // Of two with as many rules the first is taken.
        let most = seen.iter().rev().max_by_key(|(_, seen)| seen.rules);
        let most = most.filter(|(_, seen)| seen.rules > 0);
        hinted.or(most).map_or(Variant::Default, |(variant, _)| *variant)
    }

    /// Writes what differs in one family; one service port that is refused does not stop the others.
    fn restore(&mut self, family: Family, applied: &mut Applied) -> Result<(), IptablesError> {
        let mut refused = None;
        for _ in 0..REFUSED_MAX {
            if self.unsure.contains(&family) {
                self.look(family)?;
                self.unsure.remove(&family);
            }
            let restore = self.difference(family);
            let result = if restore.text.is_empty() {
                Ok(())
            } else {
                self.tools.restore(family, self.variant, &restore.text)
            };
            if result.is_err() {
                self.unsure.insert(family);
            }
            match result {
                Ok(()) => {
                    applied.written += restore.written;
                    applied.deleted += restore.deleted;
                    self.kernel(family).took(restore);
                    self.program.half_mut(family).changed.clear();
                    return refused.map_or(Ok(()), |(key, error)| {
                        Err(IptablesError::Refused(Box::new(key), Box::new(error)))
                    });
                }
                Err(CommandError::Line { program, line, rule, said }) => {
                    let key = self.program.key_of_line(family, &rule);
                    let error = CommandError::Line { program, line, rule, said };
                    let Some(key) = key else { return Err(IptablesError::Restore(family, error)) };
                    self.program.change(&key, None);
                    self.limits.insert(key.clone(), vec![limits::REFUSED]);
                    refused.get_or_insert((key, error));
                }
                Err(error) => return Err(IptablesError::Restore(family, error)),
            }
        }
        match refused {
            Some((key, error)) => Err(IptablesError::Refused(Box::new(key), Box::new(error))),
            None => Ok(()),
        }
    }

    /// Compares what we know of the kernel with what it holds, and marks what differs.
    fn look(&mut self, family: Family) -> Result<usize, IptablesError> {
        let seen = self
            .see(family, self.variant)
            .map_err(|error| IptablesError::Observe(family, error))?;
        let (places, hooks) = self.kernel(family).correct(&seen);
        let drifted = places.len() + hooks;
        let half = self.program.half_mut(family);
        half.changed.extend(places);
        if hooks > 0 {
            // Something has to be pending for an apply to come, which compares the hooks too.
            half.changed.extend(half.chains.keys().next().cloned());
        }
        Ok(drifted)
    }

    fn difference(&self, family: Family) -> Restore {
        let kernel = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let half = self.program.half(family);
        restore(half, &self.program.fixed, kernel, &half.changed)
    }

    /// Removes what another implementation holds, now that this one holds everything.
    fn remove_stale(&mut self) -> Result<(), IptablesError> {
        while let Some((family, variant, kernel)) = self.stale.last() {
            let removal = removal(kernel);
            self.tools
                .restore(*family, *variant, &removal.text)
                .map_err(|error| IptablesError::Restore(*family, error))?;
            self.stale.pop();
        }
        Ok(())
    }

    /// Marks whatever is known of the kernel or in the program: the next apply compares.
    fn mark_all(&mut self, family: Family) {
        let places: Vec<Place> = self.kernel(family).chains.keys().cloned().collect();
        let half = self.program.half_mut(family);
        half.changed.extend(places);
        let own: Vec<Place> = half.chains.keys().cloned().collect();
        half.changed.extend(own);
    }

    fn note_limits(&mut self, key: &PortKey, state: Option<&PortState>) {
        let limits = state.map(|state| limits::of(key, state)).unwrap_or_default();
        if limits.is_empty() {
            self.limits.remove(key);
        } else {
            self.limits.insert(key.clone(), limits);
        }
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Backend for Iptables {
    fn mode(&self) -> Mode {
        Mode::Iptables
    }

    fn observe(&mut self) -> Result<(), Error> {
        let mut v4 = self.see_all(Family::V4)?;
        let mut v6 = self.see_all(Family::V6)?;
        self.variant = self.pick(&v4);
        if v4.is_empty() || self.variant == Variant::Default {
            // It is one of those that were asked, or the only one there is.
            let see = |family| self.see(family, Variant::Default);
            let default =
                see(Family::V4).map_err(|error| IptablesError::Observe(Family::V4, error))?;
            v4.insert(Variant::Default, default);
            if let Ok(default) = see(Family::V6) {
                v6.insert(Variant::Default, default);
            }
        }
        self.stale.clear();
        for (family, mut all) in [(Family::V4, v4), (Family::V6, v6)] {
            let variant = self.variant;
            let own = all.remove(&variant).unwrap_or_default();
            *self.kernel(family) = Kernel::of(&own);
            let others = all.iter().map(|(of, seen)| (family, *of, Kernel::of(seen)));
            self.stale.extend(others.filter(|(_, _, kernel)| !kernel.is_empty()));
            self.mark_all(family);
        }
        Ok(())
    }

    fn set_node(&mut self, node: &Node) {
        self.program.set_node(node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        self.limits.clear();
        self.program.compile(table);
        for key in table.keys() {
            self.note_limits(&key, table.port(&key).as_ref());
        }
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.program.change(key, state);
        self.note_limits(key, state);
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        self.differences(max)
    }

    fn pending(&self) -> usize {
        let used = FAMILIES.into_iter().filter(|family| self.is_used(*family));
        used.map(|family| self.program.half(family).changed.len()).sum::<usize>() + self.stale.len()
    }

    fn apply(&mut self, _now_ms: u64) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let mut first = None;
        for family in FAMILIES {
            if self.is_used(family)
                && let Err(error) = self.restore(family, &mut applied)
            {
                first.get_or_insert(error);
            }
        }
        if let Some(error) = first {
            return Err(error.into());
        }
        if self.program.node.loopback && self.is_used(Family::V4) {
            self.localnet.allow();
        }
        self.remove_stale()?;
        self.departed.append(&mut self.program.take_departed());
        Ok(applied)
    }

    /// Reads everything back, unless that took long and not long ago.
    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        if let Some((at, took)) = self.looked
            && at.elapsed() < took * LOOK_SHARE
        {
            return Ok(Upkeep::default());
        }
        let start = Instant::now();
        let mut drifted = 0;
        for family in FAMILIES {
            if !self.is_used(family) {
                continue;
            }
            drifted += self.look(family)?;
        }
        self.looked = Some((start, start.elapsed()));
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
        Some(&self.limits)
    }

    fn contested(&self) -> usize {
        self.program.contested()
    }

    /// Both implementations, since either may hold something of ours.
    fn remove(&mut self) -> Result<(), Error> {
        let mut removed = BTreeSet::new();
        for family in FAMILIES {
            for variant in [Variant::Nft, Variant::Legacy, Variant::Default] {
                if variant == Variant::Default && !removed.is_empty() {
                    continue;
                }
                let seen = match self.see(family, variant) {
                    Ok(seen) => seen,
                    Err(CommandError::Missing { .. }) => continue,
                    Err(error) => return Err(IptablesError::Observe(family, error).into()),
                };
                removed.insert(variant);
                let kernel = Kernel::of(&seen);
                if !kernel.is_empty() {
                    self.tools
                        .restore(family, variant, &removal(&kernel).text)
                        .map_err(|error| IptablesError::Restore(family, error))?;
                }
            }
            *self.kernel(family) = Kernel::default();
            self.mark_all(family);
        }
        self.stale.clear();
        self.localnet.forbid();
        Ok(())
    }
}
