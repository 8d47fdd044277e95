//! The mode that serves: starts it, and puts another one in its place while everything else goes on.
//!
//! Make before break: the next backend is programmed in full before the last one goes. What eBPF
//! programs do comes before netfilter, so they serve while both are there.

use std::{collections::BTreeSet, mem, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Settings, Shared,
    connections::{self, Connections},
    departed::SocketMaps,
    modes,
    node::backend_node,
    programs::{self, Programs},
    record::{self, Record},
};
use crate::{
    backend::{Backend, Error as BackendError, Mode, Needs},
    devices::Devices,
    ebpf::{
        attach,
        maps::{KernelMaps, MapError},
        pin::Pins,
    },
    leftovers,
    sync::{chain, switch::Switcher},
};

/// How long the programs may take until they know what the loop needs of them.
const TOLD_WAIT: Duration = Duration::from_secs(5);

/// Why a mode does not serve. The one before still does, if there was one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The choice.
    #[error(transparent)]
    Mode(#[from] modes::Error),
    /// A mode that this version does not have.
    #[error("mode {0} is not in this version; choose another --mode")]
    NotBuilt(Mode),
    /// The programs.
    #[error(transparent)]
    Programs(#[from] programs::Error),
    /// A map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The state directory.
    #[error(transparent)]
    Record(#[from] record::Error),
    /// The kernel did not take the program.
    #[error("mode {to} could not be programmed, {from} still serves")]
    Program {
        /// The one that was asked for.
        to: Mode,
        /// The one that goes on.
        from: Mode,
        /// What happened.
        #[source]
        source: BackendError,
    },
    /// Some program cannot be attached.
    #[error("program {program} cannot be attached to {target}, {from} still serves: {why}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Where.
        target: String,
        /// What the kernel said.
        why: String,
        /// The one that goes on.
        from: Mode,
    },
    /// Another change is not through.
    #[error("mode {0} has just begun to serve and what was before it is not gone yet; try again")]
    Busy(Mode),
    /// The daemon ends.
    #[error("the daemon is about to end")]
    Ended,
}

/// What `hashplane mode` prints.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Changed {
    /// Who served before.
    pub from: Mode,
    /// Who serves now.
    pub to: Mode,
    /// What was done, in order, and what became of connections.
    pub steps: Vec<String>,
}

/// Somebody asks for another mode.
#[derive(Debug)]
pub struct Request {
    /// Which one.
    pub to: Mode,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Changed, Error>>,
}

/// Asks for another mode.
#[derive(Clone, Debug)]
pub struct Requests(mpsc::Sender<Request>);

impl Requests {
    /// One that asks whoever receives.
    pub fn new() -> (Self, mpsc::Receiver<Request>) {
        let (send, receive) = mpsc::channel(1);
        (Self(send), receive)
    }

    /// Asks, and waits until the mode serves.
    pub async fn ask(&self, to: Mode) -> Result<Changed, Error> {
        let (answer, changed) = oneshot::channel();
        self.0.send(Request { to, answer }).await.map_err(|_ended| Error::Ended)?;
        changed.await.map_err(|_ended| Error::Ended)?
    }
}

/// What a mode needs of the rest of the daemon.
#[derive(Debug)]
pub struct Surroundings {
    /// What the daemon says of itself.
    pub shared: Shared,
    /// The node's devices.
    pub devices: watch::Receiver<Devices>,
    /// What the loop needs of the configuration.
    pub needs: watch::Receiver<Needs>,
}

/// The mode that serves, and what it has beside its backend, which the loop drives.
#[derive(Debug)]
pub struct Serving {
    settings: Settings,
    pins: Pins,
    around: Surroundings,
    record: Record,
    mode: Mode,
    /// Only in mode eBPF.
    programs: Option<Programs>,
    sockets: SocketMaps,
    /// Modes that have something in the kernel and go once this one serves.
    leaving: BTreeSet<Mode>,
}

impl Serving {
    /// Chooses the mode and makes its backend; nothing is programmed or attached yet.
    pub fn start(
        settings: &Settings,
        pins: Pins,
        around: Surroundings,
    ) -> Result<(Self, Box<dyn Backend>), Error> {
        around.shared.update(|report| report.shadow.clone_from(&settings.shadow));
        let record = Record::read(&settings.state_dir, &settings.instance);
        let mode = match record.chosen(settings.mode) {
            Some(mode) => {
                tracing::info!(%mode, "serving in the mode that was chosen while a daemon ran");
                mode
            }
            None => modes::choose(settings.mode)?,
        };
        let mut leaving = record.present().clone();
        if pins.exist() {
            leaving.insert(Mode::Ebpf);
        }
        if record.is_new() {
            // The directory may have been lost while the kernel kept what is in it.
            leaving.extend(leftovers::own_modes(&pins, mode));
        }
        leaving.remove(&mode);
        let mut serving = Self {
            settings: settings.clone(),
            pins,
            around,
            record,
            mode,
            programs: None,
            sockets: SocketMaps::default(),
            leaving,
        };
        let (programs, backend) = serving.make(mode)?;
        serving.record.enter(mode)?;
        serving.programs = programs;
        serving.tell_sockets()?;
        Ok((serving, backend))
    }

    /// Which one serves.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether another mode still has something in the kernel.
    pub fn is_handing_over(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// The maps for whoever destroys sockets.
    pub fn sockets(&self) -> SocketMaps {
        self.sockets.clone()
    }

    /// The backend of a mode; in mode eBPF with its programs, which are not attached yet.
    fn make(&self, mode: Mode) -> Result<(Option<Programs>, Box<dyn Backend>), Error> {
        if mode == Mode::Ebpf {
            let (devices, needs) = (self.around.devices.clone(), self.around.needs.clone());
            let programs =
                tokio::task::block_in_place(|| Programs::start(&self.settings, devices, needs))?;
            let backend = programs.backend()?;
            return Ok((Some(programs), Box::new(backend)));
        }
        let backend = modes::rules(mode, &self.settings).ok_or(Error::NotBuilt(mode))?;
        Ok((None, backend))
    }

    fn tell_sockets(&self) -> Result<(), Error> {
        let maps = self.programs.as_ref().map(Programs::maps).transpose()?;
        self.sockets.set(maps);
        Ok(())
    }

    /// Attaches programs to the node's devices as they are now; whether all are attached.
    pub fn attach(&mut self) -> Result<bool, Error> {
        let Some(programs) = &mut self.programs else {
            self.around.shared.update(|report| report.attachments = Vec::new());
            return Ok(true);
        };
        let devices = self.around.devices.borrow().clone();
        let attachments = programs.attach(&devices).map_err(programs::Error::from)?;
        let complete = attachments.iter().all(|attachment| attachment.error.is_none());
        self.around.shared.update(|report| report.attachments = attachments);
        Ok(complete)
    }

    /// Once the mode is programmed in full: takes over from those who served before this process,
    /// and removes what they left. Whether nothing is left to do.
    pub async fn take_over(&mut self) -> Result<bool, Error> {
        let from: Vec<Mode> = self.leaving.iter().copied().collect();
        if self.mode == Mode::Ebpf {
            self.wait_until_told().await;
        }
        let left = from.contains(&Mode::Ebpf).then(|| KernelMaps::from_pins(&self.pins.maps()));
        let maps = match left {
            Some(maps) => maps.ok(),
            None => maps_of(self.programs.as_ref()),
        };
        let connections = match from.first() {
            Some(from) => self.take_along((*from, self.mode), maps),
            None => Connections::default(),
        };
        if !self.attach()? {
            connections.abandon();
            return Ok(false);
        }
        for mode in from {
            if let Err(error) = self.remove(mode, None) {
                let error = chain(&error);
                tracing::error!(error, %mode, "what another mode left cannot be removed, trying again");
            } else {
                tracing::info!(%mode, "removed what another mode had left");
            }
        }
        if let Some(words) = connections.finish() {
            tracing::info!("{words}");
        }
        tokio::spawn(connections::release(self.settings.instance.clone()));
        Ok(self.leaving.is_empty())
    }

    /// Puts another mode in the place of this one. On an error this one serves on.
    pub async fn switch(
        &mut self,
        to: Mode,
        switcher: &Switcher<Box<dyn Backend>>,
    ) -> Result<Changed, Error> {
        let from = self.mode;
        if self.is_handing_over() {
            return Err(Error::Busy(from));
        }
        let mut changed = Changed { from, to, steps: Vec::new() };
        if from == to {
            self.record.choose(self.settings.mode, to)?;
            changed.steps.push(format!("{to} serves already; it will after a restart too"));
            return Ok(changed);
        }
        self.record.enter(to)?;
        let (programs, next) = self.make(to).inspect_err(|_error| self.forget(to))?;
        let last = match switcher.switch(next).await {
            Some(Ok(last)) => last,
            Some(Err((next, source))) => {
                self.undo(next, programs);
                return Err(Error::Program { to, from, source });
            }
            None => return Err(Error::Ended),
        };
        changed.steps.push(format!("{to} is programmed in full"));
        self.mode = to;
        let last_programs = mem::replace(&mut self.programs, programs);
        let connections = if to == Mode::Ebpf {
            match self.attach_in_place_of(from).await {
                Ok(connections) => connections,
                Err(error) => return Err(self.go_back(from, last, switcher, error).await),
            }
        } else {
            self.take_along((from, to), maps_of(last_programs.as_ref()))
        };
        self.tell_sockets()?;
        self.record.choose(self.settings.mode, to)?;
        self.leaving.insert(from);
        if let Some(programs) = last_programs {
            programs.stop();
        }
        match self.remove(from, Some(last)) {
            Ok(()) => changed.steps.push(format!("what {from} had put into the kernel is removed")),
            Err(error) => {
                let error = chain(&error);
                changed.steps.push(format!("{from} is not removed yet, trying again: {error}"));
            }
        }
        changed.steps.extend(connections.finish());
        tokio::spawn(connections::release(self.settings.instance.clone()));
        self.attach()?;
        Ok(changed)
    }

    /// Lets the next mode know what runs; `maps` have it or get it, where programs are one of both.
    fn take_along(&self, ways: (Mode, Mode), maps: Option<KernelMaps>) -> Connections {
        let loopback = self.settings.selection.node_ports.has_loopback();
        let node = backend_node(&self.around.devices.borrow(), loopback);
        Connections::begin(ways, maps, &node, &self.settings.instance)
    }

    /// Attaches all programs, or says which one cannot be; what runs is in their maps by then.
    async fn attach_in_place_of(&mut self, from: Mode) -> Result<Connections, Error> {
        self.wait_until_told().await;
        let connections = self.take_along((from, self.mode), maps_of(self.programs.as_ref()));
        if let Err(error) = self.attach_all(from) {
            connections.abandon();
            return Err(error);
        }
        Ok(connections)
    }

    fn attach_all(&mut self, from: Mode) -> Result<(), Error> {
        self.attach()?;
        let attachments = self.around.shared.report().attachments;
        let failed = attachments.into_iter().find_map(|attachment| {
            let why = attachment.error?;
            Some(Error::Attach {
                program: attachment.program,
                target: attachment.target,
                why,
                from,
            })
        });
        failed.map_or(Ok(()), Err)
    }

    /// Puts the last backend back in its place; what it had in the kernel is still there.
    async fn go_back(
        &mut self,
        from: Mode,
        last: Box<dyn Backend>,
        switcher: &Switcher<Box<dyn Backend>>,
        error: Error,
    ) -> Error {
        match switcher.switch(last).await {
            Some(Ok(next)) => {
                self.mode = from;
                let programs = self.programs.take();
                self.undo(next, programs);
                error
            }
            // Both are in the kernel, so nobody is without service; the one that is driven is the new
            // one.
            Some(Err((_last, source))) => {
                let lost = chain(&source);
                tracing::error!(error = lost, mode = %from, "cannot go back to the mode before");
                self.leaving.insert(from);
                error
            }
            None => Error::Ended,
        }
    }

    /// Removes a backend that did not come to serve.
    fn undo(&mut self, mut next: Box<dyn Backend>, programs: Option<Programs>) {
        let mode = next.mode();
        if let Some(programs) = programs {
            programs.stop();
        }
        let removed = next.remove().and_then(|()| self.remove_programs(mode));
        if let Err(error) = removed {
            let error = chain(&error);
            tracing::error!(error, %mode, "what a mode that does not serve has left is not removed");
            self.leaving.insert(mode);
            return;
        }
        self.forget(mode);
        if let Err(error) = self.attach() {
            tracing::error!(error = attach::chain(&error), "the report does not name attachments");
        }
    }

    fn forget(&mut self, mode: Mode) {
        if let Err(error) = self.record.leave(mode) {
            tracing::warn!(error = attach::chain(&error), "the state directory is out of date");
        }
    }

    /// Removes everything of a mode from the kernel.
    fn remove(
        &mut self,
        mode: Mode,
        backend: Option<Box<dyn Backend>>,
    ) -> Result<(), BackendError> {
        tokio::task::block_in_place(|| {
            let backend = backend.or_else(|| modes::rules(mode, &self.settings));
            backend.map_or(Ok(()), |mut backend| backend.remove())?;
            self.remove_programs(mode)
        })?;
        self.leaving.remove(&mode);
        self.forget(mode);
        Ok(())
    }

    fn remove_programs(&self, mode: Mode) -> Result<(), BackendError> {
        if mode == Mode::Ebpf {
            programs::remove(&self.pins)?;
        }
        Ok(())
    }

    async fn wait_until_told(&mut self) {
        let needs = self.around.needs.borrow().clone();
        let Some(programs) = &mut self.programs else { return };
        if tokio::time::timeout(TOLD_WAIT, programs.told(&needs)).await.is_err() {
            tracing::warn!("the programs do not know yet what the services need of them");
        }
    }
}

fn maps_of(programs: Option<&Programs>) -> Option<KernelMaps> {
    programs.and_then(|programs| programs.maps().ok())
}
