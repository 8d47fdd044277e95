//! One question and its answer, over a connected or an unconnected socket.

use std::{
    io::{self, BufReader},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{
    connect, http,
    protocol::{Answer, Failure, Seen, Size, Transport, Why, pattern, sum},
};

/// What the system's errors mean to a test.
const KINDS: [(io::ErrorKind, Why); 10] = [
    (io::ErrorKind::ConnectionRefused, Why::Refused),
    (io::ErrorKind::TimedOut, Why::TimedOut),
    (io::ErrorKind::WouldBlock, Why::TimedOut),
    (io::ErrorKind::ConnectionReset, Why::Closed),
    (io::ErrorKind::ConnectionAborted, Why::Closed),
    (io::ErrorKind::BrokenPipe, Why::Closed),
    (io::ErrorKind::UnexpectedEof, Why::Closed),
    (io::ErrorKind::HostUnreachable, Why::Unreachable),
    (io::ErrorKind::NetworkUnreachable, Why::Unreachable),
    (io::ErrorKind::InvalidData, Why::Wrong),
];

static NONCE: AtomicU64 = AtomicU64::new(1);

/// A socket that stays open between questions.
#[derive(Debug)]
pub(super) enum Socket {
    /// TCP or SCTP.
    Stream(BufReader<TcpStream>),
    Udp(UdpSocket),
}

impl Socket {
    /// Opens and, given `to`, connects.
    pub(super) fn open(
        transport: Transport,
        to: Option<SocketAddr>,
        from: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Self, Failure> {
        let begun = Instant::now();
        let opened =
            match (transport, to) {
                (Transport::Tcp, Some(to)) => connect::tcp(to, from, timeout)
                    .map(|stream| Self::Stream(BufReader::new(stream))),
                (Transport::Sctp, Some(to)) => connect::sctp(to, from, timeout)
                    .map(|stream| Self::Stream(BufReader::new(stream))),
                (Transport::Tcp | Transport::Sctp, None) => {
                    Err(io::Error::other("such a socket needs somebody to connect to"))
                }
                (Transport::Udp, to) => connect::udp(to, from).map(Self::Udp),
            };
        opened.map_err(|error| failure(&error, begun))
    }

    /// Asks once; `to` is for unconnected sockets only.
    pub(super) fn ask(
        &mut self,
        to: Option<SocketAddr>,
        size: Size,
        timeout: Duration,
    ) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed);
        let asked = match self {
            Self::Stream(stream) => ask_stream(stream, size, nonce, timeout),
            Self::Udp(socket) => ask_udp(socket, to, size, nonce, begun + timeout),
        };
        let (seen, local, peer, received) = asked.map_err(|error| failure(&error, begun))?;
        let body: Vec<u8> = (0..size.up).map(pattern).collect();
        if seen.nonce != nonce || seen.received != size.up || seen.sum != sum(&body) {
            let text = format!("asked {nonce} with {} bytes, got {seen:?}", size.up);
            return Err(Failure { why: Why::Wrong, text, elapsed_ms: elapsed_ms(begun) });
        }
        Ok(Answer { seen, local, peer, received, elapsed_ms: elapsed_ms(begun) })
    }
}

type Asked = (Seen, SocketAddr, SocketAddr, usize);

fn ask_stream(
    stream: &mut BufReader<TcpStream>,
    size: Size,
    nonce: u64,
    timeout: Duration,
) -> io::Result<Asked> {
    stream.get_ref().set_read_timeout(Some(timeout))?;
    stream.get_ref().set_write_timeout(Some(timeout))?;
    let start = format!("POST /{nonce}/{} HTTP/1.1", size.down);
    let body = (0..size.up).map(pattern).collect();
    http::write(stream.get_ref(), &http::Message { start, seen: None, body })?;
    let answer = http::read(stream)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let intact = answer.body.iter().enumerate().all(|(index, byte)| *byte == pattern(index));
    if size.down > 0 && (answer.body.len() != size.down || !intact) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the body is not what was sent"));
    }
    let seen = serde_json::from_str(&answer.seen.unwrap_or_default())?;
    let stream = stream.get_ref();
    Ok((seen, stream.local_addr()?, stream.peer_addr()?, answer.body.len()))
}

fn ask_udp(
    socket: &UdpSocket,
    to: Option<SocketAddr>,
    size: Size,
    nonce: u64,
    deadline: Instant,
) -> io::Result<Asked> {
    let down = u32::try_from(size.down).map_err(io::Error::other)?;
    let mut question = nonce.to_be_bytes().to_vec();
    question.extend(down.to_be_bytes());
    question.extend((0..size.up).map(pattern));
    let sent = match to {
        Some(to) => socket.send_to(&question, to),
        None => socket.send(&question),
    };
    sent.or_else(|error| refused(socket, error))?;
    let mut buffer = vec![0; 65_536];
    // Late answers to earlier questions are passed over.
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let (length, sender) = socket.recv_from(&mut buffer)?;
        let seen: Seen = serde_json::from_slice(&buffer[..length])?;
        if seen.nonce == nonce {
            let peer = if to.is_some() { sender } else { socket.peer_addr()? };
            return Ok((seen, socket.local_addr()?, peer, length));
        }
    }
}

/// The refusal behind a datagram that netfilter has rejected on its way out: `send` says EPERM, as for
/// one that is dropped, and the ICMP error makes the difference a moment later.
fn refused(socket: &UdpSocket, error: io::Error) -> io::Result<usize> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return Err(error);
    }
    for _ in 0..20 {
        if let Some(refusal) = socket.take_error()? {
            return Err(refusal);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Err(error)
}

pub(super) fn failure(error: &io::Error, begun: Instant) -> Failure {
    let why = KINDS.iter().find(|(kind, _)| *kind == error.kind());
    let why = why.map_or(Why::Other, |(_, why)| *why);
    Failure { why, text: error.to_string(), elapsed_ms: elapsed_ms(begun) }
}

pub(super) fn elapsed_ms(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}
