//! Clients of the lab: one connection after the other, or as many as the machine takes.

pub mod frames;
pub mod processor;
pub mod server;

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use socket2::{Domain, Protocol, Socket, Type};

/// Longer than any answer takes; a lost packet is sent again after 1 s.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Clients that ask side by side.
const CLIENTS: usize = 4;
/// Bytes of a request, of an answer, and of one write of a bulk transfer.
pub const MESSAGE: usize = 64;
const BULK: usize = 1 << 17;

/// The first byte of a connection says what it is for.
pub const ASK_ONCE: u8 = b'o';
/// Requests follow each other.
pub const ASK_ON: u8 = b'k';
/// Bytes that nobody answers.
pub const SINK: u8 = b's';

/// Ports that clients bind themselves, so that no connection meets what an earlier one left behind;
/// the kernel gives out the others.
pub const OWN_PORTS: std::ops::Range<u16> = 1_024..20_000;

/// The port that comes after so many others.
fn own_port(number: u32) -> u16 {
    let count = u32::from(OWN_PORTS.end - OWN_PORTS.start);
    OWN_PORTS.start + u16::try_from(number % count).unwrap_or_default()
}

/// One connection: its time until it is there. Port 0 is one that the kernel chooses.
pub fn connect(to: SocketAddr, port: u16) -> anyhow::Result<(TcpStream, Duration)> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))
        .context("cannot make a socket")?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    if port != 0 {
        socket.set_reuse_address(true)?;
        let here = any(to, port);
        socket.bind(&here.into()).with_context(|| format!("cannot bind to {here}"))?;
    }
    let address = to.into();
    let begun = Instant::now();
    socket.connect(&address).with_context(|| format!("cannot connect to {to}"))?;
    let elapsed = begun.elapsed();
    socket.set_tcp_nodelay(true)?;
    Ok((socket.into(), elapsed))
}

fn any(to: SocketAddr, port: u16) -> SocketAddr {
    match to {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// Connects to each of these, from ports that begin with number `first`; µs of each.
pub fn connect_all(targets: &[SocketAddr], first: u32) -> anyhow::Result<Vec<f64>> {
    let mut samples = Vec::with_capacity(targets.len());
    for (number, &to) in (first..).zip(targets) {
        let (stream, elapsed) = connect(to, own_port(number))?;
        samples.push(elapsed.as_secs_f64() * 1e6);
        // The next one begins with nothing left to do for this one.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    }
    Ok(samples)
}

/// One datagram there and back from a new port each time, the first of them number `first`; µs of
/// each.
pub fn exchange_all(targets: &[SocketAddr], first: u32) -> anyhow::Result<Vec<f64>> {
    let mut samples = Vec::with_capacity(targets.len());
    for (number, &to) in (first..).zip(targets) {
        let here = any(to, own_port(number));
        let socket = UdpSocket::bind(here).with_context(|| format!("cannot bind to {here}"))?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut answer = [0; MESSAGE];
        let begun = Instant::now();
        socket.send_to(&[ASK_ONCE; MESSAGE], to).with_context(|| format!("cannot ask {to}"))?;
        socket.recv_from(&mut answer).with_context(|| format!("{to} does not answer"))?;
        samples.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(samples)
}

/// Connect, request, response, close; which host has answered.
pub fn ask_once(to: SocketAddr) -> anyhow::Result<u8> {
    let (mut stream, _) = connect(to, 0)?;
    stream.write_all(&[ASK_ONCE; MESSAGE])?;
    let mut answer = [0; MESSAGE];
    stream.read_exact(&mut answer).with_context(|| format!("{to} does not answer"))?;
    // The server closes first, so that ports of the client are free again.
    if stream.read(&mut answer)? != 0 {
        bail!("{to} says more than it was asked");
    }
    let [host, ..] = answer;
    Ok(host)
}

/// What clients did side by side until time was over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// How often, or how many bytes.
    pub done: u64,
    /// In how long.
    pub elapsed: Duration,
}

impl Rate {
    /// How often per second.
    pub fn per_second(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let done = self.done as f64;
        done / self.elapsed.as_secs_f64()
    }
}

/// Runs `client` on threads of this namespace until `length` is over. It gets its number, and counts.
fn side_by_side(
    length: Duration,
    client: impl Fn(usize, &AtomicBool, &AtomicU64) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<Rate> {
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|scope| {
        let (over, done, client) = (&over, &done, &client);
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || client(number, over, done))).collect();
        thread::sleep(length);
        let rate = Rate { done: done.load(Ordering::Relaxed), elapsed: begun.elapsed() };
        over.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_panic| anyhow::anyhow!("a client has panicked"))??;
        }
        Ok(rate)
    })
}

/// Short connections, as many as the machine takes.
pub fn short(to: SocketAddr, length: Duration) -> anyhow::Result<Rate> {
    side_by_side(length, |_, over, done| {
        while !over.load(Ordering::Relaxed) {
            ask_once(to)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// Short connections at `rate` per second.
pub fn paced(to: SocketAddr, length: Duration, rate: u32) -> anyhow::Result<Rate> {
    #[expect(clippy::cast_possible_truncation, reason = "a handful of clients")]
    let gap = Duration::from_secs(1) * CLIENTS as u32 / rate;
    side_by_side(length, |_, over, done| {
        let mut due = Instant::now();
        while !over.load(Ordering::Relaxed) {
            ask_once(to)?;
            done.fetch_add(1, Ordering::Relaxed);
            due += gap;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    })
}

/// Requests and answers on connections that stay.
pub fn requests(to: SocketAddr, length: Duration) -> anyhow::Result<Rate> {
    side_by_side(length, |_, over, done| {
        let (mut stream, _) = connect(to, 0)?;
        let mut answer = [0; MESSAGE];
        while !over.load(Ordering::Relaxed) {
            stream.write_all(&[ASK_ON; MESSAGE])?;
            stream.read_exact(&mut answer).with_context(|| format!("{to} does not answer"))?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    })
}

/// Bytes in one direction on connections that stay.
pub fn throughput(to: SocketAddr, length: Duration) -> anyhow::Result<Rate> {
    side_by_side(length, |_, over, done| {
        let (mut stream, _) = connect(to, 0)?;
        let bytes = vec![SINK; BULK];
        while !over.load(Ordering::Relaxed) {
            match stream.write(&bytes) {
                Ok(count) => done.fetch_add(count as u64, Ordering::Relaxed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error).context("cannot write"),
            };
        }
        Ok(())
    })
}
