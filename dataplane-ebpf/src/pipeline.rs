//! One packet in, one verdict out.

use dataplane_common::{Config, Flow, FlowKey, Frontend, FrontendKey, Link, Reason, gate};

use crate::{
    answer::{self, Refuse},
    conntrack::{self, Obstacle},
    headers::{self, Headers, Parsed},
    packet::Packet,
    rewrite::{self, Address},
    select,
    tables::{Route, Tables},
};

/// What becomes of a packet. The reason is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Untouched: the stack handles it.
    Pass(Reason),
    /// Rewritten: the stack handles it.
    Deliver(Reason),
    /// Rewritten: it leaves by this hop.
    Forward(Reason, Hop),
    /// Turned into an answer: it leaves by the device it came from.
    Answer(Reason),
    /// Ours, but it cannot be delivered.
    Drop(Reason),
}

impl Verdict {
    /// The reason, whatever the verdict.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Pass(reason)
            | Self::Deliver(reason)
            | Self::Forward(reason, _)
            | Self::Answer(reason)
            | Self::Drop(reason) => reason,
        }
    }
}

/// How a forwarded packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    /// The frame is addressed; it leaves by the device with this index.
    Link(u32),
    /// The kernel has to find the next hop's MAC address; it leaves by the device with this index.
    Neighbour(u32),
}

/// A packet that arrives from a pod or from outside.
#[inline(always)]
pub fn ingress<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<4> + Tables<16>,
{
    match headers::parse(packet) {
        Parsed::V4(headers) => towards_endpoint::<P, T, 4>(packet, &headers, tables),
        Parsed::V6(headers) => towards_endpoint::<P, T, 16>(packet, &headers, tables),
        Parsed::Pass(reason) => Verdict::Pass(reason),
    }
}

/// A packet that leaves to a pod or to outside.
#[inline(always)]
pub fn egress<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<4> + Tables<16>,
{
    match headers::parse(packet) {
        Parsed::V4(headers) => towards_client::<P, T, 4>(packet, &headers, tables),
        Parsed::V6(headers) => towards_client::<P, T, 16>(packet, &headers, tables),
        Parsed::Pass(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn towards_endpoint<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address + Refuse<N>,
{
    let Some(config) = tables.config().copied() else {
        return Verdict::Pass(Reason::NotConfigured);
    };
    if config.source_port_count == 0 {
        return Verdict::Pass(Reason::NotConfigured);
    }
    let port = headers.dst_port();
    if port.wrapping_sub(config.source_port_min) < config.source_port_count
        && tables.masquerade() == Some(headers.tuple.dst)
    {
        let key = FlowKey::reply(headers.tuple, headers.protocol);
        if let Some(entry) = tables.flow(&key) {
            return carry_on(packet, headers, tables, &key, entry, Reason::Reply);
        }
    }
    let (word, mask) = gate::bit(&headers.tuple.dst);
    let may_be_own = tables.gate(word, mask);
    let may_be_node = config.node_port_min <= port && port <= config.node_port_max;
    if !may_be_own && !may_be_node {
        return Verdict::Pass(Reason::NotAService);
    }
    let key = FlowKey::forward(headers.tuple, headers.protocol);
    let mut reason = Reason::New;
    if let Some(entry) = tables.flow(&key) {
        let flow = tables.read(entry);
        if conntrack::continues(tables, &flow, headers) {
            return carry_on(packet, headers, tables, &key, entry, Reason::Established);
        }
        if !tables.has_stack() {
            return Verdict::Pass(Reason::LeftToTc);
        }
        conntrack::forget(tables, &key, &flow);
        reason = Reason::Reselected;
    }
    match find_frontend(headers, tables, may_be_own, may_be_node) {
        Some(frontend) => first(packet, headers, tables, &config, &frontend, reason),
        None => Verdict::Pass(Reason::NotAService),
    }
}

#[inline(always)]
fn find_frontend<T, const N: usize>(
    headers: &Headers<N>,
    tables: &T,
    may_be_own: bool,
    may_be_node: bool,
) -> Option<Frontend>
where
    T: Tables<N>,
{
    let (dst, port) = (headers.tuple.dst, headers.dst_port());
    if may_be_own
        && let Some(frontend) =
            tables.frontend(&FrontendKey::new(dst, port, headers.protocol))
    {
        return Some(frontend);
    }
    if may_be_node && tables.is_node_address(&dst) {
        return tables.frontend(&FrontendKey::any_node_address(port, headers.protocol));
    }
    None
}

/// The first packet of a flow: select an endpoint, or refuse.
#[inline(always)]
fn first<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
    config: &Config,
    frontend: &Frontend,
    reason: Reason,
) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address + Refuse<N>,
{
    let tuple = &headers.tuple;
    let Some(slot) = select::slot(frontend, select::hash(tuple, headers.protocol)) else {
        return answer::refuse(packet, headers);
    };
    let Some(endpoint) = tables.endpoint(slot) else {
        return Verdict::Drop(Reason::NoSuchEndpoint);
    };
    let is_host = endpoint.flags() & dataplane_common::Endpoint::<N>::HOST != 0;
    // A pod that reaches itself must see somebody else, or its answer would never leave it.
    let is_hairpin = endpoint.addr() == tuple.src;
    let masquerades = frontend.flags & Frontend::MASQUERADE != 0 || is_hairpin;
    let forwards = masquerades && !is_host;
    if !forwards && !tables.has_stack() {
        return Verdict::Pass(Reason::LeftToTc);
    }
    let src = match (forwards, tables.masquerade()) {
        (false, _) => tuple.src,
        (true, Some(addr)) => addr,
        (true, None) => return Verdict::Drop(Reason::NoSourceAddress),
    };
    let to = conntrack::translated(tuple, src, endpoint.addr(), endpoint.port());
    let mut flow = Flow {
        to,
        endpoint: endpoint.id().to_bits(),
        seen: tables.now(),
        service: frontend.service,
        flags: if forwards { Flow::<N>::FORWARD } else { 0 },
        link: Link::default(),
        link_seen: 0,
    };
    let route = if forwards {
        match leave(tables, headers, &to) {
            Ok(route) => Some(route),
            Err(verdict) => return verdict,
        }
    } else {
        None
    };
    match conntrack::begin(tables, config, headers, &mut flow, forwards) {
        Ok(()) => send(packet, headers, &flow, route, reason),
        Err(Obstacle::NoSourcePort) => Verdict::Drop(Reason::NoSourcePort),
        Err(Obstacle::Full) => Verdict::Drop(Reason::FlowTable),
    }
}

/// A packet of a flow that is known.
#[inline(always)]
fn carry_on<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
    key: &FlowKey<N>,
    entry: T::Entry,
    reason: Reason,
) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address,
{
    let flow = tables.read(entry);
    let forwards = flow.flags & Flow::<N>::FORWARD != 0;
    if !forwards && !tables.has_stack() {
        return Verdict::Pass(Reason::LeftToTc);
    }
    let route = if forwards {
        match follow_link(tables, headers, entry, &flow) {
            Ok(route) => Some(route),
            Err(verdict) => return verdict,
        }
    } else {
        None
    };
    conntrack::follow(tables, key, entry, &flow, headers);
    send(packet, headers, &flow, route, reason)
}

/// The flow's next hop: looked up once per tick, and kept with the flow in between.
#[inline(always)]
fn follow_link<T, const N: usize>(
    tables: &mut T,
    headers: &Headers<N>,
    entry: T::Entry,
    flow: &Flow<N>,
) -> Result<Route, Verdict>
where
    T: Tables<N>,
{
    let now = tables.now();
    if flow.link_seen == now && headers.hops > 1 {
        let route = Route::Link(flow.link);
        if tables.can_leave_by(&route) {
            return Ok(route);
        }
        return Err(Verdict::Pass(Reason::LeftToTc));
    }
    let route = leave(tables, headers, &flow.to)?;
    if let Route::Link(link) = route {
        tables.set_link(entry, link, now);
    }
    Ok(route)
}

/// Where a packet with the ends `to` leaves, or why it cannot.
#[inline(always)]
fn leave<T, const N: usize>(
    tables: &T,
    headers: &Headers<N>,
    to: &dataplane_common::Tuple<N>,
) -> Result<Route, Verdict>
where
    T: Tables<N>,
{
    if headers.hops <= 1 {
        return Err(Verdict::Drop(Reason::HopLimit));
    }
    let route = tables.route(&to.src, &to.dst);
    if !tables.can_leave_by(&route) {
        return Err(Verdict::Pass(Reason::LeftToTc));
    }
    match route {
        Route::Link(_) | Route::Neighbour(_) => Ok(route),
        Route::None => Err(Verdict::Drop(Reason::NoRoute)),
    }
}

/// Rewrite the packet and say how it goes on.
#[inline(always)]
fn send<P, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    flow: &Flow<N>,
    route: Option<Route>,
    reason: Reason,
) -> Verdict
where
    P: Packet + ?Sized,
    [u8; N]: Address,
{
    if rewrite::rewrite(packet, headers, &flow.to, route.is_some()).is_none() {
        return Verdict::Pass(Reason::Short);
    }
    match route {
        None => Verdict::Deliver(reason),
        Some(Route::Link(link)) => match rewrite::send_by(packet, &link) {
            Some(()) => Verdict::Forward(reason, Hop::Link(link.ifindex)),
            None => Verdict::Drop(Reason::NoRoute),
        },
        Some(Route::Neighbour(ifindex)) => Verdict::Forward(reason, Hop::Neighbour(ifindex)),
        Some(Route::None) => Verdict::Drop(Reason::NoRoute),
    }
}

/// The answer of an endpoint on its last step to the client.
#[inline(always)]
fn towards_client<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address,
{
    let key = FlowKey::reply(headers.tuple, headers.protocol);
    let Some(entry) = tables.flow(&key) else { return Verdict::Pass(Reason::NotAReply) };
    let flow = tables.read(entry);
    if flow.flags & Flow::<N>::FORWARD != 0 {
        // Such an answer is caught where it arrives.
        return Verdict::Pass(Reason::NotAReply);
    }
    conntrack::follow(tables, &key, entry, &flow, headers);
    send(packet, headers, &flow, None, Reason::Reply)
}
