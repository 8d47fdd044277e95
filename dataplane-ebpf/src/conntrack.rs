//! Connection tracking: find, follow and begin flows.

use dataplane_common::{Config, EndpointId, Flow, FlowKey, TCP, Tuple};

use crate::{
    headers::Headers,
    select,
    tables::{Insert, Tables},
    wire::tcp,
};

/// Source ports tried before a flow is given up.
const SOURCE_PORTS_TRIED: u32 = 16;

/// Whether the flow's next packet still belongs to it, or is the first of another.
#[inline(always)]
pub fn continues<const N: usize, T: Tables<N>>(
    tables: &T,
    flow: &Flow<N>,
    headers: &Headers<N>,
) -> bool {
    let is_live = || tables.is_live(EndpointId::from_bits(flow.endpoint));
    if headers.protocol == TCP {
        // A connection stays with its endpoint until it ends. Only a SYN may begin another.
        let opens = headers.tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
        !opens || (!flow.is_closed() && is_live())
    } else {
        is_live()
    }
}

/// Note a packet of a flow: when, and what it says about the connection.
#[inline(always)]
pub fn follow<const N: usize, T: Tables<N>>(
    tables: &mut T,
    key: &FlowKey<N>,
    entry: T::Entry,
    flow: &Flow<N>,
    headers: &Headers<N>,
) {
    let now = tables.now();
    if flow.seen != now {
        tables.set_seen(entry, now);
    }
    if key.is_reply() && flow.flags & Flow::<N>::ANSWERED == 0 {
        tables.add_flags(entry, Flow::<N>::ANSWERED);
    }
    // UDP has no flags: this is TCP.
    if headers.tcp_flags & (tcp::FIN | tcp::RST) != 0 {
        end(tables, key, entry, flow, headers.tcp_flags);
    }
}

#[inline(always)]
fn end<const N: usize, T: Tables<N>>(
    tables: &mut T,
    key: &FlowKey<N>,
    entry: T::Entry,
    flow: &Flow<N>,
    tcp_flags: u8,
) {
    let (own, partners) = if tcp_flags & tcp::RST != 0 {
        (Flow::<N>::RESET, Flow::<N>::RESET)
    } else {
        (Flow::<N>::FIN, Flow::<N>::PARTNER_FIN)
    };
    if flow.flags & own == 0 {
        tables.add_flags(entry, own);
        if let Some(partner) = tables.flow(&key.partner(&flow.to)) {
            tables.add_flags(partner, partners);
        }
    }
}

/// Forget both directions of a flow.
#[inline(always)]
pub fn forget<const N: usize, T: Tables<N>>(tables: &mut T, key: &FlowKey<N>, flow: &Flow<N>) {
    tables.remove(&key.partner(&flow.to));
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

/// Enter both directions of a flow; `flow.to` gets the source port that was free.
///
/// The reply entry is the claim: whoever enters it first owns the source port.
#[inline(always)]
pub fn begin<const N: usize, T: Tables<N>>(
    tables: &mut T,
    config: &Config,
    headers: &Headers<N>,
    flow: &mut Flow<N>,
    translate_port: bool,
) -> Result<(), Obstacle> {
    let key = FlowKey::forward(headers.tuple, headers.protocol);
    let mut back = Flow { to: headers.tuple.reversed(), ..*flow };
    let count = u32::from(config.source_port_count);
    let mut offset = select::mix(select::hash(&headers.tuple, headers.protocol)) % count;
    if translate_port {
        flow.to.src_port = source_port(config, offset);
    }
    let mut claimed = false;
    for _ in 0..SOURCE_PORTS_TRIED {
        match claim(tables, &key.partner(&flow.to), &mut back) {
            Insert::Done => {
                claimed = true;
                break;
            }
            Insert::Full => return Err(Obstacle::Full),
            Insert::Taken => {}
        }
        offset = if offset + 1 == count { 0 } else { offset + 1 };
        flow.to.src_port = source_port(config, offset);
    }
    if !claimed {
        return Err(Obstacle::NoSourcePort);
    }
    if !tables.insert(&key, flow) {
        tables.remove(&key.partner(&flow.to));
        return Err(Obstacle::Full);
    }
    Ok(())
}

/// Take the reply key unless a living flow of somebody else has it.
#[inline(always)]
fn claim<const N: usize, T: Tables<N>>(
    tables: &mut T,
    key: &FlowKey<N>,
    back: &mut Flow<N>,
) -> Insert {
    let inserted = tables.insert_new(key, back);
    if inserted != Insert::Taken {
        return inserted;
    }
    let Some(entry) = tables.flow(key) else { return Insert::Taken };
    let other = tables.read(entry);
    if other.to != back.to && !other.is_closed() {
        return Insert::Taken;
    }
    if tables.insert(key, back) { Insert::Done } else { Insert::Full }
}

#[inline(always)]
fn source_port(config: &Config, offset: u32) -> [u8; 2] {
    #[expect(clippy::cast_possible_truncation, reason = "less than source_port_count, a u16")]
    config.source_port_min.wrapping_add(offset as u16).to_be_bytes()
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
