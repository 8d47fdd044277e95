//! One pod: look, plan, act, tell; then wait until something happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

use super::{
    image::Pulls,
    make,
    plan::{self, Memory, Why},
    seen::{Stage, World},
    start::find,
    status::{self, Facts, Waiting},
};
use crate::{
    cri::wire::LinuxContainerResources,
    probe::{Finding, Kind},
    shared::Shared,
    volume::{content::Tokens, mounts},
};

/// Without any news, a worker looks again after this long.
const LOOK_AGAIN: Duration = Duration::from_mins(1);
/// After something failed that nobody tells about when it is mended.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MOST: Duration = Duration::from_mins(1);
/// A runtime that has not noticed an end is asked again soon, then ever later, this often.
const ASK_AGAIN: Duration = Duration::from_millis(5);
const ASK_MAX: u32 = 10;
/// Steps that follow each other without a pause.
const STEPS_MAX: usize = 32;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Told {
    /// The pod as it is now.
    Pod(Arc<Pod>),
    /// Something happened to its containers or to what it uses.
    Look,
    /// A container or a sandbox has ended, even if the runtime does not say so yet.
    Ended(String),
    /// The API has no such pod any more.
    Gone,
    /// The node cannot have it: reason and message. It ends, and stays to be read.
    Refused(&'static str, String),
    /// A container has been ended.
    Stopped(String),
    /// The hook after the start of a container failed: id, name, why.
    HookFailed(String, String, String),
}

/// A pod and what is known of it.
pub(crate) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) pod: Pod,
    pub(super) uid: String,
    pub(super) directory: PathBuf,
    pub(super) logs: PathBuf,
    pub(super) tell: mpsc::Sender<Told>,
    pub(super) told: mpsc::Receiver<Told>,
    pub(super) pulled: mpsc::Sender<(String, Duration, Result<(), String>)>,
    was_pulled: mpsc::Receiver<(String, Duration, Result<(), String>)>,
    pub(super) find: mpsc::Sender<Finding>,
    found: mpsc::Receiver<Finding>,
    pub(super) world: World,
    pub(super) memory: Memory,
    pub(super) waiting: BTreeMap<String, Waiting>,
    pub(super) ready: BTreeMap<String, bool>,
    pub(super) messages: BTreeMap<String, String>,
    pub(super) probes: BTreeMap<(String, Kind), JoinHandle<()>>,
    pub(super) pulls: Pulls,
    pub(super) stopping: BTreeSet<String>,
    /// What containers have been given, by id.
    pub(super) limits: BTreeMap<String, LinuxContainerResources>,
    /// What has ended without the runtime saying so, and how often it was asked.
    ended: BTreeMap<String, u32>,
    pub(super) tokens: Tokens,
    pub(super) is_gone: bool,
    pub(super) refused: Option<(&'static str, String)>,
    written: Option<PodStatus>,
    pub(super) look_at: Instant,
    pub(super) retry: Duration,
    prepared: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        for task in self.probes.values() {
            task.abort();
        }
    }
}

impl Worker {
    /// A worker for a pod; `told` is what it hears by `tell`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        pod: Pod,
        tell: mpsc::Sender<Told>,
        told: mpsc::Receiver<Told>,
    ) -> Self {
        let (pulled, was_pulled) = mpsc::channel(16);
        let (find, found) = mpsc::channel(64);
        let text = |it: &Option<String>| it.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let uid = text(&meta.uid);
        let logs = format!("{}_{}_{uid}", text(&meta.namespace), text(&meta.name));
        let mut worker = Self {
            directory: shared.settings.data.join("pods").join(&uid),
            logs: shared.settings.data.join("logs/pods").join(logs),
            shared,
            uid,
            tell,
            told,
            pulled,
            was_pulled,
            find,
            found,
            world: World::default(),
            memory: Memory::default(),
            waiting: BTreeMap::new(),
            ready: BTreeMap::new(),
            messages: BTreeMap::new(),
            probes: BTreeMap::new(),
            pulls: Pulls::new(),
            stopping: BTreeSet::new(),
            limits: BTreeMap::new(),
            ended: BTreeMap::new(),
            tokens: Tokens::default(),
            is_gone: false,
            refused: None,
            written: None,
            look_at: Instant::now(),
            retry: RETRY_FIRST,
            prepared: false,
            pod,
        };
        worker.recall();
        worker
    }

    /// What an agent before this one told the API of containers that still run.
    fn recall(&mut self) {
        let status = self.pod.status.clone().unwrap_or_default();
        let all = status.container_statuses.iter().flatten();
        for status in all.chain(status.init_container_statuses.iter().flatten()) {
            let Some((_, id)) = status.container_id.as_deref().and_then(|it| it.split_once("://"))
            else {
                continue;
            };
            self.ready.insert(id.to_owned(), status.ready);
            if status.started == Some(true) {
                self.memory.started.insert(id.to_owned(), true);
            }
        }
    }

    pub(super) fn report(
        &self,
        container: Option<&str>,
        is_warning: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.shared.events.pod(&self.pod, container, is_warning, reason, message);
    }

    pub(super) fn look_at(&mut self, at: Instant) {
        self.look_at = self.look_at.min(at);
    }

    fn api(&self) -> Api<Pod> {
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.shared.client.clone(), namespace)
    }

    pub(super) fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Whether the pod is to end for good.
    pub(super) fn is_ending(&self) -> bool {
        self.is_gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Works until the pod is gone.
    pub(crate) async fn run(mut self) {
        loop {
            if self.is_ending() {
                self.end().await;
                return;
            }
            self.look_at = Instant::now() + LOOK_AGAIN;
            if let Some(refresh) = self.tokens.refresh_at() {
                let wait = refresh.duration_since(Timestamp::now());
                let wait = Duration::try_from(wait).unwrap_or(RETRY_FIRST);
                self.look_at(Instant::now() + wait);
            }
            self.step().await;
            if self.is_ending() {
                continue;
            }
            self.tell_api().await;
            self.ask_again();
            self.wait().await;
        }
    }

    /// The runtime learns of an end when we do, and may say so later.
    fn ask_again(&mut self) {
        let world = &self.world;
        self.ended.retain(|id, asked| {
            let runs = world.containers.iter().any(|it| it.id == *id && it.stage == Stage::Running)
                || world.sandboxes.iter().any(|it| it.id == *id && it.is_ready);
            *asked += 1;
            runs && *asked <= ASK_MAX
        });
        if let Some(asked) = self.ended.values().min() {
            self.look_at(Instant::now() + ASK_AGAIN * 2_u32.pow(*asked));
        }
    }

    async fn wait(&mut self) {
        let at = self.look_at;
        tokio::select! {
            told = self.told.recv() => self.hear(told),
            Some(finding) = self.found.recv() => self.finding(finding),
            Some((name, delay, answer)) = self.was_pulled.recv() => self.was_pulled(name, delay, answer),
            () = sleep_until(at) => {}
        }
        // Everything else that has come meanwhile is looked at in one go.
        while let Ok(told) = self.told.try_recv() {
            self.hear(Some(told));
        }
        while let Ok(finding) = self.found.try_recv() {
            self.finding(finding);
        }
    }

    pub(super) fn hear(&mut self, told: Option<Told>) {
        match told {
            Some(Told::Pod(pod)) => self.pod = Pod::clone(&pod),
            Some(Told::Look) => {}
            Some(Told::Ended(id)) => {
                self.ended.insert(id, 0);
            }
            Some(Told::Refused(reason, message)) => self.refused = Some((reason, message)),
            Some(Told::Stopped(id)) => {
                self.stopping.remove(&id);
                self.memory.failing.remove(&id);
            }
            Some(Told::HookFailed(id, name, words)) => {
                let message = format!("PostStartHook failed: {words}");
                self.report(Some(&name), true, "FailedPostStartHook", message);
                self.memory.failing.insert(id, Why::Hook);
            }
            Some(Told::Gone) | None => self.is_gone = true,
        }
    }

    /// Waits a little longer each time.
    pub(super) fn again_later(&mut self) {
        self.look_at(Instant::now() + self.retry);
        self.retry = (self.retry * 2).min(RETRY_MOST);
    }

    /// Asks the runtime what is there.
    pub(super) async fn look(&mut self) -> bool {
        match World::look(&self.shared.runtime, &self.uid, &self.world).await {
            Ok(world) => {
                self.world = world;
                for sandbox in &self.world.sandboxes {
                    self.shared.knows(&sandbox.id, &self.uid);
                }
                for container in &self.world.containers {
                    self.shared.knows(&container.id, &self.uid);
                }
                self.read_messages();
                true
            }
            Err(status) => {
                tracing::warn!(pod = self.name(), %status, "the runtime does not answer");
                false
            }
        }
    }

    async fn step(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.look().await {
                return self.again_later();
            }
            if self.refused.is_some() || self.has_failed() {
                return self.put_down().await;
            }
            if plan::is_over(&self.pod, &self.world)
                && self.world.sandboxes.iter().all(|it| !it.is_ready)
            {
                self.stop_probes(|_| true);
                return;
            }
            if let Err(words) = self.prepare().await {
                if !self.prepared || self.retry == RETRY_FIRST {
                    self.report(None, true, "FailedMount", words.clone());
                }
                tracing::debug!(pod = self.name(), words, "the pod's files are not there");
                if !self.prepared {
                    return self.again_later();
                }
                // What runs goes on with the files that it has.
                self.again_later();
            } else {
                self.prepared = true;
            }
            self.probe();
            let hashes: BTreeMap<String, String> = crate::configs::containers(&self.pod)
                .map(|it| (it.name.clone(), make::hash(it)))
                .collect();
            let patience = self.shared.patience(&self.pod);
            let acts = plan::plan(
                &self.pod,
                &self.world,
                &self.memory,
                patience,
                &hashes,
                Timestamp::now(),
            );
            let mut has_changed = false;
            for act in acts {
                has_changed |= self.act(act).await;
            }
            has_changed |= self.start_ephemeral().await;
            self.resize().await;
            if !has_changed {
                return self.finish_over().await;
            }
            // What has changed is told before the next step, which may take its time.
            self.tell_api().await;
            while let Ok(told) = self.told.try_recv() {
                self.hear(Some(told));
            }
            if self.is_ending() {
                return;
            }
        }
        self.look_at(Instant::now());
    }

    /// A pod whose containers have all ended needs no sandbox.
    async fn finish_over(&mut self) {
        let runs = self.world.containers.iter().any(|it| it.stage == Stage::Running);
        if !plan::is_over(&self.pod, &self.world) || runs {
            return;
        }
        self.stop_probes(|_| true);
        for sandbox in self.world.sandboxes.iter().filter(|it| it.is_ready) {
            if let Err(status) = self.shared.runtime.stop_sandbox(&sandbox.id).await {
                tracing::warn!(pod = self.name(), %status, "a sandbox is not stopped");
                self.look_at = Instant::now() + RETRY_FIRST;
            }
        }
        self.look().await;
    }

    fn has_failed(&self) -> bool {
        let status = self.pod.status.as_ref();
        let phase = status.and_then(|it| it.phase.as_deref());
        phase == Some("Failed") && status.is_some_and(|it| it.reason.is_some())
    }

    /// The node does not have the pod: what runs ends, the status stays.
    async fn put_down(&mut self) {
        self.stop_probes(|_| true);
        for sandbox in &self.world.sandboxes {
            if sandbox.is_ready
                && let Err(status) = self.shared.runtime.stop_sandbox(&sandbox.id).await
            {
                tracing::warn!(pod = self.name(), %status, "a sandbox is not stopped");
            }
        }
        self.look().await;
    }

    /// Reads what containers said at their ends.
    fn read_messages(&mut self) {
        for seen in self.world.containers.iter().filter(|it| it.stage == Stage::Exited) {
            if self.messages.contains_key(&seen.id) {
                continue;
            }
            let path = mounts::message_file(&self.directory, &seen.name, seen.restarts);
            let mut text = read_start(&path);
            let container = find(&self.pod, &seen.name);
            let policy = container.and_then(|it| it.termination_message_policy);
            if text.is_empty()
                && seen.code != 0
                && policy.as_deref() == Some("FallbackToLogsOnError")
            {
                let path = self.logs.join(&seen.name).join(format!("{}.log", seen.restarts));
                text = crate::serve::logs::end_of(&path);
            }
            self.messages.insert(seen.id.clone(), text);
        }
    }

    /// The status as it is now.
    pub(super) fn status(&self, is_ending: bool) -> PodStatus {
        if let Some((reason, message)) = &self.refused {
            return status::failed(&self.pod, reason, message, Timestamp::now());
        }
        let host = self.shared.place().host;
        let facts = Facts {
            world: &self.world,
            waiting: &self.waiting,
            ready: &self.ready,
            started: &self.memory.started,
            messages: &self.messages,
            host: &host,
            is_ending,
            now: Timestamp::now(),
        };
        status::status(&self.pod, &facts)
    }

    /// Tells the API what is so, if that is news to it.
    pub(super) async fn tell_api(&mut self) {
        let status = self.status(self.is_ending());
        if self.pod.status.as_ref() == Some(&status) || self.written.as_ref() == Some(&status) {
            return;
        }
        let patch = json!({"metadata": {"uid": self.uid}, "status": status});
        let params = PatchParams::default();
        let api = self.api();
        let answer = api.patch_status(self.name(), &params, &Patch::Merge(patch)).await;
        match answer {
            Ok(pod) => {
                self.written = Some(status);
                self.pod.status = pod.status;
            }
            Err(kube::Error::Api(error)) if error.code == 404 => self.is_gone = true,
            Err(error) => {
                tracing::warn!(pod = self.name(), %error, "the status is not written");
                self.look_at(Instant::now() + RETRY_FIRST);
            }
        }
    }
}

/// The start of a file, as text; nothing if there is none.
fn read_start(path: &std::path::Path) -> String {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read = fs::File::open(path)
        .and_then(|file| file.take(mounts::MESSAGE_MAX).read_to_end(&mut bytes));
    if read.is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
