//! A backend of rules, and the connection tracking that its rules need.

use std::collections::{BTreeMap, BTreeSet};

use super::{place::Places, stale::Frontends, table::Table};
use crate::{
    backend::{
        Applied, Backend, CapacityError, Departed, Desired, Drift, Error, Fill, Mode, Needs, Node,
        ServicePort, Upkeep,
    },
    model::{Family, PortKey, PortState, Scope},
    netlink,
};

/// A backend whose rules look only at the first packet of a flow. After each apply that could make
/// tracked datagrams go where the rules no longer send them, those entries are deleted.
#[derive(Debug)]
pub struct Tended<B> {
    rules: B,
    frontends: Frontends,
    table: Option<(Table, Places)>,
    node: Node,
}

impl<B: Backend> Tended<B> {
    /// Looks after the entries of these rules.
    pub fn new(rules: B) -> Self {
        Self { rules, frontends: Frontends::default(), table: None, node: Node::default() }
    }

    /// Deletes the entries that lie; how many. The rules are right already.
    fn clean(&mut self) -> Result<usize, netlink::Error> {
        let (table, places) = match &mut self.table {
            Some(opened) => opened,
            none @ None => none.insert((Table::open()?, Places::open()?)),
        };
        places.set_node(&self.node);
        let mut deleted = 0;
        for family in [Family::V4, Family::V6] {
            for entry in table.entries(family)? {
                // A client whose way nobody knows is gone or comes from outside.
                let scope = |client| places.scope(client).unwrap_or(Scope::Outside);
                if self.frontends.is_stale(&entry, scope) {
                    deleted += usize::from(table.delete(&entry)?);
                }
            }
        }
        Ok(deleted)
    }
}

impl<B: Backend> Backend for Tended<B> {
    fn mode(&self) -> Mode {
        self.rules.mode()
    }

    fn observe(&mut self) -> Result<(), Error> {
        self.rules.observe()
    }

    fn set_node(&mut self, node: &Node) {
        self.frontends.set_node(node);
        self.node.clone_from(node);
        self.rules.set_node(node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        let keys: BTreeSet<PortKey> = table.keys().collect();
        let gone: Vec<PortKey> =
            self.frontends.keys().filter(|key| !keys.contains(*key)).cloned().collect();
        for key in &gone {
            self.frontends.change(key, None);
        }
        for key in &keys {
            self.frontends.change(key, table.port(key).as_ref());
        }
        self.rules.compile(table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.frontends.change(key, state);
        self.rules.change(key, state);
    }

    fn reclaim(&mut self, now_ms: u64) -> bool {
        self.rules.reclaim(now_ms)
    }

    fn retry(&mut self, table: &dyn Desired) {
        self.rules.retry(table);
    }

    fn is_resting(&self) -> bool {
        self.rules.is_resting()
    }

    fn drift(&self, max: usize) -> (usize, Vec<Drift>) {
        self.rules.drift(max)
    }

    fn pending(&self) -> usize {
        self.rules.pending() + usize::from(self.frontends.is_due())
    }

    fn apply(&mut self, now_ms: u64) -> Result<Applied, Error> {
        let applied = self.rules.apply(now_ms)?;
        if self.frontends.is_due() {
            let deleted = self.clean()?;
            self.frontends.done();
            if deleted > 0 {
                tracing::info!(deleted, "tracked datagrams may choose their endpoint again");
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
        self.rules.remove()
    }
}
