//! ICMP errors about translated packets, translated back.
//!
//! An error travels against the packet that it quotes, so it belongs to the flow's direction whose
//! packets have the quoted ends exchanged, and goes where those go. What its receiver reads is the
//! packet that the receiver has sent: so the quote gets the ends before the translation (RFC 5508,
//! section 4.2). Without this nobody behind a service learns the path's MTU.
#![expect(clippy::cast_possible_truncation, reason = "unpacks what was packed")]

use dataplane_common::{Flow, FlowKey, Reason, SCTP, TCP, Tuple, UDP, V4, V6};

use crate::{
    checksum::{self, Change, Sum},
    headers::{self, Headers, L3},
    packet::Packet,
    pipeline::Verdict,
    rewrite::Address,
    tables::Tables,
    way::{self, Way},
    wire::{
        icmp,
        ipv4::Ipv4,
        ipv6::{self, Ipv6},
        tcp,
        udp::{self, Ports},
    },
};

/// Bytes that hold all we read: Ethernet, IPv4 with options or IPv6, the ICMP header, the quoted IP
/// header with as much, and TCP. A quote behind more extension headers is left alone.
pub const HEADERS_LEN: u32 = 14 + 60 + 8 + 60 + 20;

/// Where a quote can start or end, for the verifier: lengths of headers, each known to be small.
const AT_MASK: u64 = 0x3fff;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From a pod or from outside.
    Arrives,
    /// To a pod or to outside.
    Leaves,
}

/// An error, and the packet that it quotes.
struct Quote<const N: usize> {
    /// Who sent the error.
    src: [u8; N],
    /// Who gets it.
    dst: [u8; N],
    /// Hops that the error has left.
    hops: u8,
    /// Transport protocol of the quoted packet.
    protocol: u8,
    /// Ends of the quoted packet.
    tuple: Tuple<N>,
    /// Where the ICMP header starts.
    icmp: usize,
    /// Where the quoted IP header starts.
    ip: usize,
    /// Where the quoted transport header starts.
    l4: usize,
    /// Whether the quote reaches to the checksum of TCP.
    has_tcp_checksum: bool,
}

/// What the two families do differently in an error.
trait Quoted<const N: usize> {
    /// Read an error and what it quotes; `None` if it is none or none that can be ours.
    fn parse<P: Packet + ?Sized>(packet: &mut P) -> Option<Quote<N>>;
}

/// Translate an IPv4 packet that is neither TCP nor UDP, if it is an error about one of our flows.
#[inline(always)]
pub fn translate4<P, T>(packet: &mut P, tables: &mut T, direction: Direction) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V4>,
{
    translate(packet, tables, direction).unwrap_or(Verdict::Pass(Reason::NotTransport))
}

/// Translate an IPv6 packet that is neither TCP nor UDP, if it is an error about one of our flows.
#[inline(always)]
pub fn translate6<P, T>(packet: &mut P, tables: &mut T, direction: Direction) -> Verdict
where
    P: Packet + ?Sized,
    T: Tables<V6>,
{
    translate(packet, tables, direction).unwrap_or(Verdict::Pass(Reason::NotTransport))
}

#[inline(always)]
fn translate<P, T, const N: usize>(
    packet: &mut P,
    tables: &mut T,
    direction: Direction,
) -> Option<Verdict>
where
    P: Packet + ?Sized,
    T: Tables<N>,
    [u8; N]: Address + Quoted<N>,
{
    let quote = <[u8; N]>::parse(packet)?;
    // Nobody but the quoted packet's sender is told about it; anything else is forged.
    if quote.dst != quote.tuple.src {
        return None;
    }
    let back = quote.tuple.reversed();
    let entry = find(tables, &back, quote.protocol, direction)?;
    let to = tables.to(entry);
    let mut way = Way::STACK;
    if tables.flags(entry) & Flow::<N>::FORWARD != 0 {
        let (hops, protocol) = (quote.hops, quote.protocol);
        let headers =
            Headers { tuple: back, protocol, tcp_flags: 0, hops, l4: quote.l4, l4_len: 0 };
        let now = tables.now();
        way = match way::follow_link(tables, &headers, entry, &to, now) {
            Ok(route) => Way::by(route),
            Err(verdict) => return Some(verdict),
        };
    }
    way.forget(packet);
    rewrite(packet, &quote, &to, way.forwards())?;
    Some(way::go(packet, &way, Reason::IcmpError))
}

/// The direction of a flow that packets with the ends `back` belong to, where they pass by here.
///
/// Errors neither keep a flow alive nor end it: whoever knows its ports can forge them.
#[inline(always)]
fn find<T, const N: usize>(
    tables: &T,
    back: &Tuple<N>,
    protocol: u8,
    direction: Direction,
) -> Option<T::Entry>
where
    T: Tables<N>,
{
    let reply = tables.flow(&FlowKey::reply(*back, protocol));
    if direction == Direction::Leaves {
        return reply.filter(|entry| tables.flags(*entry) & Flow::<N>::FORWARD == 0);
    }
    let masqueraded = |entry: &T::Entry| tables.flags(*entry) & Flow::<N>::FORWARD != 0;
    reply.filter(masqueraded).or_else(|| tables.flow(&FlowKey::forward(*back, protocol)))
}

/// Give the error to `to.dst`, and make its quote the packet from there to `to.src`.
///
/// `None` leaves the packet as it was: the parse has seen every window that is asked for here.
#[inline(always)]
fn rewrite<P, const N: usize>(
    packet: &mut P,
    quote: &Quote<N>,
    to: &Tuple<N>,
    forward: bool,
) -> Option<()>
where
    P: Packet + ?Sized,
    [u8; N]: Address,
{
    let (from, inner) = (&quote.tuple, to.reversed());
    let addresses = Sum::ZERO.replace(&from.src, &inner.src).replace(&from.dst, &inner.dst);
    let ports =
        Sum::ZERO.replace16(from.src_port, inner.src_port).replace16(from.dst_port, inner.dst_port);
    let mut quoted = ports.plus(rewrite_checksum(packet, quote, addresses, ports)?);
    Ports(packet.window(quote.l4)?).set(inner.src_port, inner.dst_port);
    <[u8; N]>::rewrite_header(packet, quote.ip, addresses, &inner.src, &inner.dst, None)?;
    // An endpoint is seen as the frontend. A router is seen as itself, but where addresses are
    // masqueraded: those who filter there expect nobody but the node.
    let src = if forward || quote.src == from.dst { to.src } else { quote.src };
    let outer = Sum::ZERO.replace(&quote.src, &src).replace(&quote.dst, &to.dst);
    if <[u8; N]>::IS_V6 {
        // No header checksum makes up for the quoted addresses, and the pseudo header has the
        // outer ones.
        quoted = quoted.plus(addresses).plus(outer);
    }
    let change = Change { addresses: quoted, ports: None, optional: false, v6: false };
    let stored: &mut [u8; 2] = packet.window(quote.icmp + icmp::CHECKSUM)?;
    // In no device's hands: the kernel sums its own errors, and as a whole the bytes that a device
    // has summed add up to what they did before.
    *stored = checksum::apply(*stored, &change);
    let hops = forward.then_some(quote.hops.wrapping_sub(1));
    <[u8; N]>::rewrite_header(packet, L3, outer, &src, &to.dst, hops)
}

/// Bring the quoted transport checksum up to date, if the quote has it; tells by how much it changed.
///
/// That of SCTP covers more than a quote shows, and nobody can check it.
#[inline(always)]
fn rewrite_checksum<P: Packet + ?Sized, const N: usize>(
    packet: &mut P,
    quote: &Quote<N>,
    addresses: Sum,
    ports: Sum,
) -> Option<Sum> {
    let is_udp = quote.protocol == UDP;
    if !is_udp && !quote.has_tcp_checksum {
        return Some(Sum::ZERO);
    }
    let at = quote.l4 + if is_udp { udp::CHECKSUM } else { tcp::CHECKSUM };
    let stored: &mut [u8; 2] = packet.window(at)?;
    let old = *stored;
    if is_udp && old == [0, 0] {
        return Some(Sum::ZERO);
    }
    let change = Change { addresses, ports: Some(ports), optional: is_udp, v6: false };
    *stored = checksum::apply(old, &change);
    Some(Sum::ZERO.replace16(old, *stored))
}

/// The ports at `l4`, and whether TCP's checksum is quoted too, in a packet that ends at `end`.
#[inline(always)]
fn parse_transport<P: Packet + ?Sized>(
    packet: &mut P,
    protocol: u8,
    l4: usize,
    end: usize,
) -> Option<([u8; 2], [u8; 2], bool)> {
    if !matches!(protocol, TCP | UDP | SCTP) || l4 + icmp::QUOTED_LEN > end {
        return None;
    }
    let header: [u8; icmp::QUOTED_LEN] = *packet.window(l4)?;
    let has_tcp_checksum = protocol == TCP
        && l4 + tcp::CHECKSUM + 2 <= end
        && packet.window::<2>(l4 + tcp::CHECKSUM).is_some();
    Some(([header[0], header[1]], [header[2], header[3]], has_tcp_checksum))
}

/// A quote whose constants the verifier cannot tell apart.
#[inline(always)]
fn quote<P: Packet + ?Sized, const N: usize>(packet: &mut P, mut quote: Quote<N>) -> Quote<N> {
    let [protocol, has] = [quote.protocol, u8::from(quote.has_tcp_checksum)].map(u64::from);
    let places = quote.l4 as u64 | (quote.ip as u64) << 16 | (quote.icmp as u64) << 32;
    let known = packet.forget(places | protocol << 48 | has << 56);
    quote.l4 = (known & AT_MASK) as usize;
    quote.ip = (known >> 16 & AT_MASK) as usize;
    quote.icmp = (known >> 32 & AT_MASK) as usize;
    quote.protocol = (known >> 48) as u8;
    quote.has_tcp_checksum = known >> 56 != 0;
    quote
}

impl Quoted<V4> for [u8; V4] {
    #[inline(always)]
    fn parse<P: Packet + ?Sized>(packet: &mut P) -> Option<Quote<V4>> {
        let ip = Ipv4(packet.window(L3)?);
        let header_len = ip.header_len().filter(|_| ip.protocol() == icmp::V4)?;
        let (src, dst, hops) = (ip.src(), ip.dst(), ip.ttl());
        let (icmp, end) = (L3 + header_len, L3 + ip.total_len());
        let [kind, ..]: [u8; icmp::LEN] = *packet.window(icmp)?;
        if !icmp::is_error4(kind) {
            return None;
        }
        let at = icmp + icmp::LEN;
        let inner = Ipv4(packet.window(at)?);
        let inner_len = inner.header_len().filter(|_| inner.is_first_fragment())?;
        let (protocol, inner_src, inner_dst) = (inner.protocol(), inner.src(), inner.dst());
        let l4 = at + inner_len;
        let (src_port, dst_port, has_tcp_checksum) = parse_transport(packet, protocol, l4, end)?;
        let tuple = Tuple { src: inner_src, dst: inner_dst, src_port, dst_port };
        let found = Quote { src, dst, hops, protocol, tuple, icmp, ip: at, l4, has_tcp_checksum };
        Some(quote(packet, found))
    }
}

impl Quoted<V6> for [u8; V6] {
    #[inline(always)]
    fn parse<P: Packet + ?Sized>(packet: &mut P) -> Option<Quote<V6>> {
        let ip = Ipv6(packet.window(L3)?);
        if !ip.is_version_6() || ip.next_header() != icmp::V6 {
            return None;
        }
        let (src, dst, hops) = (ip.src(), ip.dst(), ip.hop_limit());
        let (icmp, end) = (L3 + ipv6::LEN, L3 + ipv6::LEN + ip.payload_len());
        let [kind, ..]: [u8; icmp::LEN] = *packet.window(icmp)?;
        if !icmp::is_error6(kind) {
            return None;
        }
        let at = icmp + icmp::LEN;
        let inner = Ipv6(packet.window(at)?);
        if !inner.is_version_6() {
            return None;
        }
        let (next, inner_src, inner_dst) = (inner.next_header(), inner.src(), inner.dst());
        let l4 = at + ipv6::LEN;
        let (protocol, extensions_len) = match next {
            TCP | UDP | SCTP => (next, 0),
            _ => headers::skip_extensions(packet, l4, next).ok()?,
        };
        let l4 = l4 + extensions_len;
        let (src_port, dst_port, has_tcp_checksum) = parse_transport(packet, protocol, l4, end)?;
        let tuple = Tuple { src: inner_src, dst: inner_dst, src_port, dst_port };
        let found = Quote { src, dst, hops, protocol, tuple, icmp, ip: at, l4, has_tcp_checksum };
        Some(quote(packet, found))
    }
}

#[cfg(test)]
pub(crate) mod tests;
