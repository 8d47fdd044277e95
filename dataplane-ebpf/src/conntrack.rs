//! Connection tracking: find, follow and begin flows.

use dataplane_common::{Flow, FlowKey, Tuple, UDP};

use crate::{
    headers::Headers,
    select,
    tables::{Insert, Origin, Ports, Tables},
    wire::tcp,
};

/// Source ports tried before a flow is given up.
const SOURCE_PORTS_TRIED: u32 = 16;

/// Whether the flow's next packet still belongs to it, or is the first of another.
#[inline(always)]
pub fn continues<const N: usize, T: Tables<N>>(
    tables: &T,
    entry: T::Entry,
    headers: &Headers<N>,
) -> bool {
    let is_live =
        || tables.is_live(tables.endpoint_of(entry), Flow::<N>::views(tables.flags(entry)));
    if headers.protocol == UDP {
        is_live()
    } else {
        // A connection stays with its endpoint until it ends. Only a SYN may begin another, or the
        // INIT of SCTP.
        let opens = headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        !opens || (!Flow::<N>::is_closed(tables.flags(entry)) && is_live())
    }
}

/// Note a packet of a flow in the tick `now`: when, and what it says about the connection.
#[inline(always)]
pub fn follow<const N: usize, T: Tables<N>>(
    tables: &mut T,
    key: &FlowKey<N>,
    entry: T::Entry,
    to: &Tuple<N>,
    headers: &Headers<N>,
    now: u32,
) {
    if tables.seen(entry) != now {
        tables.set_seen(entry, now);
    }
    if key.is_reply() && tables.flags(entry) & Flow::<N>::ANSWERED == 0 {
        tables.add_flags(entry, Flow::<N>::ANSWERED);
    }
    // UDP has no flags: this is TCP or SCTP.
    if headers.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        end(tables, key, entry, to, headers.tcp_flags);
    }
}

#[inline(always)]
fn end<const N: usize, T: Tables<N>>(
    tables: &mut T,
    key: &FlowKey<N>,
    entry: T::Entry,
    to: &Tuple<N>,
    tcp_flags: u8,
) {
    let (own, partners) = if tcp_flags & tcp::RST != 0 {
        (Flow::<N>::RESET, Flow::<N>::RESET)
    } else {
        (Flow::<N>::FIN, Flow::<N>::PARTNER_FIN)
    };
    if tables.flags(entry) & own == 0 {
        tables.add_flags(entry, own);
        if let Some(partner) = own_partner(tables, key, to) {
            tables.add_flags(partner, partners);
        }
    }
}

/// The flow's other direction, if it is still its own: a flow that has ended may have lost its source port,
/// and with it the reply entry, to another one.
#[inline(always)]
fn own_partner<const N: usize, T: Tables<N>>(
    tables: &T,
    key: &FlowKey<N>,
    to: &Tuple<N>,
) -> Option<T::Entry> {
    let partner = tables.flow(&key.partner(to))?;
    (tables.to(partner) == key.tuple().reversed()).then_some(partner)
}

/// Forget both directions of a flow.
#[inline(always)]
pub fn forget<const N: usize, T: Tables<N>>(tables: &mut T, key: &FlowKey<N>, entry: T::Entry) {
    let to = tables.to(entry);
    if own_partner(tables, key, &to).is_some() {
        tables.remove(&key.partner(&to));
    }
    tables.remove(key);
}

/// Why a flow cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Every source port that was tried belongs to another flow.
    NoSourcePort,
    /// The table takes no entry.
    Full,
}

/// What was entered of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Both directions.
    Both,
    /// Answers find their way; the next packet of the client chooses and enters the flow again.
    Reply,
}

/// Enter both directions of a flow; `to` gets the source port that was free.
///
/// The reply entry is the claim: whoever enters it first owns the source port. It is also the one
/// that cannot be made up for: a packet of the client finds its endpoint again by its hash, and its
/// source port by its own claim.
#[inline(always)]
pub fn begin<const N: usize, T: Tables<N>>(
    tables: &mut T,
    ports: &Ports,
    headers: &Headers<N>,
    to: &mut Tuple<N>,
    origin: &Origin,
) -> Result<Entered, Obstacle> {
    let key = FlowKey::forward(headers.tuple, headers.protocol);
    let count = u32::from(ports.source_count);
    let mut offset = select::mix(select::hash(&headers.tuple, headers.protocol)) % count;
    if origin.flags & Flow::<N>::FORWARD != 0 {
        to.src_port = source_port(ports, offset);
    }
    for _ in 0..SOURCE_PORTS_TRIED {
        let reply = key.partner(to);
        match claim(tables, &reply, &headers.tuple.reversed(), origin) {
            Insert::Done if tables.insert(&key, to, origin) => return Ok(Entered::Both),
            Insert::Done => return Ok(Entered::Reply),
            Insert::Full => return Err(Obstacle::Full),
            Insert::Taken => {}
        }
        offset = if offset + 1 == count { 0 } else { offset + 1 };
        to.src_port = source_port(ports, offset);
    }
    Err(Obstacle::NoSourcePort)
}

/// Take the reply key unless a living flow of somebody else has it.
#[inline(always)]
fn claim<const N: usize, T: Tables<N>>(
    tables: &mut T,
    reply: &FlowKey<N>,
    back: &Tuple<N>,
    origin: &Origin,
) -> Insert {
    let inserted = tables.insert_new(reply, back, origin);
    if inserted != Insert::Taken {
        return inserted;
    }
    let Some(other) = tables.flow(reply) else { return Insert::Taken };
    if tables.to(other) != *back && !Flow::<N>::is_closed(tables.flags(other)) {
        return Insert::Taken;
    }
    if tables.insert(reply, back, origin) { Insert::Done } else { Insert::Full }
}

#[inline(always)]
fn source_port(ports: &Ports, offset: u32) -> [u8; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "less than source_count, a u16")]
    ports.source_min.wrapping_add(offset as u16).to_be_bytes()
}

/// The ends of a packet after its translation to an endpoint.
#[inline(always)]
pub const fn translated<const N: usize>(
    tuple: &Tuple<N>,
    src: [u8; N],
    dst: [u8; N],
    dst_port: u16,
) -> Tuple<N> {
    Tuple { src, dst, src_port: tuple.src_port, dst_port: dst_port.to_be_bytes() }
}

#[cfg(test)]
mod full_tests;
#[cfg(test)]
mod tests;
