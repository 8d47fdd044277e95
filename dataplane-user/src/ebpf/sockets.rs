//! Destroys connected UDP sockets whose endpoint has left, so that their owners notice at once.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_sock_diag::{
    SockDiagDestroy, SockDiagMessage,
    constants::{AF_INET, AF_INET6, IPPROTO_UDP},
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::ask;

/// Looking for sockets or destroying one failed.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's socket diagnosis does not answer.
    #[error("cannot list UDP sockets through sock_diag")]
    List(#[source] io::Error),
    /// The kernel did not destroy a socket.
    #[error("cannot destroy the UDP socket connected to {peer}")]
    Destroy {
        /// Where it is connected to.
        peer: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Destroys the connected UDP sockets in this thread's network namespace whose peer is one of
/// `departed` and for which `is_ours(cookie, peer)` holds; says how many there were.
///
/// The cookie (`SO_COOKIE`) leads to the map `PEERS`: a socket that was connected to a pod by its
/// own address, or through another service that still has the pod, is not ours.
pub fn destroy_udp(
    departed: &BTreeSet<SocketAddr>,
    is_ours: impl Fn(u64, SocketAddr) -> bool,
) -> Result<usize, SocketError> {
    let mut destroyed = 0;
    for family in [AF_INET, AF_INET6] {
        for id in list(family).map_err(SocketError::List)? {
            let peer = peer(&id);
            let cookie = cookie(&id);
            if departed.contains(&peer) && is_ours(cookie, peer) {
                match destroy(family, id) {
                    Ok(()) => destroyed += 1,
                    // It was closed meanwhile.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(source) => return Err(SocketError::Destroy { peer, source }),
                }
            }
        }
    }
    Ok(destroyed)
}

/// The kernel reports a cookie as two words, the lower one first.
fn cookie(id: &SocketId) -> u64 {
    let bits = u64::from_ne_bytes(id.cookie);
    // On a big-endian machine the lower word comes first all the same.
    if cfg!(target_endian = "big") { bits.rotate_left(32) } else { bits }
}

/// The peer; that of a dual-stack socket as the IPv4 address it is.
fn peer(id: &SocketId) -> SocketAddr {
    let address: IpAddr = id.destination_address.to_canonical();
    SocketAddr::new(address, id.destination_port)
}

fn request(family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_UDP,
        extensions: ExtensionFlags::empty(),
        // A connected UDP socket is in the state that TCP calls established.
        states: StateFlags::ESTABLISHED,
        socket_id,
    })
}

fn list(family: u8) -> io::Result<Vec<SocketId>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let answers = ask(NETLINK_SOCK_DIAG, NLM_F_DUMP, request(family, any))?;
    let id = |answer: SockDiagMessage| match answer {
        SockDiagMessage::InetResponse(found) => Some(found.header.socket_id),
        SockDiagMessage::InetRequest(_)
        | SockDiagMessage::UnixRequest(_)
        | SockDiagMessage::UnixResponse(_) => None,
    };
    Ok(answers.into_iter().filter_map(id).collect())
}

fn destroy(family: u8, id: SocketId) -> io::Result<()> {
    let message = SockDiagDestroy::new(request(family, id));
    ask::<_, SockDiagMessage>(NETLINK_SOCK_DIAG, NLM_F_ACK, message).map(drop)
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd, process::Command, thread};

    use super::*;

    #[test]
    fn only_sockets_connected_to_an_endpoint_that_left_are_destroyed() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: a network namespace of our own needs root");
            return;
        }
        // The namespace is this thread's alone and ends with it.
        let test = || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
            assert!(up.success());
            for local in ["127.0.0.1:0", "[::1]:0"] {
                let (gone, stays) =
                    (UdpSocket::bind(local).unwrap(), UdpSocket::bind(local).unwrap());
                let connect = |to: &UdpSocket| {
                    let socket = UdpSocket::bind(local).unwrap();
                    socket.connect(to.local_addr().unwrap()).unwrap();
                    socket
                };
                let (client, other) = (connect(&gone), connect(&stays));
                let departed = BTreeSet::from([gone.local_addr().unwrap()]);
                assert_eq!(destroy_udp(&departed, |_, _| false).unwrap(), 0, "not ours");
                client.send(b"alive").unwrap();
                let ours = kernel_cookie(&client);
                assert_eq!(destroy_udp(&departed, |found, _| found == ours).unwrap(), 1);
                let error = client.recv(&mut [0; 8]).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
                other.send(b"alive").unwrap();
            }
        };
        thread::spawn(test).join().unwrap();
    }

    /// `SO_COOKIE`, which is what `bpf_get_socket_cookie` gives a program.
    fn kernel_cookie(socket: &UdpSocket) -> u64 {
        crate::ebpf::kernel::socket_cookie(socket.as_fd()).unwrap()
    }
}
