//! One packet in, one verdict out.

#[cfg(test)]
mod tests;

use dataplane_common::{Endpoint, EndpointId, Flow, FlowKey, Reason, UDP, gate};

use crate::{
    address::Ip,
    answer,
    conntrack::{self, Entered, Obstacle},
    errors::{self, Direction},
    find::{self, Destination, Loopback, Miss},
    headers::{self, Family, Headers},
    packet::Packet,
    rewrite::Address,
    select::{self, Chosen, Client, Denied, Scope, View},
    tables::{Node, Origin, Ports, Tables},
    way::{Way, follow_link, leave, send},
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

/// How far a packet has come.
///
/// The kernel runs the steps as functions of their own, one after the other, since all of them
/// together need more than the 512 bytes of its stack. Each step parses again: steps behind the
/// first are rare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the end.
    Done(Verdict),
    /// No flow knows it, but it may be for a service; the reason is that of a flow that begins.
    First(Reason),
    /// It is for a frontend without endpoints, or for a service's address at a port that none has.
    Refuse,
}

impl Step {
    /// Neither TCP nor UDP: perhaps an ICMP error about one of our packets, which TC looks at in a
    /// step of its own. XDP leaves it to TC.
    pub const NOT_TRANSPORT: Self = Self::Done(Verdict::Pass(Reason::NotTransport));
}

/// A packet that arrives from a pod or from outside: all steps.
#[inline(always)]
pub fn ingress<P, T>(packet: &mut P, tables: &mut T, scope: Scope) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<4> + Tables<16>,
{
    let family = match headers::family(packet) {
        Ok(family) => family,
        Err(reason) => return Verdict::Pass(reason),
    };
    let mut step = match family {
        Family::V4 => known4(packet, tables),
        Family::V6 => known6(packet, tables),
    };
    if step == Step::NOT_TRANSPORT && <T as Node>::has_stack(tables) {
        return match family {
            Family::V4 => errors::translate4(packet, tables, Direction::Arrives),
            Family::V6 => errors::translate6(packet, tables, Direction::Arrives),
        };
    }
    if let Step::First(reason) = step {
        step = match family {
            Family::V4 => first4(packet, tables, scope, reason),
            Family::V6 => first6(packet, tables, scope, reason),
        };
    }
    if step == Step::Refuse && !<T as Node>::has_stack(tables) {
        // Drivers may have no room for an answer that is longer than the packet; TC has.
        return Verdict::Pass(Reason::LeftToTc);
    }
    match (step, family) {
        (Step::Done(verdict), _) => verdict,
        (Step::First(_) | Step::Refuse, Family::V4) => answer::refuse4(packet, tables),
        (Step::First(_) | Step::Refuse, Family::V6) => answer::refuse6(packet, tables),
    }
}

/// First step of an IPv4 packet: the flows.
#[inline(always)]
pub fn known4<P: Packet + ?Sized, T: Tables<4>>(packet: &mut P, tables: &mut T) -> Step {
    match headers::parse4(packet) {
        Ok(headers) => known(packet, &headers, tables),
        Err(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// First step of an IPv6 packet: the flows.
#[inline(always)]
pub fn known6<P: Packet + ?Sized, T: Tables<16>>(packet: &mut P, tables: &mut T) -> Step {
    match headers::parse6(packet) {
        Ok(headers) => known(packet, &headers, tables),
        Err(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// Second step of an IPv4 packet: frontend, endpoint, and a new flow.
#[inline(always)]
pub fn first4<P, T>(packet: &mut P, tables: &mut T, scope: Scope, reason: Reason) -> Step
where
    P: Packet + ?Sized,
    T: Tables<4>,
{
    match headers::parse4(packet) {
        Ok(headers) => first(packet, &headers, tables, scope, reason),
        Err(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// Second step of an IPv6 packet: frontend, endpoint, and a new flow.
#[inline(always)]
pub fn first6<P, T>(packet: &mut P, tables: &mut T, scope: Scope, reason: Reason) -> Step
where
    P: Packet + ?Sized,
    T: Tables<16>,
{
    match headers::parse6(packet) {
        Ok(headers) => first(packet, &headers, tables, scope, reason),
        Err(reason) => Step::Done(Verdict::Pass(reason)),
    }
}

/// A packet that leaves to a pod or to outside: all steps.
#[inline(always)]
pub fn egress<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<4> + Tables<16>,
{
    let verdict = answer_back(packet, tables);
    if Step::Done(verdict) != Step::NOT_TRANSPORT {
        return verdict;
    }
    match headers::family(packet) {
        Ok(Family::V4) => errors::translate4(packet, tables, Direction::Leaves),
        Ok(Family::V6) => errors::translate6(packet, tables, Direction::Leaves),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// First step of a packet that leaves: the flows.
#[inline(always)]
pub fn answer_back<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<4> + Tables<16>,
{
    let verdict = match headers::family(packet) {
        Ok(Family::V4) => headers::parse4(packet)
            .map(|headers| towards_client::<P, T, 4>(packet, &headers, tables)),
        Ok(Family::V6) => headers::parse6(packet)
            .map(|headers| towards_client::<P, T, 16>(packet, &headers, tables)),
        Err(reason) => Err(reason),
    };
    verdict.unwrap_or_else(Verdict::Pass)
}

#[inline(always)]
fn known<P, T, const N: usize>(packet: &mut P, headers: &Headers<N>, tables: &mut T) -> Step
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address,
{
    match find_flow(headers, tables) {
        Ok((key, entry, reason)) => {
            Step::Done(carry_on(packet, headers, tables, &key, entry, reason))
        }
        Err(step) => step,
    }
}

/// The flow that the packet belongs to, or the step that follows without one.
#[inline(always)]
fn find_flow<T, const N: usize>(
    headers: &Headers<N>,
    tables: &mut T,
) -> Result<(FlowKey<N>, T::Entry, Reason), Step>
where
    T: Tables<N>,
{
    let Some(ports) = tables.ports() else {
        return Err(Step::Done(Verdict::Pass(Reason::NotConfigured)));
    };
    let port = headers.dst_port();
    if ports.is_source(port) && tables.masquerade() == Some(headers.tuple.dst) {
        let key = FlowKey::reply(headers.tuple, headers.protocol);
        if let Some(entry) = tables.flow(&key) {
            return Ok((key, entry, Reason::Reply));
        }
    }
    let (word, mask) = gate::bit(&headers.tuple.dst);
    if !tables.gate(word, mask) && !ports.is_node(port) {
        return Err(Step::Done(Verdict::Pass(Reason::NotAService)));
    }
    let key = FlowKey::forward(headers.tuple, headers.protocol);
    match tables.flow(&key) {
        None => Err(Step::First(Reason::New)),
        Some(entry) if conntrack::continues(tables, entry, headers) => {
            Ok((key, entry, Reason::Established))
        }
        // XDP leaves the flow as it is, for TC may find out that it can go on.
        Some(_) if !tables.has_stack() => Err(Step::Done(Verdict::Pass(Reason::LeftToTc))),
        Some(entry) => {
            conntrack::forget(tables, &key, entry);
            Err(Step::First(Reason::Reselected))
        }
    }
}

#[inline(always)]
fn first<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
    scope: Scope,
    reason: Reason,
) -> Step
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address + Ip,
{
    let Some(ports) = tables.ports() else {
        return Step::Done(Verdict::Pass(Reason::NotConfigured));
    };
    let tuple = &headers.tuple;
    let to = Destination {
        addr: tuple.dst,
        port: headers.dst_port(),
        protocol: headers.protocol,
        loopback: Loopback::Foreign,
    };
    let frontend = match find::frontend(tables, &ports, &to) {
        Ok(frontend) => frontend,
        Err(Miss::NotAService) => return Step::Done(Verdict::Pass(Reason::NotAService)),
        Err(Miss::Unmapped) => return Step::Refuse,
    };
    let view = View::of(&frontend, scope);
    let client = Client {
        addr: Some(tuple.src),
        identity: tuple.src.widened(),
        number: select::hash(tuple, headers.protocol),
    };
    let first = match select::choose(tables, &frontend, &view, &client) {
        Ok(chosen) => First {
            chosen: forget(packet, &chosen),
            masquerades: view.masquerades(),
            service: frontend.service,
        },
        Err(Denied::Refuse) => return Step::Refuse,
        Err(Denied::Drop(reason)) => return Step::Done(Verdict::Drop(reason)),
    };
    Step::Done(begin(packet, headers, tables, &ports, &first, reason))
}

/// The choice, whichever way it was made: the verifier walks what follows once.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "unpacks what was packed")]
fn forget<P, const N: usize>(packet: &mut P, chosen: &Chosen<N>) -> Chosen<N>
where
    P: Packet + ?Sized,
    [u8; N]: Ip,
{
    let packed = u64::from(chosen.endpoint_flags) << 16 | u64::from(chosen.port);
    let packed = packet.forget(u64::from(chosen.flags) << 32 | packed);
    let id = packet.forget(u64::from(chosen.id.to_bits())) as u32;
    Chosen {
        port: packed as u16,
        endpoint_flags: (packed >> 16) as u16,
        id: EndpointId::from_bits(id),
        addr: chosen.addr.forgotten(packet),
        flags: (packed >> 32) as u32,
    }
}

/// What is known of a flow before it begins.
struct First<const N: usize> {
    chosen: Chosen<N>,
    /// Whether its frontend masquerades.
    masquerades: bool,
    service: u32,
}

/// A new flow to the endpoint that was chosen.
#[inline(always)]
fn begin<P, T, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    tables: &mut T,
    ports: &Ports,
    first: &First<N>,
    reason: Reason,
) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address,
{
    let (tuple, chosen) = (&headers.tuple, &first.chosen);
    let is_host = chosen.endpoint_flags & Endpoint::<N>::HOST != 0;
    // A pod that reaches itself must see somebody else, or its answer would never leave it.
    let is_hairpin = chosen.addr == tuple.src;
    let forwards = (first.masquerades || is_hairpin) && !is_host;
    if !forwards && !tables.has_stack() {
        return Verdict::Pass(Reason::LeftToTc);
    }
    let src = match (forwards, tables.masquerade()) {
        (false, _) => tuple.src,
        (true, Some(addr)) => addr,
        (true, None) => return Verdict::Drop(Reason::NoSourceAddress),
    };
    let mut to = conntrack::translated(tuple, src, chosen.addr, chosen.port);
    let mut way = Way::STACK;
    if forwards {
        way = match leave(tables, headers, &to) {
            Ok(route) => Way::by(route),
            Err(verdict) => return verdict,
        };
    }
    way.forget(packet);
    let origin = Origin {
        endpoint: chosen.id,
        service: first.service,
        flags: chosen.flags | (way.kind & Flow::<N>::FORWARD),
        seen: tables.now(),
    };
    match conntrack::begin(tables, ports, headers, &mut to, &origin) {
        Ok(Entered::Both) => send(packet, headers, &to, &way, reason),
        Ok(Entered::Reply) => send(packet, headers, &to, &way, Reason::Stateless),
        // Datagrams that nobody answers need no flow: they choose by their hash. But nobody may
        // take a source port without claiming it, and TCP needs the answers.
        Err(Obstacle::Full)
            if headers.protocol == UDP && to.src_port == tuple.src_port && !forwards =>
        {
            send(packet, headers, &to, &way, Reason::Stateless)
        }
        Err(Obstacle::Full) => Verdict::Drop(Reason::FlowTable),
        Err(Obstacle::NoSourcePort) => Verdict::Drop(Reason::NoSourcePort),
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
    let to = tables.to(entry);
    let forwards = tables.flags(entry) & Flow::<N>::FORWARD != 0;
    if !forwards && !tables.has_stack() {
        return Verdict::Pass(Reason::LeftToTc);
    }
    let now = tables.now();
    let mut way = Way::STACK;
    if forwards {
        way = match follow_link(tables, headers, entry, &to, now) {
            Ok(route) => Way::by(route),
            Err(verdict) => return verdict,
        };
    }
    way.forget(packet);
    conntrack::follow(tables, key, entry, &to, headers, now);
    send(packet, headers, &to, &way, reason)
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
    if tables.flags(entry) & Flow::<N>::FORWARD != 0 {
        // Such an answer is caught where it arrives.
        return Verdict::Pass(Reason::NotAReply);
    }
    let to = tables.to(entry);
    let now = tables.now();
    conntrack::follow(tables, &key, entry, &to, headers, now);
    send(packet, headers, &to, &Way::STACK, Reason::Reply)
}
