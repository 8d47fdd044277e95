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
    Settings, Shared, departed::destroy_sockets, doctor::Examiner, feed::Fed, lock, modes, places,
    programs, programs::Programs, reading, settings::socket_path, sync,
};
use crate::{
    backend::{Backend, Mode, Needs},
    devices::{self, Devices, watch::Watch},
    ebpf::{
        attach,
        maps::MapError,
        pin::{self, Pins},
    },
    http::{self, Context, ListenError, health_check},
    source,
};

/// Between two attempts to attach what failed, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Why the daemon does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one does.
    #[error(transparent)]
    Lock(#[from] lock::Error),
    /// The pins.
    #[error(transparent)]
    Pin(#[from] pin::Error),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// The mode.
    #[error(transparent)]
    Mode(#[from] modes::Error),
    /// A mode that this version does not have.
    #[error("mode {0} is not in this version; choose another --mode")]
    NotBuilt(Mode),
    /// The devices.
    #[error(transparent)]
    Devices(#[from] devices::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
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
    /// Only in mode eBPF.
    programs: Option<Programs>,
    _lock: lock::Lock,
}

impl Node {
    /// Takes the instance, makes the backend, serves HTTP, reads the source, attaches programs.
    pub async fn start(settings: &Settings) -> Result<Self, Error> {
        let pins = Pins::new(&settings.bpffs, &settings.instance)?;
        let mode = modes::choose(settings.mode)?;
        let lock = lock::acquire(&settings.state_dir, &settings.instance)?;
        let watch = Watch::start(settings.selection.clone()).await?;
        let shared = Shared::default();
        let (needs, needed) = watch::channel(Needs::default());
        let (programs, backend) = backend(mode, settings, &watch, needed)?;
        let examiner = Arc::new(OnceLock::new());
        let context =
            Context { shared: shared.clone(), pins: pins.clone(), examiner: Arc::clone(&examiner) };
        let addresses = [
            (settings.metrics_address, "--metrics-address"),
            (settings.health_address, "--health-address"),
        ];
        let socket = socket_path(&settings.state_dir, &settings.instance);
        http::serve(context, addresses, &socket).await?;
        let mut node = Self { shared, watch, programs, _lock: lock };
        let handles = node.serve(settings, backend).await?;
        tokio::spawn(pass_on(handles.needs, needs));
        examiner.get_or_init(|| Examiner::new(settings.clone(), pins, handles.snapshots));
        node.look_after(handles.departed)?;
        // Last: the kernel may make this wait for seconds, and the maps fill up meanwhile.
        let devices = node.watch.devices().borrow().clone();
        node.attach(&devices)?;
        Ok(node)
    }

    /// Starts everything that goes on by itself.
    async fn serve(
        &self,
        settings: &Settings,
        backend: Box<dyn Backend>,
    ) -> Result<sync::Handles, Error> {
        let places = places::follow(self.watch.devices(), &settings.selection.node_ports);
        let started = reading::start(settings, places.addresses, self.shared.clone()).await?;
        let table = Fed::new(settings, self.shared.clone());
        if let (Some(herald), Some(standing)) = (started.herald, table.standing()) {
            tokio::spawn(herald.run(standing));
        }
        tokio::spawn(health_check::run(health_check::Inputs {
            checks: table.health_checks(),
            addresses: places.health,
            shared: self.shared.clone(),
        }));
        let (events, shared) = (started.events, self.shared.clone());
        Ok(sync::spawn(table, backend, places.node, events, shared))
    }

    /// Looks after the sockets of endpoints that left.
    fn look_after(
        &self,
        departed: mpsc::UnboundedReceiver<Vec<crate::backend::Departed>>,
    ) -> Result<(), Error> {
        if let Some(programs) = &self.programs {
            tokio::spawn(destroy_sockets(programs.maps()?, departed));
        }
        Ok(())
    }

    /// Attaches to devices as they come, for ever.
    pub async fn run(mut self) -> Result<(), Error> {
        let mut devices = self.watch.devices();
        let mut pause = RETRY.0;
        let mut complete = self.is_complete();
        loop {
            tokio::select! {
                changed = devices.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    pause = RETRY.0;
                }
                () = time::sleep(pause), if !complete => {
                    pause = RETRY.1.min(pause * 2);
                }
            }
            let now = devices.borrow_and_update().clone();
            complete = match self.attach(&now) {
                Ok(()) => self.is_complete(),
                Err(error) => {
                    let error = attach::chain(&error);
                    tracing::error!(error, "the node's devices are not served, trying again");
                    false
                }
            };
        }
    }

    fn is_complete(&self) -> bool {
        self.shared.report().attachments.iter().all(|attachment| attachment.error.is_none())
    }

    fn attach(&mut self, devices: &Devices) -> Result<(), Error> {
        let Some(programs) = &mut self.programs else { return Ok(()) };
        let attachments = programs.attach(devices).map_err(programs::Error::from)?;
        self.shared.update(|report| report.attachments = attachments);
        Ok(())
    }
}

/// The backend of a mode; in mode eBPF with its programs, which are not attached yet.
fn backend(
    mode: Mode,
    settings: &Settings,
    watch: &Watch,
    needs: watch::Receiver<Needs>,
) -> Result<(Option<Programs>, Box<dyn Backend>), Error> {
    if mode == Mode::Ebpf {
        let programs = Programs::start(settings, watch.devices(), needs)?;
        let backend = programs.backend()?;
        return Ok((Some(programs), Box::new(backend)));
    }
    let backend = modes::rules(mode, settings).ok_or(Error::NotBuilt(mode))?;
    Ok((None, backend))
}

/// The programs are there before the loop that needs something of them.
async fn pass_on(mut from: watch::Receiver<Needs>, to: watch::Sender<Needs>) {
    while from.changed().await.is_ok() {
        to.send_replace(from.borrow_and_update().clone());
    }
}
