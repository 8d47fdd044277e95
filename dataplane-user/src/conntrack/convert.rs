//! One connection in the words of both worlds: an entry of connection tracking, two entries of a flow.

use std::net::{IpAddr, SocketAddr};

use dataplane_common::{Config, Flow, FlowKey, Link, TCP, UDP};

use super::{
    Entry, Tuple,
    entry::{status, tcp},
};
use crate::ebpf::{address, octets};

/// Seconds for which an entry that was a flow may be silent; connection tracking sets its own as soon
/// as a packet comes.
mod timeout_s {
    pub(super) const ESTABLISHED: u32 = 86_400;
    pub(super) const CLOSING: u32 = 120;
    pub(super) const DATAGRAMS: u32 = 120;
    pub(super) const UNANSWERED: u32 = 30;
}

/// What the maps know of a connection's frontend and endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Number of the service port.
    pub service: u32,
    /// Identity of the endpoint; 0 when it takes no flows any more.
    pub endpoint: u32,
    /// The views that it can have been chosen in: bits of [`dataplane_common::Live`].
    pub views: u32,
}

/// Both directions of a flow, the client's first.
pub type Pair<const N: usize> = [(FlowKey<N>, Flow<N>); 2];

/// The flow that a tracked connection is, last seen in the tick `now`. Nothing for one that is not
/// translated, has ended, or would choose again with its next datagram anyway.
pub fn flow<const N: usize>(entry: &Entry, known: Known, now: u32) -> Option<Pair<N>> {
    entry.endpoint()?;
    if entry.protocol == UDP && known.endpoint == 0 || has_ended(entry) {
        return None;
    }
    let from = ends(entry.original)?;
    let to = ends::<N>(entry.reply)?.reversed();
    let mut flags = known.views << Flow::<N>::VIEWS_SHIFT;
    if entry.status & status::SEEN_REPLY != 0 {
        flags |= Flow::<N>::ANSWERED;
    }
    if entry.masquerade().is_some() {
        flags |= Flow::<N>::FORWARD;
    }
    // Nobody knows which end has sent its FIN. It is enough that the next one ends the flow.
    let closing = entry.tcp_state.is_some_and(|state| state > tcp::ESTABLISHED);
    let (fin, partner) = if closing { (Flow::<N>::FIN, Flow::<N>::PARTNER_FIN) } else { (0, 0) };
    let half = |to, flags| Flow {
        to,
        endpoint: known.endpoint,
        seen: now,
        service: known.service,
        flags,
        link: Link::default(),
        link_seen: 0,
    };
    let key = FlowKey::forward(from, entry.protocol);
    let back = key.partner(&to);
    Some([(key, half(to, flags | fin)), (back, half(from.reversed(), flags | partner))])
}

/// The entry that a flow is, given its client's direction and what the other one's flags are.
/// Nothing for one that has ended, and for connections whose beginning nobody has answered: the next
/// packet begins them anew.
pub fn entry<const N: usize>(key: &FlowKey<N>, flow: &Flow<N>, answers: u32) -> Option<Entry> {
    let flags = flow.flags | answers & (Flow::<N>::ANSWERED | Flow::<N>::RESET);
    let answered = flags & Flow::<N>::ANSWERED != 0;
    let protocol = key.protocol();
    if key.is_reply() || Flow::<N>::is_closed(flags) || (!answered && protocol != UDP) {
        return None;
    }
    let closing = flags & (Flow::<N>::FIN | Flow::<N>::PARTNER_FIN) != 0;
    let (tcp_state, timeout_s) = match (protocol, answered) {
        (TCP, _) if closing => (Some(tcp::CLOSE_WAIT), timeout_s::CLOSING),
        (TCP, _) => (Some(tcp::ESTABLISHED), timeout_s::ESTABLISHED),
        (UDP, true) => (None, timeout_s::DATAGRAMS),
        (UDP, false) => (None, timeout_s::UNANSWERED),
        // Connection tracking wants the tags of an SCTP association, which flows do not keep.
        _ => return None,
    };
    let seen = if answered { status::SEEN_REPLY | status::ASSURED } else { 0 };
    Some(Entry {
        protocol,
        original: tuple(key.tuple()),
        reply: tuple(flow.to).reversed(),
        status: seen,
        timeout_s,
        tcp_state,
        mark: 0,
    })
}

/// Whether the programs would find the answers of a flow whose source was replaced by `source`.
pub fn is_in_reach(config: &Config, source: SocketAddr) -> bool {
    let ours = match source.ip() {
        IpAddr::V4(ip) => config.masquerade4 == ip.octets(),
        IpAddr::V6(ip) => config.masquerade6 == ip.octets(),
    };
    ours && source.port().wrapping_sub(config.source_port_min) < config.source_port_count
}

fn has_ended(entry: &Entry) -> bool {
    match entry.tcp_state {
        Some(state) => !(tcp::SYN_RECEIVED..=tcp::LAST_ACK).contains(&state),
        None => entry.protocol == TCP,
    }
}

fn ends<const N: usize>(tuple: Tuple) -> Option<dataplane_common::Tuple<N>> {
    Some(dataplane_common::Tuple {
        src: octets(tuple.source.ip())?,
        dst: octets(tuple.destination.ip())?,
        src_port: tuple.source.port().to_be_bytes(),
        dst_port: tuple.destination.port().to_be_bytes(),
    })
}

fn tuple<const N: usize>(ends: dataplane_common::Tuple<N>) -> Tuple {
    let end = |addr, port| SocketAddr::new(address(addr), u16::from_be_bytes(port));
    Tuple { source: end(ends.src, ends.src_port), destination: end(ends.dst, ends.dst_port) }
}

#[cfg(test)]
mod tests;
