//! What the socket hooks do: send a socket to an endpoint, and let it believe it talks to the frontend.

#[cfg(test)]
mod tests;

use dataplane_common::{
    AffinityKey, Config, EndpointId, Flow, Frontend, Peer, PeerKey, Reason, TCP, UDP, gate,
    unmapped,
};

use crate::{
    address::Ip,
    find::{self, Destination, Loopback, Miss},
    select::{self, Client, Denied, Scope, View},
    tables::{Ports, Tables},
};

/// One end of a socket. IPv4 addresses are `::ffff:a.b.c.d`, as in `PeerKey`.
///
/// Aligned for the kernel, which takes 8 bytes of its stack at a time only where they are aligned.
#[repr(C, align(8))]
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
    /// The call fails, with an error that the reason decides.
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

    /// The cookie of the socket's network namespace.
    fn netns_cookie(&self) -> u64;

    /// The cookie of the node's own network namespace.
    fn host_netns_cookie(&self) -> u64;

    /// Bits named `Config::*`.
    fn config_flags(&self) -> u32;

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
    let place = Place::of(sockets);
    if protocol == UDP && place.is_pod_with_link {
        return Decision::Keep(Reason::LeftToPodLink);
    }
    let choice = choose(sockets, &ports, name, protocol, &place);
    if choice.kind == Kind::Replace {
        let reply = peer_key(sockets.cookie(), &choice.endpoint, protocol, true);
        sockets.remember(&reply, &choice.identity.peer(name));
    }
    choice.decision(Reason::New)
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
    let key = peer_key(sockets.cookie(), name, UDP, false);
    let mut reason = Reason::New;
    if let Some(last) = sockets.peer(&key) {
        if sockets.is_live(EndpointId::from_bits(last.endpoint), u32::from(last.views)) {
            let endpoint = Name { addr: last.addr, port: last.port };
            let identity = Identity { endpoint: last.endpoint, views: last.views };
            unmask_as(sockets, key.cookie, &endpoint, name, &identity);
            return Decision::Replace(endpoint, Reason::Established);
        }
        reason = Reason::Reselected;
    }
    let place = Place::of(sockets);
    let choice = choose(sockets, &ports, name, UDP, &place);
    if choice.kind == Kind::Replace {
        sockets.remember(&key, &choice.identity.peer(&choice.endpoint));
        unmask_as(sockets, key.cookie, &choice.endpoint, name, &choice.identity);
    }
    choice.decision(reason)
}

/// Show the socket this endpoint as `frontend`. Two frontends may lead to one endpoint: the one that
/// was asked last is the one that answers.
#[inline(always)]
fn unmask_as<S: Sockets>(
    sockets: &mut S,
    cookie: u64,
    endpoint: &Name,
    frontend: &Name,
    identity: &Identity,
) {
    let key = peer_key(cookie, endpoint, UDP, true);
    let shown = identity.peer(frontend);
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

/// What a choice came to.
///
/// All of it is always set: of an enum with values the compiler would leave some out, and then copy
/// them, which the verifier forbids.
struct Choice {
    kind: Kind,
    reason: Reason,
    endpoint: Name,
    identity: Identity,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Keep,
    Refuse,
    Replace,
}

impl Choice {
    #[inline(always)]
    const fn none(kind: Kind, reason: Reason) -> Self {
        let endpoint = Name { addr: [0; 16], port: [0; 2] };
        Self { kind, reason, endpoint, identity: Identity { endpoint: 0, views: 0 } }
    }

    /// What the hook does; `begun` is the reason if there is an endpoint.
    #[inline(always)]
    const fn decision(&self, begun: Reason) -> Decision {
        match self.kind {
            Kind::Keep => Decision::Keep(self.reason),
            Kind::Refuse => Decision::Refuse(self.reason),
            Kind::Replace => Decision::Replace(self.endpoint, begun),
        }
    }
}

/// Which endpoint was chosen, and in which views.
struct Identity {
    endpoint: u32,
    views: u16,
}

impl Identity {
    #[inline(always)]
    const fn peer(&self, name: &Name) -> Peer {
        Peer { addr: name.addr, port: name.port, views: self.views, endpoint: self.endpoint }
    }
}

/// Where a socket is.
struct Place {
    netns_cookie: u64,
    /// In the node's own network namespace.
    is_host: bool,
    /// In that of a pod whose packets TC serves.
    is_pod_with_link: bool,
    /// Whose its loopback addresses are.
    loopback: Loopback,
}

impl Place {
    #[inline(always)]
    fn of<S: Sockets>(sockets: &S) -> Self {
        let (netns_cookie, flags) = (sockets.netns_cookie(), sockets.config_flags());
        let is_host = netns_cookie == sockets.host_netns_cookie();
        let loopback = match (is_host, flags & Config::LOOPBACK != 0) {
            (true, true) => Loopback::NodePorts,
            (true, false) => Loopback::Node,
            (false, _) => Loopback::Foreign,
        };
        let is_pod_with_link = !is_host && flags & Config::POD_LINKS != 0;
        Self { netns_cookie, is_host, is_pod_with_link, loopback }
    }
}

#[inline(always)]
fn choose<S: Sockets>(
    sockets: &mut S,
    ports: &Ports,
    name: &Name,
    protocol: u8,
    place: &Place,
) -> Choice {
    match unmapped(name.addr) {
        Some(addr) => choose_in::<S, 4>(sockets, ports, place, addr, (name.port, protocol)),
        None => choose_in::<S, 16>(sockets, ports, place, name.addr, (name.port, protocol)),
    }
}

#[inline(always)]
fn choose_in<S, const N: usize>(
    sockets: &mut S,
    ports: &Ports,
    place: &Place,
    addr: [u8; N],
    (port, protocol): ([u8; 2], u8),
) -> Choice
where
    S: Sockets + Tables<N>,
    [u8; N]: Ip,
{
    let port = u16::from_be_bytes(port);
    let to = Destination { addr, port, protocol, loopback: place.loopback };
    let frontend = match find::frontend(sockets, ports, &to) {
        Ok(frontend) => frontend,
        Err(Miss::NotAService) => return Choice::none(Kind::Keep, Reason::NotAService),
        Err(Miss::Unmapped) => return Choice::none(Kind::Refuse, Reason::Refused),
    };
    // Here the source is not known yet: TC checks it, makes it the node's, or tells the client by it
    // as on every other way to the service.
    let needs_source = Frontend::MASQUERADE_INSIDE | Frontend::SOURCE_RANGES | Frontend::AFFINITY;
    if place.is_pod_with_link && frontend.flags & needs_source != 0 {
        return Choice::none(Kind::Keep, Reason::LeftToPodLink);
    }
    let client = Client {
        addr: if place.is_host { sockets.masquerade() } else { None },
        identity: AffinityKey::of_namespace(0, place.netns_cookie).client,
        number: sockets.random(),
    };
    match select::choose(sockets, &frontend, &View::of(&frontend, Scope::Inside), &client) {
        Ok(chosen) => {
            let name = Name { addr: chosen.addr.widened(), port: chosen.port.to_be_bytes() };
            #[expect(clippy::cast_possible_truncation, reason = "two bits")]
            let views = Flow::<N>::views(chosen.flags) as u16;
            let identity = Identity { endpoint: chosen.id.to_bits(), views };
            Choice { kind: Kind::Replace, reason: Reason::New, endpoint: name, identity }
        }
        Err(Denied::Refuse) => Choice::none(Kind::Refuse, Reason::Refused),
        Err(Denied::Drop(reason)) => Choice::none(Kind::Refuse, reason),
    }
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

#[inline(always)]
const fn peer_key(cookie: u64, name: &Name, protocol: u8, reply: bool) -> PeerKey {
    let direction = reply as u8;
    PeerKey { cookie, addr: name.addr, port: name.port, protocol, direction, pad: [0; 4] }
}
