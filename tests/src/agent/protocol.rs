//! What an agent can be asked to do, and what it answers: one line of JSON each.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// A request to an agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// Repeated in the response; requests run side by side.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// The end of a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Response {
    /// That of the request.
    pub id: u64,
    /// What came of it.
    pub result: Result<Reply, Failure>,
}

/// What an agent can do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Op {
    /// Answer at an address until the agent ends or is told to stop.
    Serve {
        /// Who the answers say they are from.
        name: String,
        /// What to serve.
        transport: Transport,
        /// Where.
        at: SocketAddr,
    },
    /// Close the server at an address; its established connections stay.
    StopServing {
        /// What it serves.
        transport: Transport,
        /// Where.
        at: SocketAddr,
    },
    /// Open a socket that stays open; only UDP may have no `to`.
    Open {
        /// What kind of socket.
        transport: Transport,
        /// Where to connect; `None` leaves a UDP socket unconnected.
        to: Option<SocketAddr>,
        /// Where to bind first.
        from: Option<SocketAddr>,
        /// How long connecting may take.
        timeout_ms: u64,
    },
    /// Send one request on an open socket and wait for its answer.
    Ask {
        /// The number that `Open` gave.
        socket: u64,
        /// Where to send; only for unconnected sockets.
        to: Option<SocketAddr>,
        /// How many bytes to send and to receive.
        size: Size,
        /// How long the answer may take.
        timeout_ms: u64,
    },
    /// Close an open socket.
    Close {
        /// The number that `Open` gave.
        socket: u64,
    },
    /// Ask again and again, from several threads, until `StopLoad`.
    StartLoad(Load),
    /// Serve on after the end of the input.
    Outlive,
    /// End a load and count what happened.
    StopLoad {
        /// The number that `StartLoad` gave.
        load: u64,
    },
}

/// TCP and SCTP carry HTTP/1.1, UDP one datagram each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// HTTP/1.1 over TCP.
    Tcp,
    /// Datagrams.
    Udp,
    /// HTTP/1.1 over an SCTP association with one stream; not every kernel has it.
    Sctp,
}

impl Transport {
    /// Those that every kernel has.
    pub const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// Bytes that a request carries beside its question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// To the server, which says how many came and what they add up to.
    pub up: usize,
    /// From the server. Over TCP the client compares every byte; a datagram is as long as that, if
    /// what the server says is no longer.
    pub down: usize,
}

/// Bytes of a UDP question before those of [`Size::up`]: its number, and [`Size::down`].
pub const UDP_QUESTION_LEN: usize = 12;

/// How a load asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pattern {
    /// A new socket for each request.
    NewSocket,
    /// One connected socket per worker.
    OneSocket,
    /// One unconnected UDP socket per worker.
    OneUnconnected,
}

/// A stream of requests.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// TCP or UDP.
    pub transport: Transport,
    /// Whom to ask.
    pub to: SocketAddr,
    /// On which sockets.
    pub pattern: Pattern,
    /// How many threads ask.
    pub workers: usize,
    /// How long each waits between two requests.
    pub pause_ms: u64,
    /// When an answer counts as lost.
    pub timeout_ms: u64,
}

/// What came of an [`Op`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Nothing to tell.
    Done,
    /// A socket or load with its number.
    Opened(u64),
    /// An answer.
    Answer(Answer),
    /// What a load saw.
    Loaded(Loaded),
}

/// What a server says: who it is and what it sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The server's name.
    pub pod: String,
    /// The client as the server sees it.
    pub client: SocketAddr,
    /// The server's own end.
    pub local: SocketAddr,
    /// How many bytes came with the request.
    pub received: usize,
    /// Their sum, see [`sum`].
    pub sum: u64,
    /// What the client called its question.
    pub nonce: u64,
}

/// An answer, with what the client saw of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What the server says.
    pub seen: Seen,
    /// The client's own end.
    pub local: SocketAddr,
    /// `getpeername` of a connected socket; the sender of the datagram for an unconnected one.
    pub peer: SocketAddr,
    /// How many bytes came down.
    pub received: usize,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// What a load saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Answers by server.
    pub answers: BTreeMap<String, u64>,
    /// Requests without an answer.
    pub errors: u64,
    /// The first of them.
    pub first_error: Option<String>,
    /// The slowest answer.
    pub slowest_ms: u64,
}

impl Loaded {
    /// Answers of all servers.
    pub fn total(&self) -> u64 {
        self.answers.values().sum()
    }
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{why:?} after {elapsed_ms} ms: {text}")]
pub struct Failure {
    /// What kind of failure.
    pub why: Why,
    /// What the system called it.
    pub text: String,
    /// When.
    pub elapsed_ms: u64,
}

/// Kinds of failures that tests tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// `ECONNREFUSED`.
    Refused,
    /// Nothing came.
    TimedOut,
    /// `ECONNRESET` or an early end.
    Closed,
    /// `ENETUNREACH`, `EHOSTUNREACH`.
    Unreachable,
    /// Another answer than asked for.
    Wrong,
    /// Anything else.
    Other,
}

/// The byte at `index` of every body that is sent.
#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 251")]
pub const fn pattern(index: usize) -> u8 {
    (index % 251) as u8
}

/// FNV-1a over a body (RFC 9923): tells lost, swapped and changed bytes.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
