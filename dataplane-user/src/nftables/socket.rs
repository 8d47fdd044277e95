//! Sends transactions to `nf_tables` and reads its tables back.

use std::{io, os::fd::AsFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt};

use super::batch::{Batch, Deed, FAMILY_LEN, HEADER_LEN, SUBSYSTEM, finish, header};

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: what was dumped changed meanwhile.
const INTERRUPTED: u16 = 0x10;
const BATCH_SUBSYSTEM: [u8; 2] = 10u16.to_be_bytes();

/// The largest transaction that is tried as one: 200,000 services with ten endpoints each have less.
pub const TRANSACTION_LEN_MAX: usize = 512 << 20;
/// What every kernel takes without privileges over its buffers.
const CHUNK_LEN: usize = 96 << 10;
/// So often a dump is begun again because somebody else keeps changing the tables.
const DUMPS_MAX: usize = 20;

/// The kernel did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NftablesError {
    /// No socket.
    #[error("cannot open a netfilter netlink socket")]
    Open(#[source] io::Error),
    /// The kernel has no `nf_tables`.
    #[error("the kernel has no nf_tables (CONFIG_NF_TABLES, module `nf_tables`)")]
    Missing,
    /// A transaction could not be sent.
    #[error("cannot send a transaction of {len} bytes to nf_tables")]
    Send {
        /// Its length.
        len: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A transaction was refused; nothing of it happened.
    #[error("nf_tables refused to {} `{}`{}", .deed.verb, .deed.name, told(.detail.as_deref()))]
    Refused {
        /// What was refused.
        deed: Deed,
        /// What the kernel said beside the error.
        detail: Option<String>,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// The transaction as a whole was refused; nothing of it happened.
    #[error("nf_tables refused a transaction{}", told(.detail.as_deref()))]
    Transaction {
        /// What the kernel said beside the error.
        detail: Option<String>,
        /// The error.
        #[source]
        source: io::Error,
    },
    /// Nobody answered.
    #[error("nf_tables did not confirm a transaction")]
    Unconfirmed,
    /// Something could not be read back.
    #[error("cannot read {what} from nf_tables")]
    Read {
        /// What.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Somebody else changed the tables all the time.
    #[error("cannot read {what} from nf_tables: somebody else keeps changing its tables")]
    Busy {
        /// What.
        what: &'static str,
    },
}

fn told(detail: Option<&str>) -> String {
    detail.map(|detail| format!(" ({detail})")).unwrap_or_default()
}

impl NftablesError {
    /// The number of the kernel's error, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open(source)
            | Self::Send { source, .. }
            | Self::Refused { source, .. }
            | Self::Transaction { source, .. }
            | Self::Read { source, .. } => source.raw_os_error(),
            Self::Missing | Self::Unconfirmed | Self::Busy { .. } => None,
        }
    }
}

/// A socket to the kernel's netfilter, in the network namespace of the thread that opened it.
pub struct Netfilter {
    socket: Socket,
    sequence: u32,
    transactions: u32,
}

impl std::fmt::Debug for Netfilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netfilter").finish_non_exhaustive()
    }
}

impl Netfilter {
    /// Opens one.
    pub fn open() -> Result<Self, NftablesError> {
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Without these, errors only have numbers.
            let _old_kernel = (socket.set_ext_ack(true), socket.set_cap_ack(true));
            // Without room transactions go in chunks.
            let size = TRANSACTION_LEN_MAX / 2;
            let _unprivileged = setsockopt(&socket.as_fd(), sockopt::SndBufForce, &size);
            let _unprivileged = setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &(8 << 20));
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(NftablesError::Open)?, sequence: 0, transactions: 0 })
    }

    /// How many transactions it has done.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// Does everything in `batch` at once, or nothing. Where the kernel does not take so many bytes
    /// in one piece, does it in chunks, in order.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), NftablesError> {
        if batch.is_empty() {
            return Ok(());
        }
        match self.transact(batch, 0..batch.messages.len()) {
            Err(NftablesError::Send { source, .. })
                if batch.messages.len() > 1
                    && matches!(
                        source.raw_os_error(),
                        Some(libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
            {
                self.commit_in_chunks(batch)
            }
            result => result,
        }
    }

    fn commit_in_chunks(&mut self, batch: &Batch) -> Result<(), NftablesError> {
        let end = |at: usize| batch.messages.get(at).map_or(batch.len(), |(begin, _)| *begin);
        let mut first = 0;
        while first < batch.messages.len() {
            let mut next = first + 1;
            while next < batch.messages.len() && end(next + 1) - end(first) <= CHUNK_LEN {
                next += 1;
            }
            self.transact(batch, first..next)?;
            first = next;
        }
        Ok(())
    }

    fn transact(
        &mut self,
        batch: &Batch,
        range: std::ops::Range<usize>,
    ) -> Result<(), NftablesError> {
        let at = |message: usize| batch.messages.get(message).map_or(batch.len(), |(at, _)| *at);
        let (begin, last, end) = (at(range.start), at(range.end - 1), at(range.end));
        let mut bytes = Vec::with_capacity(end - begin + 64);
        edge(&mut bytes, BATCH_BEGIN);
        let offset = bytes.len();
        bytes.extend_from_slice(&batch.bytes[begin..end]);
        // Kernels before 6.10 only confirm messages, not their batch.
        let flags = offset + (last - begin) + 6;
        bytes[flags] |= ACK.to_ne_bytes()[0];
        bytes[flags + 1] |= ACK.to_ne_bytes()[1];
        edge(&mut bytes, BATCH_END);
        self.drain();
        let len = bytes.len();
        self.socket.send(&bytes, 0).map_err(|source| NftablesError::Send { len, source })?;
        self.confirm(batch)?;
        self.transactions = self.transactions.wrapping_add(1);
        Ok(())
    }

    /// Throws away what is left of earlier conversations.
    fn drain(&self) {
        while self.receive(libc::MSG_DONTWAIT).is_ok() {}
    }

    fn receive(&self, flags: i32) -> io::Result<Vec<u8>> {
        loop {
            let mut bytes = Vec::with_capacity(64 << 10);
            match self.socket.recv(&mut bytes, flags) {
                Ok(_) => return Ok(bytes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The kernel has answered when the transaction has been sent; one error is told.
    fn confirm(&self, batch: &Batch) -> Result<(), NftablesError> {
        let mut confirmed = false;
        let mut error = None;
        while let Ok(bytes) = self.receive(libc::MSG_DONTWAIT) {
            for message in messages(&bytes) {
                let Some(answer) = message.error() else { continue };
                if answer.code == 0 {
                    confirmed = true;
                } else if error.is_none() {
                    error = Some(answer);
                }
            }
        }
        let Some(answer) = error else {
            return if confirmed { Ok(()) } else { Err(NftablesError::Unconfirmed) };
        };
        let source = io::Error::from_raw_os_error(answer.code);
        if answer.kind == BATCH_BEGIN && answer.code == libc::EOPNOTSUPP {
            return Err(NftablesError::Missing);
        }
        let deed = batch.messages.get(answer.sequence as usize).map(|(_, deed)| deed.clone());
        let deed = deed.filter(|_| answer.kind & SUBSYSTEM == SUBSYSTEM);
        Err(match deed {
            Some(deed) => NftablesError::Refused { deed, detail: answer.detail, source },
            None => NftablesError::Transaction { detail: answer.detail, source },
        })
    }

    /// Asks for one thing, and gives its attributes.
    pub(super) fn get(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        attributes: &[u8],
    ) -> Result<Vec<u8>, NftablesError> {
        self.drain();
        self.ask(kind, 0, family, attributes)
            .map_err(|source| NftablesError::Read { what, source })?;
        let bytes = self.receive(0).map_err(|source| NftablesError::Read { what, source })?;
        let message = messages(&bytes).next();
        let error = |code| {
            let source = io::Error::from_raw_os_error(code);
            NftablesError::Read { what, source }
        };
        let message = message.ok_or_else(|| error(libc::EBADMSG))?;
        match message.error() {
            Some(answer) if answer.code == libc::EOPNOTSUPP => Err(NftablesError::Missing),
            Some(answer) => Err(error(answer.code)),
            None => Ok(message.attributes().to_vec()),
        }
    }

    /// Dumps things: `each` takes in the attributes of each of them. When somebody changes the tables
    /// meanwhile, everything comes again.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        attributes: &[u8],
        mut each: impl FnMut(&mut T, &[u8]),
    ) -> Result<T, NftablesError>
    where
        T: Default,
    {
        let error = |source| NftablesError::Read { what, source };
        for _ in 0..DUMPS_MAX {
            let mut all = T::default();
            self.drain();
            self.ask(kind, DUMP, family, attributes).map_err(error)?;
            match self.read_dump(&mut |message| each(&mut all, message)) {
                Ok(true) => return Ok(all),
                Ok(false) => {}
                Err(source) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    return Err(NftablesError::Missing);
                }
                Err(source) if source.raw_os_error() == Some(libc::EINTR) => {}
                Err(source) => return Err(error(source)),
            }
        }
        Err(NftablesError::Busy { what })
    }

    /// Whether nothing changed meanwhile.
    fn read_dump(&self, each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
        let mut clean = true;
        loop {
            let bytes = self.receive(0)?;
            for message in messages(&bytes) {
                clean &= message.flags & INTERRUPTED == 0;
                if let Some(answer) = message.error() {
                    return Err(io::Error::from_raw_os_error(answer.code));
                }
                if message.kind == DONE {
                    // A dump may fail at its end.
                    let code = message.payload.first_chunk().map(|code| i32::from_ne_bytes(*code));
                    return match code {
                        Some(code) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
                        Some(_) | None => Ok(clean),
                    };
                }
                each(message.attributes());
            }
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, attributes: &[u8]) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        header(&mut bytes, SUBSYSTEM | kind, flags, self.sequence, family);
        bytes.extend_from_slice(attributes);
        finish(&mut bytes, 0);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }
}

/// The first or the last message of a transaction.
fn edge(bytes: &mut Vec<u8>, kind: u16) {
    let at = bytes.len();
    header(bytes, kind, 0, u32::MAX, 0);
    bytes[at + HEADER_LEN + 2..at + HEADER_LEN + 4].copy_from_slice(&BATCH_SUBSYSTEM);
    finish(bytes, at);
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// What the kernel thinks of a message of ours.
struct Answer {
    /// 0 when it was done.
    code: i32,
    kind: u16,
    sequence: u32,
    detail: Option<String>,
}

impl<'a> Message<'a> {
    fn attributes(&self) -> &'a [u8] {
        self.payload.get(FAMILY_LEN..).unwrap_or(&[])
    }

    fn error(&self) -> Option<Answer> {
        /// `NLM_F_ACK_TLVS`: attributes follow; `NLM_F_CAPPED`: but not the rest of our message.
        const WITH_TEXT: u16 = 0x200;
        const CAPPED: u16 = 0x100;
        if self.kind != ERROR {
            return None;
        }
        let code = i32::from_ne_bytes(*self.payload.first_chunk()?);
        let ours = self.payload.get(4..4 + HEADER_LEN)?;
        let len = u32::from_ne_bytes(*ours.first_chunk()?) as usize;
        let skip = if self.flags & CAPPED == 0 { len.next_multiple_of(4) } else { HEADER_LEN };
        let text = self.payload.get(4 + skip..).filter(|_| self.flags & WITH_TEXT != 0);
        Some(Answer {
            code: -code,
            kind: u16::from_ne_bytes([ours[4], ours[5]]),
            sequence: u32::from_ne_bytes([ours[8], ours[9], ours[10], ours[11]]),
            detail: text.and_then(|text| super::attributes::find_text(text, 1)).map(str::to_owned),
        })
    }
}

fn messages(bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEADER_LEN>()?;
        let len = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let payload = rest.get(HEADER_LEN..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([head[4], head[5]]),
            flags: u16::from_ne_bytes([head[6], head[7]]),
            payload,
        })
    })
}
