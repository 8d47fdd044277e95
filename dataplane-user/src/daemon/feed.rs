//! From the source into the table: applies events, and keeps the report's problems true.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use tokio::sync::watch;

use super::{Report, Settings, Shared, leaving, settings};
use crate::{
    ebpf::Desired,
    model::{HealthCheck, NodeIdentity, ObjectEvent, PortKey, PortState, ServiceTable},
    source::{ProblemScope, SourceEvent, SourceProblem, standing::Standings, verdict::Standing},
    sync::Table,
};

/// What reaches the table.
#[derive(Clone, Debug)]
pub enum Event {
    /// The source said something.
    Source(SourceEvent),
    /// The node has these addresses now.
    Addresses(BTreeSet<IpAddr>),
}

/// The table, and what is wrong with what it was fed.
#[derive(Debug)]
pub struct Fed {
    table: ServiceTable,
    unread: BTreeMap<ProblemScope, Vec<SourceProblem>>,
    /// Whether the last report named any problem.
    troubled: bool,
    shared: Shared,
    checks: watch::Sender<Vec<HealthCheck>>,
    /// [`ServiceTable::health_version`] of what `checks` holds.
    checks_version: Option<u64>,
    /// Nothing where nobody can be told: manifests have no conditions.
    standings: Option<Standings>,
}

impl Fed {
    /// An empty table for this node.
    pub fn new(settings: &Settings, shared: Shared) -> Self {
        let mut identity = NodeIdentity::new(&settings.node_name, []);
        identity.node_ports = settings.node_ports.clone();
        identity.zone = settings.zone.as_deref().map(Into::into);
        Self {
            table: ServiceTable::new(identity),
            unread: BTreeMap::new(),
            troubled: false,
            shared,
            checks: watch::Sender::new(Vec::new()),
            checks_version: None,
            standings: match settings.source {
                settings::Source::Kubernetes { .. } => Some(Standings::new()),
                settings::Source::Manifests(_) => None,
            },
        }
    }

    /// What is wrong with Services, and what their conditions say.
    pub fn standing(&self) -> Option<watch::Receiver<Standing>> {
        self.standings.as_ref().map(Standings::subscribe)
    }

    /// What load balancers may ask about; nothing before the source has told everything.
    pub fn health_checks(&self) -> watch::Receiver<Vec<HealthCheck>> {
        self.checks.subscribe()
    }

    fn tell_health_checks(&mut self) {
        let version = Some(self.table.health_version());
        if !self.table.is_synced() || self.checks_version == version {
            return;
        }
        self.checks_version = version;
        let checks = self.table.health_checks();
        self.checks.send_if_modified(|told| {
            let changed = *told != checks;
            *told = checks;
            changed
        });
    }

    /// Looks at what the table does not: whether this node leaves, and conditions of Services.
    fn look_at(&mut self, event: &ObjectEvent) {
        if let Some(standings) = &mut self.standings {
            standings.look_at(event);
        }
        let Some(leaves) = leaving::told(event, &self.table.node().name) else { return };
        self.shared.update(|report| {
            if report.node_leaves != leaves {
                tracing::info!(leaves, "whether this node is about to be deleted has changed");
            }
            report.node_leaves = leaves;
        });
    }

    fn report_problems(&mut self) {
        let problems = self.table.problems();
        // While objects are listed, an older Service that takes an address may not be there yet.
        if self.table.is_synced()
            && let Some(standings) = &mut self.standings
        {
            standings.tell(&problems);
        }
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        for problem in problems {
            *counts.entry(problem.cause.name().to_owned()).or_default() += 1;
        }
        for problem in self.unread.values().flatten() {
            *counts.entry(problem.cause.name().to_owned()).or_default() += 1;
        }
        self.troubled = !counts.is_empty();
        self.shared.update(|report: &mut Report| report.problems = counts);
    }
}

impl Desired for Fed {
    fn keys(&self) -> Box<dyn Iterator<Item = PortKey> + '_> {
        Box::new(self.table.keys().into_iter())
    }

    fn port(&self, key: &PortKey) -> Option<PortState> {
        self.table.port(key)
    }
}

impl Table for Fed {
    type Event = Event;

    fn apply(&mut self, event: Event) {
        match event {
            Event::Addresses(addresses) => self.table.set_addresses(addresses),
            Event::Source(SourceEvent::Objects(objects)) => {
                let mut news = false;
                for object in objects {
                    self.look_at(&object);
                    for problem in self.table.apply(object) {
                        news = true;
                        tracing::warn!("{problem}");
                    }
                }
                // Counting costs O(problems and slices): only when there may be something to count.
                news |= self.standings.as_ref().is_some_and(Standings::is_news);
                if news || self.troubled {
                    self.report_problems();
                }
            }
            Event::Source(SourceEvent::Problems { scope, list }) => {
                for problem in &list {
                    tracing::warn!("{problem}");
                }
                if list.is_empty() {
                    self.unread.remove(&scope);
                } else {
                    self.unread.insert(scope, list);
                }
                self.report_problems();
            }
        }
        self.tell_health_checks();
    }

    fn take_changed(&mut self) -> BTreeSet<PortKey> {
        self.table.take_changed()
    }

    fn is_synced(&self) -> bool {
        self.table.is_synced()
    }
}
