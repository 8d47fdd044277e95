//! The endpoints of a host: every address that the host calls its own, behind one small server.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _, RawFd},
    thread,
};

use anyhow::Context as _;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::{ASK_ONCE, MESSAGE, SINK};

/// Events taken at once.
const EVENTS: usize = 256;
/// What one read takes of a bulk transfer.
const READ: usize = 1 << 18;
/// Stands for the listener among the connections.
const LISTENER: u64 = u64::MAX;
const BACKLOG: i32 = 16_384;

/// Answers TCP on `port` of every address from now on, from a thread; each answer names the host.
pub fn tcp(port: u16, host: u8) -> anyhow::Result<()> {
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port));
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&any.into()).with_context(|| format!("cannot listen on {any}"))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let listener: TcpListener = socket.into();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot make an epoll")?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    thread::spawn(move || {
        let mut server = Server { epoll, connections: BTreeMap::new(), host };
        let mut buffer = vec![0; READ];
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            let count = server.epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or_default();
            for event in events.iter().take(count) {
                match event.data() {
                    LISTENER => server.accept(&listener),
                    fd => server.serve(fd, &mut buffer),
                }
            }
        }
    });
    Ok(())
}

struct Server {
    epoll: Epoll,
    connections: BTreeMap<RawFd, TcpStream>,
    host: u8,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            // A client whose socket cannot be prepared sees it closed.
            if stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)).is_err() {
                continue;
            }
            let fd = stream.as_raw_fd();
            let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::try_from(fd).unwrap_or(LISTENER));
            if self.epoll.add(stream.as_fd(), event).is_ok() {
                self.connections.insert(fd, stream);
            }
        }
    }

    fn serve(&mut self, fd: u64, buffer: &mut [u8]) {
        let Ok(fd) = RawFd::try_from(fd) else { return };
        let Some(stream) = self.connections.get_mut(&fd) else { return };
        if !answer(stream, buffer, self.host) {
            // Closing it takes it out of the epoll.
            self.connections.remove(&fd);
        }
    }
}

/// Whether the connection goes on. Requests are short enough to come in one piece.
fn answer(stream: &mut TcpStream, buffer: &mut [u8], host: u8) -> bool {
    match stream.read(buffer) {
        Ok(0) => false,
        Ok(_) if buffer.first() == Some(&SINK) => true,
        Ok(_) => {
            let goes_on = buffer.first() != Some(&ASK_ONCE);
            stream.write_all(&[host; MESSAGE]).is_ok() && goes_on
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Answers datagrams on one address from now on, from a thread: an answer has to come from where the
/// question went.
pub fn udp(address: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(address).with_context(|| format!("cannot bind to {address}"))?;
    thread::spawn(move || {
        let mut buffer = [0; MESSAGE];
        loop {
            if let Ok((count, from)) = socket.recv_from(&mut buffer) {
                // Who has gone needs no answer.
                let _ = socket.send_to(buffer.get(..count).unwrap_or_default(), from);
            }
        }
    });
    Ok(())
}
