//! The nftables backend as the loop drives it.

mod drift;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    batch::Batch,
    edits::Edits,
    half::Half,
    image::{Difference, Image},
    object::Table,
    program::{MASQUERADE_BIT, Program},
    socket::{Netfilter, NftablesError},
    sysctl,
    write::{edit, replace},
};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Mode, Node, ServicePort,
        Upkeep,
    },
    model::{Family, PortKey, PortState},
};

/// Looking at all elements takes at most one part in so many of the time.
const LOOK_SHARE: u32 = 20;

/// Our tables, one per family.
#[derive(Debug)]
pub struct Nftables {
    v4: Table,
    v6: Table,
    program: Program,
    kernel: Option<Netfilter>,
    /// What the tables held when they were last read, until that is compared with the program.
    seen: Option<Seen>,
    /// The kernel's generation in which the tables were as the program says.
    generation: Option<u32>,
    /// When the last look at all elements ended, and how long it took.
    looked: Option<(Instant, Duration)>,
}

/// What the tables held.
#[derive(Debug)]
struct Seen {
    v4: Option<Image>,
    v6: Option<Image>,
    generation: u32,
}

impl Nftables {
    /// A backend that has not looked at its tables yet. Instances have tables of their own.
    pub fn new(instance: &str) -> Self {
        let name = match instance {
            "default" => "hashplane".to_owned(),
            other => format!("hashplane-{other}"),
        };
        Self {
            v4: Table { family: Family::V4, name: name.clone() },
            v6: Table { family: Family::V6, name },
            program: Program::new(MASQUERADE_BIT),
            kernel: None,
            seen: None,
            generation: None,
            looked: None,
        }
    }

    /// With another bit of the mark that says "masquerade".
    #[must_use]
    pub fn with_masquerade_bit(mut self, bit: u32) -> Self {
        self.program = Program::new(bit);
        self
    }

    /// What the tables should hold.
    pub fn program(&self) -> &Program {
        &self.program
    }

    fn read(&mut self) -> Result<Seen, NftablesError> {
        let kernel = open(&mut self.kernel)?;
        let generation = kernel.generation()?;
        let v4 = Image::read(kernel, &self.v4, &self.program.v4)?;
        let v6 = Image::read(kernel, &self.v6, &self.program.v6)?;
        Ok(Seen { v4, v6, generation })
    }

    /// One transaction that makes the tables right.
    fn commit(&mut self) -> Result<Applied, NftablesError> {
        if self.seen.is_none()
            && (self.program.v4.edits.is_none() || self.program.v6.edits.is_none())
        {
            self.seen = Some(self.read()?);
        }
        let seen = self.seen.take();
        let mut batch = Batch::new();
        let generation = seen.as_ref().map(|seen| seen.generation).or(self.generation);
        let (seen4, seen6) = seen.map_or((None, None), |seen| (seen.v4, seen.v6));
        let mut applied = write(&mut batch, &self.v4, &mut self.program.v4, seen4);
        let more = write(&mut batch, &self.v6, &mut self.program.v6, seen6);
        applied.written += more.written;
        applied.deleted += more.deleted;
        let kernel = open(&mut self.kernel)?;
        let before = kernel.transactions();
        if let Err(error) = kernel.commit(&batch) {
            // Somebody else may have changed what the edits begin with.
            self.program.v4.edits = None;
            self.program.v6.edits = None;
            return Err(error);
        }
        let ours = kernel.transactions().wrapping_sub(before);
        let after = kernel.generation()?;
        let expected = generation.map(|generation| generation.wrapping_add(ours));
        // Otherwise somebody else was at work too, and upkeep will look at what they did.
        self.generation = if expected == Some(after) { expected } else { generation };
        self.program.v4.edits = Some(Edits::default());
        self.program.v6.edits = Some(Edits::default());
        Ok(applied)
    }

    /// Compares all elements; says how many were not as the program says.
    fn look(&mut self, generation: u32) -> Result<usize, NftablesError> {
        let begun = Instant::now();
        let mut seen = self.read()?;
        let drifted = compare(&mut self.program.v4, &mut seen.v4)
            + compare(&mut self.program.v6, &mut seen.v6);
        self.looked = Some((Instant::now(), begun.elapsed()));
        self.generation = Some(generation);
        if self.program.v4.edits.is_none() || self.program.v6.edits.is_none() {
            self.seen = Some(seen);
        }
        Ok(drifted)
    }
}

fn open(kernel: &mut Option<Netfilter>) -> Result<&mut Netfilter, NftablesError> {
    match kernel {
        Some(kernel) => Ok(kernel),
        none => Ok(none.insert(Netfilter::open()?)),
    }
}

/// Writes what one table needs.
fn write<const N: usize>(
    batch: &mut Batch,
    table: &Table,
    half: &mut Half<N>,
    seen: Option<Image>,
) -> Applied {
    if half.edits.is_none() {
        match seen.map(|seen| seen.difference(half)) {
            None | Some(Difference::Shape(_)) => return replace(batch, table, half),
            Some(Difference::Edits(edits)) => half.edits = Some(edits),
        }
    }
    half.edits.as_ref().map(|edits| edit(batch, table, half, edits)).unwrap_or_default()
}

/// Makes pending what is not as it should be, and counts it.
fn compare<const N: usize>(half: &mut Half<N>, seen: &mut Option<Image>) -> usize {
    let Some(image) = seen else {
        half.edits = None;
        return half.len() + half.chains.len();
    };
    match image.difference(half) {
        Difference::Shape(places) => {
            half.edits = None;
            places
        }
        Difference::Edits(edits) => {
            let drifted = edits.count();
            half.edits = Some(edits);
            drifted
        }
    }
}

impl Backend for Nftables {
    fn mode(&self) -> Mode {
        Mode::Nftables
    }

    fn observe(&mut self) -> Result<(), Error> {
        let seen = self.read()?;
        self.program.v4.seen = seen.v4.as_ref().map(Image::seen).unwrap_or_default();
        self.program.v6.seen = seen.v6.as_ref().map(Image::seen).unwrap_or_default();
        self.program.v4.edits = None;
        self.program.v6.edits = None;
        self.seen = Some(seen);
        Ok(())
    }

    fn set_node(&mut self, node: &Node) {
        self.program.set_node(node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        self.program.compile(table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.program.change(key, state);
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        self.differences(max)
    }

    fn pending(&self) -> usize {
        self.program.pending()
    }

    fn apply(&mut self, _now_ms: u64) -> Result<Applied, Error> {
        if self.program.pending() == 0 {
            return Ok(Applied::default());
        }
        sysctl::route_localnet(&self.program)?;
        let result = self.commit();
        match result {
            Err(error) if was_changed(&error) => Ok(self.commit()?),
            result => Ok(result?),
        }
    }

    /// Compares the tables with the program if anybody has changed any table of the kernel.
    fn upkeep(&mut self) -> Result<Upkeep, Error> {
        if self.program.pending() > 0 {
            return Ok(Upkeep::default());
        }
        let generation = open(&mut self.kernel)?.generation()?;
        let rests = |(ended, took): (Instant, Duration)| ended.elapsed() < took * LOOK_SHARE;
        if self.generation == Some(generation) || self.looked.is_some_and(rests) {
            return Ok(Upkeep::default());
        }
        Ok(Upkeep { flow_entries: 0, drifted: self.look(generation)? })
    }

    fn take_departed(&mut self) -> Vec<Departed> {
        self.program.take_departed()
    }

    fn services(&self) -> Vec<ServicePort> {
        self.program.services()
    }

    fn left_out(&self) -> &BTreeMap<PortKey, CapacityError> {
        self.program.left_out()
    }

    fn limits(&self) -> Option<&BTreeMap<PortKey, Vec<&'static str>>> {
        Some(self.program.limits())
    }

    fn remove(&mut self) -> Result<(), Error> {
        let kernel = open(&mut self.kernel)?;
        let mut batch = Batch::new();
        for table in [&self.v4, &self.v6] {
            // Adding what is there changes nothing, and deleting what is not is an error.
            batch.add_table(table);
            batch.delete_table(table);
        }
        kernel.commit(&batch)?;
        self.program.v4.edits = None;
        self.program.v6.edits = None;
        self.seen = None;
        self.generation = None;
        Ok(())
    }
}

/// Whether the kernel did not hold what the edits began with.
fn was_changed(error: &NftablesError) -> bool {
    matches!(
        error.errno(),
        Some(libc::ENOENT | libc::EEXIST | libc::EBUSY | libc::ENOTEMPTY | libc::EINTR)
    )
}
