//! Turn a packet that nobody serves into its refusal: TCP RST, or ICMP port unreachable.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths of headers, and of a packet of 64 KiB"
)]

use dataplane_common::{Reason, SCTP, TCP, Tuple, UDP, V4, V6};

use crate::{
    checksum::Sum,
    headers::{self, Headers, L3},
    packet::Packet,
    pipeline::Verdict,
    tables::Node,
    wire::{
        ethernet::Ethernet,
        icmp,
        ipv4::{self, Ipv4},
        ipv6::{self, Ipv6},
        sctp,
        tcp::{self, Tcp},
        udp,
    },
};

/// Hops that our own packets may take.
const HOPS: u8 = 64;

/// What the two families do differently in a refusal.
trait Refuse<const N: usize> {
    /// Bytes of the IP header we write.
    const IP_LEN: usize;

    /// Write an IP header from `tuple.src` to `tuple.dst` around `payload_len` bytes.
    fn write_header<P: Packet + ?Sized>(
        packet: &mut P,
        tuple: &Tuple<N>,
        protocol: u8,
        payload_len: u16,
    ) -> Option<()>;

    /// Turn a packet into "port unreachable" about the first `QUOTE` bytes behind its IP header.
    fn unreachable<P: Packet + ?Sized, const QUOTE: usize>(
        packet: &mut P,
        headers: &Headers<N>,
    ) -> Option<()>;
}

/// Answer an IPv4 packet instead of whom it was for.
#[inline(always)]
pub fn refuse4<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Node,
{
    match headers::parse4(packet) {
        Ok(headers) => refuse(packet, &headers, tables),
        Err(reason) => Verdict::Pass(reason),
    }
}

/// Answer an IPv6 packet instead of whom it was for.
#[inline(always)]
pub fn refuse6<P, T>(packet: &mut P, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Node,
{
    match headers::parse6(packet) {
        Ok(headers) => refuse(packet, &headers, tables),
        Err(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn refuse<P, T, const N: usize>(packet: &mut P, headers: &Headers<N>, tables: &mut T) -> Verdict
where
    P: Packet + ?Sized,
    T: Node,
    [u8; N]: Refuse<N>,
{
    if headers.protocol == TCP && headers.tcp_flags & tcp::RST != 0 {
        // Nobody answers a reset (RFC 9293, section 3.5.2).
        return Verdict::Drop(Reason::RefusedSilently);
    }
    if !tables.may_answer() {
        return Verdict::Drop(Reason::RefusalLimited);
    }
    let answered = if headers.protocol == UDP {
        <[u8; N]>::unreachable::<P, { udp::LEN }>(packet, headers)
    } else if headers.protocol == SCTP {
        unreachable_sctp(packet, headers)
    } else {
        reset(packet, headers)
    };
    match answered.and_then(|()| packet.window(0)) {
        Some(header) => {
            Ethernet(header).swap_macs();
            Verdict::Answer(Reason::Refused)
        }
        None => Verdict::Drop(Reason::CannotAnswer),
    }
}

/// RFC 9293, section 3.5.2: what a closed port sends back.
#[inline(always)]
fn reset<P: Packet + ?Sized, const N: usize>(packet: &mut P, headers: &Headers<N>) -> Option<()>
where
    [u8; N]: Refuse<N>,
{
    let segment = Tcp(packet.window(headers.l4)?);
    let (sequence, acknowledgement, flags) = if headers.tcp_flags & tcp::ACK != 0 {
        (segment.acknowledgement(), [0; 4], tcp::RST)
    } else {
        let controls = u32::from(headers.tcp_flags & tcp::SYN != 0)
            + u32::from(headers.tcp_flags & tcp::FIN != 0);
        let data = usize::from(headers.l4_len).wrapping_sub(segment.header_len()) as u32;
        let next = u32::from_be_bytes(segment.sequence()).wrapping_add(data).wrapping_add(controls);
        ([0; 4], next.to_be_bytes(), tcp::RST | tcp::ACK)
    };
    packet.resize(L3 + <[u8; N]>::IP_LEN + tcp::LEN)?;
    let back = headers.tuple.reversed();
    <[u8; N]>::write_header(packet, &back, TCP, tcp::LEN as u16)?;
    let segment: &mut [u8; tcp::LEN] = packet.window(L3 + <[u8; N]>::IP_LEN)?;
    let ([s0, s1], [d0, d1]) = (back.src_port, back.dst_port);
    let [q0, q1, q2, q3] = sequence;
    let [a0, a1, a2, a3] = acknowledgement;
    let offset = (tcp::LEN as u8 / 4) << 4;
    *segment = [s0, s1, d0, d1, q0, q1, q2, q3, a0, a1, a2, a3, offset, flags, 0, 0, 0, 0, 0, 0];
    let sum = pseudo_header(&back, TCP, tcp::LEN as u16).add(segment).finish();
    [segment[tcp::CHECKSUM], segment[tcp::CHECKSUM + 1]] = sum;
    Some(())
}

/// As kube-proxy has it answered. The sender believes what quotes its tag, which in an INIT stands
/// behind the header.
#[inline(always)]
fn unreachable_sctp<P: Packet + ?Sized, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
) -> Option<()>
where
    [u8; N]: Refuse<N>,
{
    if usize::from(headers.l4_len) < sctp::QUOTE_LEN {
        <[u8; N]>::unreachable::<P, { sctp::LEN }>(packet, headers)
    } else {
        <[u8; N]>::unreachable::<P, { sctp::QUOTE_LEN }>(packet, headers)
    }
}

/// Sum over what TCP and UDP checksums cover beside their packet.
#[inline(always)]
pub(crate) fn pseudo_header<const N: usize>(tuple: &Tuple<N>, protocol: u8, len: u16) -> Sum {
    Sum::ZERO
        .add(&tuple.src)
        .add(&tuple.dst)
        .add16(u16::from(protocol).to_be_bytes())
        .add16(len.to_be_bytes())
}

impl Refuse<V4> for [u8; V4] {
    const IP_LEN: usize = ipv4::LEN;

    #[inline(always)]
    fn write_header<P: Packet + ?Sized>(
        packet: &mut P,
        tuple: &Tuple<V4>,
        protocol: u8,
        payload_len: u16,
    ) -> Option<()> {
        let header: &mut [u8; ipv4::LEN] = packet.window(L3)?;
        let ([s0, s1, s2, s3], [d0, d1, d2, d3]) = (tuple.src, tuple.dst);
        let [l0, l1] = (ipv4::LEN as u16 + payload_len).to_be_bytes();
        // Don't fragment: with it the identification may be zero (RFC 6864).
        *header = [
            ipv4::VERSION_LEN,
            0,
            l0,
            l1,
            0,
            0,
            0x40,
            0,
            HOPS,
            protocol,
            0,
            0, //
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ];
        let sum = Sum::ZERO.add(header).finish();
        Ipv4(header).set_checksum(sum);
        Some(())
    }

    #[inline(always)]
    fn unreachable<P: Packet + ?Sized, const QUOTE: usize>(
        packet: &mut P,
        headers: &Headers<V4>,
    ) -> Option<()> {
        let len = icmp::LEN + ipv4::LEN + QUOTE;
        let mut quoted_ip: [u8; ipv4::LEN] = *packet.window(L3)?;
        let quoted: [u8; QUOTE] = *packet.window(headers.l4)?;
        if quoted_ip[0] != ipv4::VERSION_LEN {
            // Options are left out of the quote, which the receiver reads for ends and ports.
            quoted_ip[0] = ipv4::VERSION_LEN;
            Ipv4(&mut quoted_ip).set_checksum([0, 0]);
            let sum = Sum::ZERO.add(&quoted_ip).finish();
            Ipv4(&mut quoted_ip).set_checksum(sum);
        }
        packet.resize(L3 + ipv4::LEN + len)?;
        let back = headers.tuple.reversed();
        Self::write_header(packet, &back, icmp::V4, len as u16)?;
        let [kind, code] = icmp::PORT_UNREACHABLE4;
        let sum = Sum::ZERO.add32([kind, code, 0, 0]).add(&quoted_ip).add(&quoted).finish();
        let start = L3 + ipv4::LEN;
        *packet.window(start)? = [kind, code, sum[0], sum[1], 0, 0, 0, 0];
        *packet.window(start + icmp::LEN)? = quoted_ip;
        *packet.window(start + icmp::LEN + ipv4::LEN)? = quoted;
        Some(())
    }
}

impl Refuse<V6> for [u8; V6] {
    const IP_LEN: usize = ipv6::LEN;

    #[inline(always)]
    fn write_header<P: Packet + ?Sized>(
        packet: &mut P,
        tuple: &Tuple<V6>,
        protocol: u8,
        payload_len: u16,
    ) -> Option<()> {
        let [l0, l1] = payload_len.to_be_bytes();
        *packet.window(L3)? = [0x60, 0, 0, 0, l0, l1, protocol, HOPS];
        let mut ip = Ipv6(packet.window(L3)?);
        ip.set_addresses(&tuple.src, &tuple.dst);
        Some(())
    }

    #[inline(always)]
    fn unreachable<P: Packet + ?Sized, const QUOTE: usize>(
        packet: &mut P,
        headers: &Headers<V6>,
    ) -> Option<()> {
        let len = icmp::LEN + ipv6::LEN + QUOTE;
        let mut quoted_ip: [u8; ipv6::LEN] = *packet.window(L3)?;
        let quoted: [u8; QUOTE] = *packet.window(headers.l4)?;
        // Extension headers are left out of the quote, which is read for ends and ports.
        quoted_ip[6] = headers.protocol;
        packet.resize(L3 + ipv6::LEN + len)?;
        let back = headers.tuple.reversed();
        Self::write_header(packet, &back, icmp::V6, len as u16)?;
        let [kind, code] = icmp::PORT_UNREACHABLE6;
        let sum = pseudo_header(&back, icmp::V6, len as u16)
            .add32([kind, code, 0, 0])
            .add(&quoted_ip)
            .add(&quoted)
            .finish();
        let start = L3 + ipv6::LEN;
        *packet.window(start)? = [kind, code, sum[0], sum[1], 0, 0, 0, 0];
        *packet.window(start + icmp::LEN)? = quoted_ip;
        *packet.window(start + icmp::LEN + ipv6::LEN)? = quoted;
        Some(())
    }
}

#[cfg(test)]
mod tests;
