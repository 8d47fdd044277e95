//! Speaks with neighbours through packet sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{LinkAddr, MsgFlags, recvfrom, sendto},
};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::{io::Interest, net::UdpSocket};

use super::packet::{self, ARP, Heard, ICMPV6, IPV6, Mac, SOLICITATION};
use crate::network::Network;

/// Longer than what is looked at of any frame.
const FRAME_MAX: usize = 256;

/// A device on the nodes' network.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// Its name.
    pub(super) name: String,
    /// Its number and Ethernet address, as the kernel takes and gives them.
    pub(super) link: LinkAddr,
    /// Its Ethernet address.
    pub(super) mac: Mac,
    /// The networks that it is on.
    pub(super) networks: Vec<Network>,
}

/// Devices that have one of the node's addresses.
pub(super) fn devices(own: &[IpAddr]) -> io::Result<Vec<Device>> {
    let (mut links, mut networks) = (BTreeMap::new(), BTreeMap::<String, Vec<Network>>::new());
    let mut names = BTreeSet::new();
    for entry in getifaddrs()? {
        let name = entry.interface_name;
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            if let Some(mac) = link.addr().filter(|it| *it != [0; 6]) {
                links.insert(name, (*link, mac));
            }
            continue;
        }
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        let Some(ip) = v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
        else {
            continue;
        };
        let mask = entry.netmask;
        let prefix = match ip {
            IpAddr::V4(_) => {
                mask.and_then(|it| it.as_sockaddr_in().map(|it| it.ip().to_bits().count_ones()))
            }
            IpAddr::V6(_) => {
                mask.and_then(|it| it.as_sockaddr_in6().map(|it| it.ip().to_bits().count_ones()))
            }
        };
        if own.contains(&ip) {
            names.insert(name.clone());
        }
        let prefix = prefix.and_then(|it| u8::try_from(it).ok());
        let network = prefix.map(|prefix| Network { address: ip, prefix });
        networks.entry(name).or_default().extend(network);
    }
    let device = |name: String| {
        let (link, mac) = links.remove(&name)?;
        let networks = networks.remove(&name).unwrap_or_default();
        Some(Device { name, link, mac, networks })
    };
    Ok(names.into_iter().filter_map(device).collect())
}

/// The sockets, for all devices of the network namespace.
#[derive(Debug)]
pub(super) struct Sockets {
    arp: UdpSocket,
    discovery: UdpSocket,
    /// Holds on to the groups that solicitations are sent to.
    groups: Option<std::net::UdpSocket>,
    joined: BTreeSet<(Ipv6Addr, u32)>,
}

/// One that hears frames of one type; needs `CAP_NET_RAW`.
fn socket(kind: u16, filter: &[SockFilter]) -> io::Result<UdpSocket> {
    let protocol = Protocol::from(i32::from(kind.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    if !filter.is_empty() {
        socket.attach_filter(filter)?;
    }
    socket.set_nonblocking(true)?;
    // Only the reactor cares for what it is called; what it reads and writes are frames.
    UdpSocket::from_std(OwnedFd::from(socket).into())
}

/// Lets through solicitations of neighbours and nothing else of IPv6.
fn solicitations() -> [SockFilter; 6] {
    // Classic BPF, in the kernel's encoding: load a byte, jump unless equal, end with a length.
    let load = |at| SockFilter::new(0x30, 0, 0, at);
    let unless = |value: u8, skip| SockFilter::new(0x15, 0, skip, value.into());
    let end = |len| SockFilter::new(0x06, 0, 0, len);
    [load(20), unless(ICMPV6, 3), load(54), unless(SOLICITATION, 1), end(u32::MAX), end(0)]
}

impl Sockets {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            arp: socket(ARP, &[])?,
            discovery: socket(IPV6, &solicitations())?,
            groups: std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).ok(),
            joined: BTreeSet::new(),
        })
    }

    /// What the next neighbour says, and by which device it came (its number).
    pub(super) async fn hear(&self) -> io::Result<(Heard, usize)> {
        loop {
            let socket = tokio::select! {
                ready = self.arp.readable() => ready.map(|()| &self.arp)?,
                ready = self.discovery.readable() => ready.map(|()| &self.discovery)?,
            };
            let mut frame = [0; FRAME_MAX];
            let read = socket.try_io(Interest::READABLE, || {
                Ok(recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame)?)
            });
            match read {
                Ok((len, from)) => {
                    let heard = frame.get(..len).and_then(packet::read);
                    if let (Some(heard), Some(from)) = (heard, from) {
                        return Ok((heard, from.ifindex()));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Claims an address, answering somebody or unasked.
    pub(super) fn claim(
        &self,
        device: &Device,
        address: IpAddr,
        to: Option<(Mac, IpAddr)>,
    ) -> io::Result<()> {
        let frame = packet::claim(device.mac, address, to);
        let socket = if address.is_ipv4() { &self.arp } else { &self.discovery };
        sendto(socket.as_raw_fd(), &frame, &device.link, MsgFlags::empty())?;
        Ok(())
    }

    /// Makes the device take in solicitations for an address.
    pub(super) fn join(&mut self, device: &Device, address: Ipv6Addr) {
        let index = u32::try_from(device.link.ifindex()).unwrap_or_default();
        let group = packet::group(address);
        let Some(groups) = self.groups.as_ref().filter(|_| !self.joined.contains(&(group, index)))
        else {
            return;
        };
        match groups.join_multicast_v6(&group, index) {
            Ok(()) => drop(self.joined.insert((group, index))),
            Err(error) => tracing::warn!(%error, %group, "neighbours' questions may not arrive"),
        }
    }
}
