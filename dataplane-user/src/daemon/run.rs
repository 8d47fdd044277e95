//! Starts everything in order, then follows devices until it is told to stop.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time,
};

use super::{
    Settings, Shared,
    departed::destroy_sockets,
    doctor::Examiner,
    feed::Fed,
    lock, places, reading,
    rows::Rows,
    serving::{self, Request, Requests, Serving, Surroundings},
    settings::socket_path,
    sync,
};
use crate::{
    backend::{Backend, Needs},
    devices::{self, watch::Watch},
    ebpf::{
        attach,
        pin::{self, Pins},
    },
    http::{self, Context, ListenError, health_check},
    leftovers, source,
    sync::Status,
};

/// Between two attempts to attach or remove what failed, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Every mode changes the kernel.
    #[error("running the dataplane takes root")]
    NotRoot,
    /// Another one does.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The pins.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// The mode.
    #[error(transparent)]
    Serving(#[from] serving::Error),
    /// The devices.
    #[error(transparent)]
    Devices(#[from] devices::Error),
    /// The source of objects.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// A node that is served; devices are followed by [`Node::run`].
#[derive(Debug)]
pub struct Node {
    /// What the daemon says of itself.
    pub shared: Shared,
    watch: Watch,
    serving: Serving,
    handles: sync::Handles,
    requests: mpsc::Receiver<Request>,
    _lock: lock::Lock,
}

impl Node {
    /// Takes the instance, makes the backend, serves HTTP, reads the source, attaches programs.
    pub async fn start(settings: &Settings) -> Result<Self, Error> {
        if !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot);
        }
        let pins = Pins::new(&settings.bpffs, &settings.instance)?;
        let lock = lock::acquire(&settings.state_dir, &settings.instance)?;
        let watch = Watch::start(settings.selection.clone()).await?;
        let shared = Shared::default();
        let (needs, needed) = watch::channel(Needs::default());
        let around =
            Surroundings { shared: shared.clone(), devices: watch.devices(), needs: needed };
        let (serving, backend) = Serving::start(settings, pins.clone(), around)?;
        let examiner = Arc::new(OnceLock::new());
        let rows = Arc::new(OnceLock::new());
        let (asks, requests) = Requests::new();
        let context = Context {
            shared: shared.clone(),
            pins: pins.clone(),
            examiner: Arc::clone(&examiner),
            rows: Arc::clone(&rows),
            modes: asks,
        };
        let addresses = [
            (settings.metrics_address, "--metrics-address"),
            (settings.health_address, "--health-address"),
        ];
        let socket = socket_path(&settings.state_dir, &settings.instance);
        http::serve(context, addresses, &socket).await?;
        let started = serve(settings, backend, &watch, &shared).await?;
        let handles = started.handles;
        tokio::spawn(pass_on(handles.needs.clone(), needs));
        examiner.get_or_init(|| Examiner::new(settings.clone(), pins, handles.snapshots.clone()));
        rows.get_or_init(|| {
            let (snapshots, services) = (handles.snapshots.clone(), handles.services.clone());
            Rows::new(snapshots, services, handles.status.clone())
        });
        if settings.removes_kube_proxy {
            tokio::spawn(replace_kube_proxy(handles.status.clone()));
        }
        tokio::spawn(destroy_sockets(serving.sockets(), started.departed));
        let mut node = Self { shared, watch, serving, handles, requests, _lock: lock };
        // Last: the kernel may make this wait for seconds, and the maps fill up meanwhile. Where
        // another mode serves still, it goes on until this one is programmed.
        if !node.serving.is_handing_over() {
            node.serving.attach()?;
        }
        Ok(node)
    }

    /// Attaches to devices as they come, and goes from mode to mode when asked, for ever.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut devices = self.watch.devices();
        let mut pause = RETRY.0;
        let mut is_programmed = !self.serving.is_handing_over();
        let mut complete = self.is_complete();
        loop {
            let mut status = self.handles.status.clone();
            tokio::select! {
                changed = devices.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    pause = RETRY.0;
                }
                Some(Request { to, answer }) = self.requests.recv() => {
                    let changed = self.serving.switch(to, &self.handles.switcher).await;
                    // Who asked may have gone.
                    let _gone = answer.send(changed);
                    complete = self.is_complete();
                    continue;
                }
                programmed = status.wait_for(|status| status.in_sync), if !is_programmed => {
                    if programmed.is_err() {
                        return Ok(());
                    }
                    is_programmed = true;
                }
                () = time::sleep(pause), if is_programmed && !complete => {
                    pause = RETRY.1.min(pause * 2);
                }
            }
            devices.mark_unchanged();
            if !is_programmed {
                continue;
            }
            complete = match self.tend().await {
                Ok(complete) => complete,
                Err(error) => {
                    let error = attach::chain(&error);
                    tracing::error!(error, "the node's devices are not served, trying again");
                    false
                }
            };
        }
    }

    async fn tend(&mut self) -> Result<bool, serving::Error> {
        if self.serving.is_handing_over() {
            return self.serving.take_over().await;
        }
        self.serving.attach()
    }

    fn is_complete(&self) -> bool {
        let is_attached =
            self.shared.report().attachments.iter().all(|attachment| attachment.error.is_none());
        is_attached && !self.serving.is_handing_over()
    }
}

/// Starts everything that goes on by itself.
async fn serve(
    settings: &Settings,
    backend: Box<dyn Backend>,
    watch: &Watch,
    shared: &Shared,
) -> Result<sync::Started, Error> {
    let places = places::follow(watch.devices(), &settings.selection.node_ports);
    let started = reading::start(settings, places.addresses, shared.clone()).await?;
    let table = Fed::new(settings, shared.clone());
    if let (Some(herald), Some(standing)) = (started.herald, table.standing()) {
        tokio::spawn(herald.run(standing));
    }
    tokio::spawn(health_check::run(health_check::Inputs {
        checks: table.health_checks(),
        addresses: places.health,
        shared: shared.clone(),
    }));
    Ok(sync::spawn(table, backend, places.node, started.events, shared.clone()))
}

/// Once this serves, what kube-proxy has left goes.
async fn replace_kube_proxy(mut status: watch::Receiver<Status>) {
    if status.wait_for(|status| status.in_sync).await.is_err() {
        return;
    }
    let Ok(outcome) = tokio::task::spawn_blocking(leftovers::remove_kube_proxy).await else {
        return;
    };
    for leftover in &outcome.leftovers {
        tracing::info!("removed {leftover}");
    }
    for error in &outcome.failed {
        let error = attach::chain(error);
        tracing::warn!(
            error,
            "kube-proxy may have left more; `hashplane cleanup --kube-proxy` tries again"
        );
    }
}

/// The programs are there before the loop that needs something of them.
async fn pass_on(mut from: watch::Receiver<Needs>, to: watch::Sender<Needs>) {
    while from.changed().await.is_ok() {
        to.send_replace(from.borrow_and_update().clone());
    }
}
