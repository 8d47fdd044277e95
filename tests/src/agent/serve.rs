//! Servers that answer with who they are and whom they see.

use std::{
    collections::BTreeMap,
    io::{self, BufReader},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    connect,
    http::{self, Message},
    protocol::{Seen, Transport, pattern, sum},
};

/// How often a server looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// The servers of one agent.
#[derive(Debug, Default)]
pub(super) struct Servers {
    stops: Mutex<BTreeMap<(Transport, SocketAddr), Arc<AtomicBool>>>,
}

impl Servers {
    /// Starts a server; it listens when this returns.
    pub(super) fn start(
        &self,
        name: String,
        transport: Transport,
        at: SocketAddr,
    ) -> io::Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        match transport {
            Transport::Tcp | Transport::Sctp => {
                let listener = if transport == Transport::Tcp {
                    TcpListener::bind(at)?
                } else {
                    connect::sctp_listener(at)?
                };
                listener.set_nonblocking(true)?;
                thread::spawn(move || accept(&listener, &name, &stopped));
            }
            Transport::Udp => {
                let socket = UdpSocket::bind(at)?;
                socket.set_read_timeout(Some(STOP_CHECK))?;
                thread::spawn(move || echo(&socket, &name, &stopped));
            }
        }
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        stops.insert((transport, at), stop);
        Ok(())
    }

    /// Stops a server; connections that it has accepted stay.
    pub(super) fn stop(&self, transport: Transport, at: SocketAddr) {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = stops.remove(&(transport, at)) {
            stop.store(true, Ordering::Relaxed);
        }
        // A caller that connects next must find the socket closed.
        thread::sleep(STOP_CHECK * 2);
    }
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, client)) => {
                let name = name.to_owned();
                // A client that goes away ends its connection; nobody waits for the error.
                thread::spawn(move || drop(talk(&stream, client, &name)));
            }
            Err(_nobody) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn talk(stream: &TcpStream, client: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    // SCTP has no such option; its messages are short enough to go at once.
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr()?;
    let mut reader = BufReader::new(stream.try_clone()?);
    while let Some(request) = http::read(&mut reader)? {
        // `POST /<nonce>/<bytes wanted> HTTP/1.1`
        let path = request.start.split(' ').nth(1).unwrap_or_default();
        let mut numbers = path.split('/').skip(1).map(|part| part.parse().unwrap_or(0));
        let nonce = numbers.next().unwrap_or(0);
        let down = usize::try_from(numbers.next().unwrap_or(0)).unwrap_or(0);
        let seen = Seen {
            pod: name.to_owned(),
            client: canonical(client),
            local: canonical(local),
            received: request.body.len(),
            sum: sum(&request.body),
            nonce,
        };
        let text = serde_json::to_string(&seen)?;
        // Whoever asks for nothing in particular (a person with curl) reads it in the body.
        let body = if down == 0 {
            format!("{text}\n").into_bytes()
        } else {
            (0..down).map(pattern).collect()
        };
        let start = "HTTP/1.1 200 OK".to_owned();
        http::write(stream, &Message { start, seen: Some(text), body })?;
    }
    Ok(())
}

fn echo(socket: &UdpSocket, name: &str, stop: &AtomicBool) {
    let Ok(local) = socket.local_addr() else { return };
    let mut buffer = vec![0; 65_536];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let Some((nonce, rest)) = buffer[..length].split_first_chunk::<8>() else { continue };
        let Some((down, body)) = rest.split_first_chunk::<4>() else { continue };
        let seen = Seen {
            pod: name.to_owned(),
            client: canonical(client),
            local: canonical(local),
            received: body.len(),
            sum: sum(body),
            nonce: u64::from_be_bytes(*nonce),
        };
        if let Ok(mut text) = serde_json::to_vec(&seen) {
            let down = usize::try_from(u32::from_be_bytes(*down)).unwrap_or(0);
            // Blanks after it do not change what JSON says.
            text.resize(text.len().max(down), b' ');
            // A client that has gone away needs no answer.
            let _ = socket.send_to(&text, client);
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
