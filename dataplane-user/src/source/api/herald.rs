//! Tells the API server what is wrong with its Services: a condition on each, and Events.
//!
//! Every node sees the same problems and would write the same words. Who writes is settled by the
//! time that each node waits before it looks again: mostly the first one writes, and the others
//! find nothing to correct. Only who changed a condition makes Events.

mod writes;

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use kube::Client;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use self::writes::{Outcome, Writes};
use crate::{
    model::ObjectName,
    source::verdict::{Standing, Verdict},
};

/// How often the server is written to.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Nodes spread their first look over this time.
    pub spread: Duration,
    /// Between two Services.
    pub pause: Duration,
    /// Between two writes to one Service, at first and at most: nodes that are configured
    /// differently may disagree for ever.
    pub again: (Duration, Duration),
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            spread: Duration::from_secs(10),
            pause: Duration::from_millis(200),
            again: (Duration::from_secs(2), Duration::from_mins(10)),
        }
    }
}

/// After this time without a write, a Service is treated as new.
const MEMORY: Duration = Duration::from_hours(1);

/// Writes conditions and Events.
pub struct Herald {
    client: Client,
    node_name: Box<str>,
    pace: Pace,
}

impl fmt::Debug for Herald {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Herald").field("pace", &self.pace).finish_non_exhaustive()
    }
}

/// Writes to one Service.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    count: u32,
    last: Instant,
}

/// What is to be done, and what was.
#[derive(Debug, Default)]
struct Plan {
    due: BTreeMap<ObjectName, Instant>,
    attempts: BTreeMap<ObjectName, Attempts>,
    /// What this node said last, where conditions may not be written.
    told: BTreeMap<ObjectName, Verdict>,
}

impl Herald {
    pub(super) fn new(client: Client, node_name: &str) -> Self {
        Self { client, node_name: node_name.into(), pace: Pace::default() }
    }

    /// At another pace.
    #[must_use]
    pub fn with_pace(self, pace: Pace) -> Self {
        Self { pace, ..self }
    }

    /// Writes whatever has to be corrected, until nobody tells how Services stand any more.
    pub async fn run(self, mut standing: watch::Receiver<Standing>) {
        let mut writes = Writes::new(self.client.clone(), &self.node_name);
        let mut plan = Plan::default();
        loop {
            let now = standing.borrow_and_update().clone();
            self.schedule(&now, &mut plan, writes.may_write_conditions());
            let next = plan.due.iter().min_by_key(|(_, at)| **at);
            let next = next.map(|(name, at)| (name.clone(), *at));
            tokio::select! {
                changed = standing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
                () = sleep_until(next.as_ref().map_or_else(Instant::now, |next| next.1)),
                    if next.is_some() => {}
            }
            let Some((name, _)) = next else { continue };
            let outcome = writes.correct(&name, now.wanted.get(&name)).await;
            plan.done(&name, &now, outcome);
            tokio::time::sleep(self.pace.pause).await;
        }
    }

    /// Makes due what has to be corrected, and nothing else.
    fn schedule(&self, standing: &Standing, plan: &mut Plan, may_write: bool) {
        let now = Instant::now();
        plan.attempts.retain(|_, attempts| now.duration_since(attempts.last) < MEMORY);
        plan.told.retain(|name, _| standing.wanted.contains_key(name));
        let corrections = standing.corrections();
        let is_left = |name: &ObjectName| {
            let wanted = standing.wanted.get(name).map(|complaint| &complaint.verdict);
            may_write || (wanted.is_some() && wanted != plan.told.get(name))
        };
        plan.due.retain(|name, _| corrections.contains(name) && is_left(name));
        for name in corrections.into_iter().filter(|name| is_left(name)) {
            let delay = self.spread(name) + self.pace.delay(plan.attempts.get(name));
            plan.due.entry(name.clone()).or_insert_with(|| now + delay);
        }
    }

    /// When this node looks at a Service, within the time over which nodes spread.
    fn spread(&self, name: &ObjectName) -> Duration {
        let mut hasher = DefaultHasher::new();
        (&self.node_name, name).hash(&mut hasher);
        let [part, ..] = hasher.finish().to_be_bytes();
        self.pace.spread * u32::from(part) / 256
    }
}

impl Plan {
    fn done(&mut self, name: &ObjectName, standing: &Standing, outcome: Outcome) {
        self.due.remove(name);
        let now = Instant::now();
        match outcome {
            // The watch brings it, or has brought the end of the Service.
            Outcome::NothingToDo => {}
            Outcome::Written | Outcome::Failed => {
                let count = self.attempts.get(name).map_or(0, |attempts| attempts.count);
                let attempts = Attempts { count: count.saturating_add(1), last: now };
                self.attempts.insert(name.clone(), attempts);
            }
        }
        if outcome != Outcome::Failed
            && let Some(complaint) = standing.wanted.get(name)
        {
            self.told.insert(name.clone(), complaint.verdict.clone());
        }
    }
}

impl Pace {
    fn delay(&self, attempts: Option<&Attempts>) -> Duration {
        let Some(attempts) = attempts else { return Duration::ZERO };
        let doubled = 2u32.saturating_pow(attempts.count.saturating_sub(1).min(20));
        self.again.1.min(self.again.0.saturating_mul(doubled))
    }
}

#[cfg(test)]
mod tests;
