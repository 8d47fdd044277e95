//! Sockets that are bound before they connect, with a limit on the time that takes.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};
use socket2::{Domain, Protocol, Socket, Type};

const SCTP: Protocol = Protocol::SCTP;
const BACKLOG: i32 = 128;

/// A TCP connection to `to`.
pub(super) fn tcp(
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = open(to, SockType::Stream)?;
    if let Some(from) = from {
        // Two connections to different frontends may share a client port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    // The kernel ends a blocking connect after the send timeout, with EINPROGRESS.
    let limit_ms = i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::milliseconds(limit_ms))?;
    let connected = connect(socket.as_raw_fd(), &SockaddrStorage::from(to));
    if connected == Err(Errno::EINPROGRESS) {
        return Err(io::ErrorKind::TimedOut.into());
    }
    connected?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    Ok(stream)
}

/// An SCTP association with `to`; it is read and written as a TCP connection is.
pub(super) fn sctp(
    to: SocketAddr,
    from: Option<SocketAddr>,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let socket = open_sctp(to)?;
    if let Some(from) = from {
        socket.bind(&from.into())?;
    }
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&to.into()).map_err(|error| {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EINPROGRESS) => io::ErrorKind::TimedOut.into(),
            Some(_) | None => error,
        }
    })?;
    Ok(TcpStream::from(OwnedFd::from(socket)))
}

/// A listener for SCTP associations; it is used as one for TCP connections is.
pub(super) fn sctp_listener(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = open_sctp(at)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(TcpListener::from(OwnedFd::from(socket)))
}

/// An SCTP socket that tells its peer of no addresses of another family.
pub(crate) fn open_sctp(like: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(like), Type::STREAM, Some(SCTP))?;
    if like.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A UDP socket in the family of `to` or `from`, connected to `to` if it is given.
pub(super) fn udp(to: Option<SocketAddr>, from: Option<SocketAddr>) -> io::Result<UdpSocket> {
    let any_v4 = SocketAddr::from(([0, 0, 0, 0], 0));
    let family = to.or(from).unwrap_or(any_v4);
    let socket = open(family, SockType::Datagram)?;
    // An unconnected socket hears of an ICMP error only if it asks for them.
    if family.is_ipv4() {
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
    } else {
        setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
    }
    if let Some(from) = from {
        bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    }
    if let Some(to) = to {
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    }
    Ok(UdpSocket::from(socket))
}

fn open(peer: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if peer.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?)
}
