//! What the socket hooks do: send a socket to an endpoint, and let it believe it talks to the frontend.

use dataplane_common::{
    Endpoint, EndpointId, FrontendKey, Peer, PeerKey, Reason, TCP, UDP, gate, mapped, unmapped,
};

use crate::{
    select,
    tables::{Ports, Tables},
};

/// One end of a socket. IPv4 addresses are `::ffff:a.b.c.d`, as in `PeerKey`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The address.
    pub addr: [u8; 16],
    /// The port, in network order.
    pub port: [u8; 2],
}

/// What a hook does with the address that it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Leave it.
    Keep(Reason),
    /// Put this one in its place.
    Replace(Name, Reason),
    /// The call fails with `ECONNREFUSED`.
    Refuse(Reason),
}

impl Decision {
    /// The reason, whatever the decision.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Keep(reason) | Self::Replace(_, reason) | Self::Refuse(reason) => reason,
        }
    }
}

/// What the hooks look up beside the tables of the packet path.
pub trait Sockets: Tables<4> + Tables<16> {
    /// A number that never repeats for another socket.
    fn cookie(&self) -> u64;

    /// Whether the socket is in the node's own network namespace.
    fn is_on_host(&self) -> bool;

    /// Whether TC translates the datagrams of pods (see `Config::POD_LINKS`).
    fn has_pod_links(&self) -> bool;

    /// Any number.
    fn random(&self) -> u32;

    /// What the socket was translated to.
    fn peer(&self, key: &PeerKey) -> Option<Peer>;

    /// Remember what the socket was translated to.
    fn remember(&mut self, key: &PeerKey, peer: &Peer);
}

/// `connect`: the socket goes to an endpoint once and for all.
#[inline(always)]
pub fn connect<S: Sockets>(sockets: &mut S, name: &Name, protocol: u8) -> Decision {
    let Some(ports) = sockets.ports() else {
        return Decision::Keep(Reason::NotConfigured);
    };
    if protocol != TCP && protocol != UDP {
        return Decision::Keep(Reason::NotTransport);
    }
    let on_host = sockets.is_on_host();
    if protocol == UDP && !on_host && sockets.has_pod_links() {
        return Decision::Keep(Reason::LeftToPodLink);
    }
    match choose(sockets, &ports, name, protocol, on_host) {
        Choice::NotOurs => Decision::Keep(Reason::NotAService),
        Choice::NoEndpoint => Decision::Refuse(Reason::Refused),
        Choice::Endpoint(endpoint, id) => {
            let reply = peer_key(sockets.cookie(), &endpoint, protocol, true);
            sockets.remember(&reply, &peer(name, id));
            Decision::Replace(endpoint, Reason::New)
        }
    }
}

/// `sendmsg` on an unconnected UDP socket: each datagram goes to the frontend's endpoint of the last
/// one, for as long as that endpoint is there.
#[inline(always)]
pub fn sendmsg<S: Sockets>(sockets: &mut S, name: &Name) -> Decision {
    let Some(ports) = sockets.ports() else {
        return Decision::Keep(Reason::NotConfigured);
    };
    if !may_be_frontend(sockets, &ports, name) {
        return Decision::Keep(Reason::NotAService);
    }
    let on_host = sockets.is_on_host();
    let key = peer_key(sockets.cookie(), name, UDP, false);
    let mut reason = Reason::New;
    if let Some(last) = sockets.peer(&key) {
        if sockets.is_live(EndpointId::from_bits(last.endpoint)) {
            let endpoint = Name { addr: last.addr, port: last.port };
            unmask_as(sockets, key.cookie, &endpoint, name, last.endpoint);
            return Decision::Replace(endpoint, Reason::Established);
        }
        reason = Reason::Reselected;
    }
    match choose(sockets, &ports, name, UDP, on_host) {
        Choice::NotOurs => Decision::Keep(Reason::NotAService),
        Choice::NoEndpoint => Decision::Refuse(Reason::Refused),
        Choice::Endpoint(endpoint, id) => {
            sockets.remember(&key, &peer(&endpoint, id));
            unmask_as(sockets, key.cookie, &endpoint, name, id);
            Decision::Replace(endpoint, reason)
        }
    }
}

/// Show the socket this endpoint as `frontend`. Two frontends may lead to one endpoint: the one that
/// was asked last is the one that answers.
#[inline(always)]
fn unmask_as<S: Sockets>(sockets: &mut S, cookie: u64, endpoint: &Name, frontend: &Name, id: u32) {
    let key = peer_key(cookie, endpoint, UDP, true);
    let shown = peer(frontend, id);
    if sockets.peer(&key) != Some(shown) {
        sockets.remember(&key, &shown);
    }
}

/// `recvmsg` and `getpeername`: an endpoint is shown as the frontend that the socket asked for.
#[inline(always)]
pub fn unmask<S: Sockets>(sockets: &S, name: &Name, protocol: u8) -> Decision {
    match sockets.peer(&peer_key(sockets.cookie(), name, protocol, true)) {
        Some(frontend) => {
            Decision::Replace(Name { addr: frontend.addr, port: frontend.port }, Reason::Reply)
        }
        None => Decision::Keep(Reason::NotAReply),
    }
}

enum Choice {
    NotOurs,
    NoEndpoint,
    Endpoint(Name, u32),
}

#[inline(always)]
fn choose<S: Sockets>(
    sockets: &S,
    ports: &Ports,
    name: &Name,
    protocol: u8,
    on_host: bool,
) -> Choice {
    let call = Call { ports, port: name.port, protocol, on_host, random: sockets.random() };
    match unmapped(name.addr) {
        Some(addr) => choose_in::<S, 4>(sockets, addr, &call),
        None => choose_in::<S, 16>(sockets, name.addr, &call),
    }
}

/// What a choice depends on, beside the address.
struct Call<'a> {
    ports: &'a Ports,
    port: [u8; 2],
    protocol: u8,
    on_host: bool,
    random: u32,
}

#[inline(always)]
fn choose_in<S, const N: usize>(sockets: &S, addr: [u8; N], call: &Call<'_>) -> Choice
where
    S: Tables<N>,
    [u8; N]: Loopback,
{
    let port = u16::from_be_bytes(call.port);
    let (word, mask) = gate::bit(&addr);
    let mut found = None;
    if sockets.gate(word, mask) {
        found = sockets.frontend(&FrontendKey::new(addr, port, call.protocol));
    }
    let may_be_node = call.ports.is_node(port);
    if found.is_none()
        && may_be_node
        && (sockets.is_node_address(&addr) || (call.on_host && addr.is_loopback()))
    {
        found = sockets.frontend(&FrontendKey::any_node_address(port, call.protocol));
    }
    let Some(frontend) = found else { return Choice::NotOurs };
    let Some(slot) = select::slot(&frontend.inside, call.random) else {
        return Choice::NoEndpoint;
    };
    match sockets.endpoint(slot) {
        Some(endpoint) => named(&endpoint),
        None => Choice::NoEndpoint,
    }
}

#[inline(always)]
fn named<const N: usize>(endpoint: &Endpoint<N>) -> Choice
where
    [u8; N]: Loopback,
{
    let name = Name { addr: endpoint.addr().widened(), port: endpoint.port().to_be_bytes() };
    Choice::Endpoint(name, endpoint.id().to_bits())
}

#[inline(always)]
fn may_be_frontend<S: Sockets>(sockets: &S, ports: &Ports, name: &Name) -> bool {
    let port = u16::from_be_bytes(name.port);
    let (word, mask) = match unmapped(name.addr) {
        Some(addr) => gate::bit(&addr),
        None => gate::bit(&name.addr),
    };
    ports.is_node(port) || sockets.gate(word, mask)
}

/// What the socket hooks ask of an address.
trait Loopback: Copy {
    /// Whether it means this host (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
    fn is_loopback(&self) -> bool;

    /// The address in 16 bytes.
    fn widened(&self) -> [u8; 16];
}

impl Loopback for [u8; 4] {
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        self[0] == 127
    }

    #[inline(always)]
    fn widened(&self) -> [u8; 16] {
        mapped(*self)
    }
}

impl Loopback for [u8; 16] {
    #[inline(always)]
    fn is_loopback(&self) -> bool {
        *self == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    }

    #[inline(always)]
    fn widened(&self) -> [u8; 16] {
        *self
    }
}

#[inline(always)]
const fn peer_key(cookie: u64, name: &Name, protocol: u8, reply: bool) -> PeerKey {
    let direction = reply as u8;
    PeerKey { cookie, addr: name.addr, port: name.port, protocol, direction, pad: [0; 4] }
}

#[inline(always)]
const fn peer(name: &Name, endpoint: u32) -> Peer {
    Peer { addr: name.addr, port: name.port, views: 0, endpoint }
}
