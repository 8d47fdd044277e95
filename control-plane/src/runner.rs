//! Runs controllers: tells them what changed, asks for their plans, and makes every write.

pub mod act;
pub mod expire;
pub mod lead;
pub mod queue;
pub mod report;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

pub use self::act::{Action, Report};
use self::{
    lead::Leader,
    queue::{Outcome, Queue},
};
use crate::{
    cache::{Key, Step, View, follow},
    client::{Client, Kind},
};

/// What time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// One controller: a pure plan, and which keys a change is about.
pub trait Controller: Send + Sync + 'static {
    /// Its name, as events give it as their source.
    fn name(&self) -> &'static str;

    /// The kinds whose changes it wants to hear of, and that its plans look at.
    fn watches(&self) -> &'static [Kind];

    /// The keys that a change asks to plan again.
    fn touched(&self, step: &Step, view: &View) -> Vec<Key>;

    /// What to do so that the world becomes as its objects wish. No clock, no I/O.
    fn plan(&self, key: &Key, view: &View, now: Timestamp) -> Vec<Action>;

    /// How long a key rests after a plan, whatever changes meanwhile.
    fn rest(&self, _key: &Key) -> Duration {
        Duration::ZERO
    }

    /// How many keys are worked on at once.
    fn workers(&self) -> usize {
        5
    }
}

/// Controllers, what they see, and what they have yet to plan.
pub struct World {
    /// What is known.
    pub view: RwLock<View>,
    /// The API.
    pub client: Arc<dyn Client>,
    /// The time.
    pub clock: Clock,
    /// Whether we may write.
    pub leader: Leader,
    controllers: Vec<(Arc<dyn Controller>, Queue)>,
    reports: mpsc::Sender<Report>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

impl World {
    /// Applies a change of what is known, and marks the keys that it touches.
    pub fn learn(&self, learn: impl FnOnce(&mut View) -> Vec<Step>) {
        let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
        let steps = learn(&mut view);
        for step in &steps {
            for (controller, queue) in &self.controllers {
                if controller.watches().contains(&step.kind) {
                    let keys: BTreeSet<Key> = controller.touched(step, &view).into_iter().collect();
                    for key in keys {
                        queue.add(key);
                    }
                }
            }
        }
    }

    /// Reads what is known.
    pub fn read<T>(&self, read: impl FnOnce(&View) -> T) -> T {
        read(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tells people; what does not fit is lost.
    pub fn report(&self, report: Report) {
        if self.reports.try_send(report).is_err() {
            tracing::debug!("too many events at once; one is lost");
        }
    }
}

/// Reports that wait to be written.
const REPORTS_MAX: usize = 4096;

/// Starts following, planning and writing.
pub fn start(
    client: Arc<dyn Client>,
    controllers: Vec<Arc<dyn Controller>>,
    clock: Clock,
    leader: Leader,
) -> (Arc<World>, Vec<JoinHandle<()>>) {
    let (reports, reported) = mpsc::channel(REPORTS_MAX);
    let kinds: BTreeSet<Kind> =
        controllers.iter().flat_map(|controller| controller.watches().iter().copied()).collect();
    let controllers = controllers.into_iter().map(|each| (each, Queue::default())).collect();
    let world = Arc::new(World {
        view: RwLock::default(),
        client: client.clone(),
        clock,
        leader: leader.clone(),
        controllers,
        reports,
    });
    let (synced, is_synced) = watch::channel(false);
    let (tell, told) = mpsc::channel(1024);
    let mut tasks: Vec<JoinHandle<()>> = kinds
        .iter()
        .map(|kind| tokio::spawn(follow::follow(client.clone(), *kind, tell.clone())))
        .collect();
    tasks.push(tokio::spawn(hear(world.clone(), told, kinds, synced)));
    tasks.push(tokio::spawn(report::write(world.clone(), reported)));
    tasks.push(tokio::spawn(expire::run(world.clone())));
    tasks.push(tokio::spawn(leader.run(client)));
    for (at, (controller, _)) in world.controllers.iter().enumerate() {
        for _ in 0..controller.workers() {
            tasks.push(tokio::spawn(work(world.clone(), at, is_synced.clone())));
        }
    }
    (world, tasks)
}

/// Takes in what the watches tell. Workers begin when everything has been listed once.
async fn hear(
    world: Arc<World>,
    mut told: mpsc::Receiver<follow::Told>,
    mut missing: BTreeSet<Kind>,
    synced: watch::Sender<bool>,
) {
    let mut batch = Vec::new();
    while told.recv_many(&mut batch, 256).await > 0 {
        let batch = std::mem::take(&mut batch);
        for told in batch {
            world.learn(|view| match &told {
                follow::Told::Listed(kind, objects) => {
                    missing.remove(kind);
                    view.listed(*kind, objects)
                }
                follow::Told::Changed(kind, change) => {
                    view.changed(*kind, change).into_iter().collect()
                }
            });
        }
        if missing.is_empty() && !*synced.borrow() {
            synced.send_replace(true);
        }
    }
}

async fn work(world: Arc<World>, at: usize, mut is_synced: watch::Receiver<bool>) {
    if is_synced.wait_for(|synced| *synced).await.is_err() {
        return;
    }
    let (controller, queue) = &world.controllers[at];
    loop {
        let key = queue.next().await;
        world.leader.leading().await;
        let now = (world.clock)();
        let begin = Instant::now();
        let actions = world.read(|view| controller.plan(&key, view, now));
        let cost = begin.elapsed();
        let outcome = match act::act(&world, controller.name(), actions).await {
            Ok(again) => {
                remember(&world, controller.name(), &key, None);
                again.map_or(Outcome::Done, Outcome::Again)
            }
            Err(failed) => {
                tracing::debug!(controller = controller.name(), ?key, ?failed, "plan failed");
                if let act::Failed::Refused { words, .. } = failed {
                    remember(&world, controller.name(), &key, Some(words));
                }
                Outcome::Failed
            }
        };
        // What a plan costs is a tenth of the time at most.
        let rest = (cost * 10).min(Duration::from_secs(1)).max(controller.rest(&key));
        queue.finish(key, outcome, rest);
    }
}

fn remember(world: &World, controller: &'static str, key: &Key, why: Option<String>) {
    let is_known = world.read(|view| view.failure(controller, key).is_some());
    if is_known || why.is_some() {
        let mut view = world.view.write().unwrap_or_else(PoisonError::into_inner);
        view.set_failure(controller, key, why);
    }
}

/// Waits for a moment: for tests, until nothing is due within `quiet`.
pub async fn settle(world: &World, quiet: Duration) {
    let mut last = BTreeMap::new();
    loop {
        tokio::time::sleep(quiet).await;
        let now: BTreeMap<usize, usize> = world
            .controllers
            .iter()
            .enumerate()
            .map(|(at, (_, queue))| (at, queue.due_within(quiet)))
            .collect();
        if now == last && now.values().all(|due| *due == 0) {
            return;
        }
        last = now;
    }
}

/// A time as the API writes it.
pub fn time(now: Timestamp) -> Value {
    let seconds = Timestamp::from_second(now.as_second()).unwrap_or(now);
    Value::from(format!("{seconds:.0}"))
}
