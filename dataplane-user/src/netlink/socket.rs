//! A socket: requests with acknowledgements, dumps, several messages at once.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    time::{Duration, Instant},
};

use netlink_sys::{Socket as Raw, SocketAddr};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};

use super::{Error, attributes};

/// Bytes of a message's head.
const HEAD: usize = 16;
const NOOP: u16 = 1;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Flags of a message.
mod flag {
    pub(super) const REQUEST: u16 = 0x1;
    pub(super) const ACK: u16 = 0x4;
    pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
    pub(super) const DUMP: u16 = 0x300;
    /// In an error: the request is not repeated.
    pub(super) const CAPPED: u16 = 0x100;
    /// In an error: attributes follow.
    pub(super) const EXTENDED: u16 = 0x200;
}
/// Attribute of an error: its text.
const ERROR_TEXT: u16 = 1;
/// The kernel has that long to answer: it may have to wait for other writers, 50 s were seen.
const PATIENCE: Duration = Duration::from_secs(90);
/// Dumps that something changed meanwhile are begun anew so many times.
const DUMPS_MAX: u32 = 20;
/// Answers that wait in the kernel.
const RECEIVE_BYTES: usize = 32 << 20;
/// What one send may take.
const SEND_BYTES: usize = 256 << 20;

/// A message to the kernel: kind, flags beside those that every request has, and what follows the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What is asked for.
    pub kind: u16,
    /// Flags such as create and replace.
    pub flags: u16,
    /// The family's head and attributes.
    pub body: Vec<u8>,
}

/// A message from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is.
    pub kind: u16,
    /// What follows the head.
    pub body: Vec<u8>,
    sequence: u32,
    flags: u16,
}

/// A socket of one protocol in the network namespace where it was opened.
pub struct Socket {
    raw: Raw,
    sequence: u32,
    /// Read and not yet looked at.
    waiting: VecDeque<Received>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("fd", &self.raw.as_raw_fd()).finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket of `protocol`, for example `libc::NETLINK_NETFILTER`.
    pub fn open(protocol: i32) -> Result<Self, Error> {
        let failed = |doing| move |source| Error::Socket { doing, source };
        let mut raw = Raw::new(protocol as isize).map_err(failed("open"))?;
        raw.bind_auto().map_err(failed("bind"))?;
        raw.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        // Words of the kernel are a comfort: kernels before 4.12 have none.
        let _older = raw.set_ext_ack(true);
        let _older = raw.set_cap_ack(true);
        // Without the right to these the usual sizes have to do.
        let fd = raw.as_fd();
        let _small = setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BYTES);
        let _small = setsockopt(&fd, sockopt::SndBufForce, &SEND_BYTES);
        Ok(Self { raw, sequence: 0, waiting: VecDeque::new() })
    }

    /// The descriptor, to wait for events.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }

    /// Listens to a multicast group from now on.
    pub fn join(&mut self, group: u32) -> Result<(), Error> {
        self.raw
            .add_membership(group)
            .map_err(|source| Error::Socket { doing: "listen on", source })
    }

    /// Sends one request and waits until the kernel has done it. `doing` is what errors say.
    pub fn request(&mut self, doing: &str, message: Message) -> Result<(), Error> {
        self.transact(doing, [Message { flags: message.flags | flag::ACK, ..message }], 1)
    }

    /// Sends one request that is answered with one message.
    pub fn ask(&mut self, doing: &str, message: Message) -> Result<Received, Error> {
        let sequence = self.send([Message { flags: message.flags | flag::ACK, ..message }])?;
        let mut answer = None;
        loop {
            let received = self.next(doing)?;
            if received.sequence != sequence {
                continue;
            }
            match received.kind {
                ERROR => {
                    acknowledge(doing, &received)?;
                    let cut_off = || Error::CutOff { doing: doing.to_owned() };
                    return answer.ok_or_else(cut_off);
                }
                NOOP | DONE => {}
                _ => answer = Some(received),
            }
        }
    }

    /// Sends one request that is answered with a list. If the list changed while it was told, it is
    /// asked for again.
    pub fn dump(&mut self, doing: &str, message: &Message) -> Result<Vec<Received>, Error> {
        let message = Message { flags: message.flags | flag::DUMP, ..message.clone() };
        let mut rest = DUMPS_MAX;
        loop {
            let (list, is_whole) = self.dump_once(doing, message.clone())?;
            rest -= 1;
            if is_whole {
                return Ok(list);
            }
            if rest == 0 {
                return Err(Error::Refused {
                    doing: doing.to_owned(),
                    text: Some("the list never stood still".to_owned()),
                    source: io::Error::from_raw_os_error(libc::EINTR),
                });
            }
        }
    }

    fn dump_once(&mut self, doing: &str, message: Message) -> Result<(Vec<Received>, bool), Error> {
        let sequence = self.send([message])?;
        let (mut list, mut is_whole) = (Vec::new(), true);
        loop {
            let received = self.next(doing)?;
            if received.sequence != sequence {
                continue;
            }
            is_whole &= received.flags & flag::DUMP_INTERRUPTED == 0;
            match received.kind {
                ERROR => acknowledge(doing, &received)?,
                DONE => {
                    let code = received.body.get(..4).and_then(|code| code.try_into().ok());
                    let code = code.map_or(0, i32::from_ne_bytes);
                    if code == -libc::EINTR {
                        return Ok((list, false));
                    }
                    if code < 0 {
                        let source = io::Error::from_raw_os_error(-code);
                        return Err(Error::Refused { doing: doing.to_owned(), text: None, source });
                    }
                    return Ok((list, is_whole));
                }
                NOOP => {}
                _ => list.push(received),
            }
        }
    }

    /// Sends messages in one go and waits for `acks` acknowledgements, or the first refusal, which
    /// names its message by `doing` and its number from 0. Further refusals are read and dropped.
    pub fn transact(
        &mut self,
        doing: &str,
        messages: impl IntoIterator<Item = Message>,
        acks: usize,
    ) -> Result<(), Error> {
        self.waiting.clear();
        let first = self.sequence.wrapping_add(1);
        let last = self.send(messages)?;
        let mut left = acks;
        while left > 0 {
            let received = self.next(doing)?;
            let number = received.sequence.wrapping_sub(first);
            if received.kind != ERROR || number > last.wrapping_sub(first) {
                continue;
            }
            let what =
                if first == last { doing.to_owned() } else { format!("{doing}: message {number}") };
            acknowledge(&what, &received)?;
            left -= 1;
        }
        Ok(())
    }

    /// The next message of a group that was joined, if one comes within `patience`.
    pub fn event(&mut self, patience: Duration) -> Result<Option<Received>, Error> {
        let comes = self.receive(Instant::now() + patience)?;
        Ok(if comes { self.waiting.pop_front() } else { None })
    }

    /// Sends messages in one go; gives back the sequence number of the last.
    fn send(&mut self, messages: impl IntoIterator<Item = Message>) -> Result<u32, Error> {
        let mut bytes = Vec::new();
        for message in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let len = u32::try_from(HEAD + message.body.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&len.to_ne_bytes());
            bytes.extend_from_slice(&message.kind.to_ne_bytes());
            bytes.extend_from_slice(&(message.flags | flag::REQUEST).to_ne_bytes());
            bytes.extend_from_slice(&self.sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&message.body);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let sent = self.raw.send(&bytes, 0);
        sent.map_err(|source| Error::Socket { doing: "send on", source })?;
        Ok(self.sequence)
    }

    fn next(&mut self, doing: &str) -> Result<Received, Error> {
        if !self.receive(Instant::now() + PATIENCE)? {
            return Err(Error::Silence { doing: doing.to_owned(), seconds: PATIENCE.as_secs() });
        }
        let cut_off = || Error::CutOff { doing: doing.to_owned() };
        self.waiting.pop_front().ok_or_else(cut_off)
    }

    /// Whether there is a message to look at, before the time is up.
    fn receive(&mut self, until: Instant) -> Result<bool, Error> {
        let failed = |source| Error::Socket { doing: "receive from", source };
        while self.waiting.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.raw.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(failed(error.into())),
            }
            let bytes = match self.raw.recv_from_full() {
                Ok((bytes, _)) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.waiting.extend(messages(&bytes));
        }
        Ok(true)
    }
}

/// The messages in a datagram; it ends at the first that does not fit.
fn messages(bytes: &[u8]) -> impl Iterator<Item = Received> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head: [u8; HEAD] = rest.get(..HEAD)?.try_into().ok()?;
        let word =
            |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let len = usize::try_from(word(0)).ok()?;
        let body = rest.get(HEAD..len)?.to_vec();
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([head[4], head[5]]);
        let flags = u16::from_ne_bytes([head[6], head[7]]);
        Some(Received { kind, body, sequence: word(8), flags })
    })
}

/// What an acknowledgement says: nothing, or why not.
fn acknowledge(doing: &str, received: &Received) -> Result<(), Error> {
    let code = received.body.get(..4).and_then(|code| code.try_into().ok());
    let code = code.map_or(0, i32::from_ne_bytes);
    if code == 0 {
        return Ok(());
    }
    let text = if received.flags & flag::EXTENDED == 0 { None } else { error_text(received) };
    let source = io::Error::from_raw_os_error(-code);
    Err(Error::Refused { doing: doing.to_owned(), text, source })
}

/// The kernel's own words: behind the code, and the request's head or all of the request.
fn error_text(received: &Received) -> Option<String> {
    let request = received.body.get(4..)?;
    let len = usize::try_from(u32::from_ne_bytes(request.get(..4)?.try_into().ok()?)).ok()?;
    let len = if received.flags & flag::CAPPED == 0 { len.next_multiple_of(4) } else { HEAD };
    let mut all = attributes(request.get(len..)?);
    all.find(|attribute| attribute.kind == ERROR_TEXT).map(|text| text.text().to_owned())
}
