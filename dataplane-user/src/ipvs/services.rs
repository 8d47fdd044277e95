//! Virtual servers and destinations in the kernel, through generic netlink.

use std::{collections::BTreeMap, net::SocketAddr, process::Command};

use super::{
    error::IpvsError,
    message::{self, SeenDestination, SeenService, command},
    server::ServerKey,
    system::{Step, Stopped},
};
use crate::netlink::{Attributes, Error, Message, Socket, generic};

/// `NLM_F_ACK`.
const ACK: u16 = 4;
/// So many steps go to the kernel at once; their answers fit into any socket's buffer.
const STEPS_MAX: usize = 64;

/// The family of IPVS.
#[derive(Debug)]
pub(super) struct Services {
    socket: Socket,
    family: u16,
}

impl Services {
    /// Finds the family; loads the module if it is not there and may be loaded.
    pub(super) fn open() -> Result<Self, IpvsError> {
        let mut socket = Socket::open(libc::NETLINK_GENERIC)?;
        let family = match generic::family(&mut socket, message::FAMILY) {
            Err(Error::NoFamily(_)) => {
                // Where there is no module, or no right to load it, the next line says so.
                let _tried = Command::new("modprobe").args(["-q", "ip_vs"]).output();
                match generic::family(&mut socket, message::FAMILY) {
                    Err(Error::NoFamily(_)) => return Err(IpvsError::Missing),
                    found => found?,
                }
            }
            found => found?,
        };
        Ok(Self { socket, family })
    }

    fn message(&self, command: u8, flags: u16, attributes: Attributes) -> Message {
        generic::message(self.family, command, message::VERSION, flags, attributes)
    }

    /// All virtual servers that a frontend could have made.
    pub(super) fn list(&mut self) -> Result<Vec<SeenService>, IpvsError> {
        let message = self.message(command::GET_SERVICE, 0, Attributes::new());
        let all = self.socket.dump("list virtual servers", &message)?;
        let attributes = all.iter().filter_map(generic::parse).map(|(_, attributes)| attributes);
        Ok(attributes.filter_map(message::read_service).collect())
    }

    /// The destinations of a virtual server; none if it is not there.
    pub(super) fn destinations(
        &mut self,
        key: &ServerKey,
    ) -> Result<BTreeMap<SocketAddr, SeenDestination>, IpvsError> {
        let message = self.message(command::GET_DESTINATION, 0, message::name(key));
        let all = match self.socket.dump("list destinations", &message) {
            Err(error) if error.errno() == Some(libc::ESRCH) => return Ok(BTreeMap::new()),
            all => all?,
        };
        let attributes = all.iter().filter_map(generic::parse).map(|(_, attributes)| attributes);
        Ok(attributes.filter_map(|it| message::read_destination(it, key.family())).collect())
    }

    /// Makes silent TCP connections be remembered for at least so long.
    pub(super) fn remember_tcp(&mut self, seconds: u32) -> Result<(), IpvsError> {
        let message = self.message(command::GET_CONFIG, 0, Attributes::new());
        let answer = self.socket.ask("read the timeouts of IPVS", message)?;
        let seen = generic::parse(&answer).and_then(|(_, it)| message::read_tcp_timeout(it));
        if seen.is_some_and(|seen| seen >= seconds) {
            return Ok(());
        }
        let message = self.message(command::SET_CONFIG, 0, message::tcp_timeout(seconds));
        Ok(self.socket.request("set the timeouts of IPVS", message)?)
    }

    /// Does steps in order; those that were done already succeed.
    pub(super) fn change(&mut self, steps: &[Step]) -> Result<(), Stopped> {
        for (number, some) in steps.chunks(STEPS_MAX).enumerate() {
            let messages: Vec<Message> =
                some.iter().map(|step| self.step(step, exists(step), ACK)).collect();
            let all = self.socket.transact("change virtual servers", messages, some.len());
            if all.is_ok() {
                continue;
            }
            // One of them failed, and those behind it may have been done: one by one, which says
            // which of them cannot be done.
            for (at, step) in some.iter().enumerate() {
                self.change_one(step)
                    .map_err(|error| Stopped { done: number * STEPS_MAX + at, error })?;
            }
        }
        Ok(())
    }

    fn change_one(&mut self, step: &Step) -> Result<(), IpvsError> {
        let doing = describe(step);
        let first = self.socket.request(&doing, self.step(step, exists(step), 0));
        let Err(error) = first else { return Ok(()) };
        let again = match (step, error.errno()) {
            (Step::Server { .. } | Step::Destination { .. }, Some(libc::EEXIST)) => true,
            (Step::Server { .. }, Some(libc::ESRCH))
            | (Step::Destination { .. }, Some(libc::ENOENT)) => false,
            (Step::NoServer(_), Some(libc::ESRCH))
            | (Step::NoDestination(..), Some(libc::ESRCH | libc::ENOENT)) => return Ok(()),
            (
                Step::Server { .. }
                | Step::Destination { .. }
                | Step::NoServer(_)
                | Step::NoDestination(..),
                _,
            ) => return Err(error.into()),
        };
        Ok(self.socket.request(&doing, self.step(step, again, 0))?)
    }

    fn step(&self, step: &Step, exists: bool, flags: u16) -> Message {
        let (command, attributes) = match step {
            Step::Server { key, scheduling, .. } => {
                let command = if exists { command::SET_SERVICE } else { command::NEW_SERVICE };
                (command, message::server(key, scheduling))
            }
            Step::NoServer(key) => (command::DELETE_SERVICE, message::name(key)),
            Step::Destination { key, to, takes_new, .. } => {
                let command =
                    if exists { command::SET_DESTINATION } else { command::NEW_DESTINATION };
                (command, message::destination(key, *to, Some(u32::from(*takes_new))))
            }
            Step::NoDestination(key, to) => {
                (command::DELETE_DESTINATION, message::destination(key, *to, None))
            }
        };
        self.message(command, flags, attributes)
    }
}

/// Whether a step changes what is there.
const fn exists(step: &Step) -> bool {
    match step {
        Step::Server { exists, .. } | Step::Destination { exists, .. } => *exists,
        Step::NoServer(_) | Step::NoDestination(..) => true,
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Server { key, .. } => format!("set virtual server {key}"),
        Step::NoServer(key) => format!("remove virtual server {key}"),
        Step::Destination { key, to, .. } => format!("set destination {to} of {key}"),
        Step::NoDestination(key, to) => format!("remove destination {to} of {key}"),
    }
}
