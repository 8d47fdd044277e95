//! Give a packet other addresses and ports, and keep its checksums right.

use dataplane_common::{Link, SCTP, TCP, Tuple, V4, V6};

use crate::{
    checksum::{self, Change, Sum},
    crc32c,
    headers::{Headers, L3},
    packet::Packet,
    wire::{
        ethernet::Ethernet,
        ipv4::Ipv4,
        ipv6::Ipv6,
        sctp::Sctp,
        tcp,
        udp::{self, Ports},
    },
};

/// What the two families do differently in a rewrite.
pub trait Address: Copy + Eq {
    /// Write addresses into the IP header at `at` and, when `hops` is given, the remaining hops.
    fn rewrite_header<P: Packet + ?Sized>(
        packet: &mut P,
        at: usize,
        addresses: Sum,
        src: &Self,
        dst: &Self,
        hops: Option<u8>,
    ) -> Option<()>;

    /// Whether the family is IPv6.
    const IS_V6: bool;
}

impl Address for [u8; V4] {
    const IS_V6: bool = false;

    #[inline(always)]
    fn rewrite_header<P: Packet + ?Sized>(
        packet: &mut P,
        at: usize,
        addresses: Sum,
        src: &Self,
        dst: &Self,
        hops: Option<u8>,
    ) -> Option<()> {
        let mut ip = Ipv4(packet.window(at)?);
        ip.set_checksum(checksum::header(ip.checksum(), addresses, hops.is_some()));
        if let Some(hops) = hops {
            ip.set_ttl(hops);
        }
        ip.set_addresses(src, dst);
        Some(())
    }
}

impl Address for [u8; V6] {
    const IS_V6: bool = true;

    #[inline(always)]
    fn rewrite_header<P: Packet + ?Sized>(
        packet: &mut P,
        at: usize,
        _: Sum,
        src: &Self,
        dst: &Self,
        hops: Option<u8>,
    ) -> Option<()> {
        let mut ip = Ipv6(packet.window(at)?);
        if let Some(hops) = hops {
            ip.set_hop_limit(hops);
        }
        ip.set_addresses(src, dst);
        Some(())
    }
}

/// Make `to` the packet's ends; with `forward`, also take off one hop, as a router does.
///
/// `None` leaves the packet as it was. That cannot happen after a successful parse: all windows
/// asked for here were seen there, so the first one decides.
#[inline(always)]
pub fn rewrite<P: Packet + ?Sized, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    to: &Tuple<N>,
    forward: bool,
) -> Option<()>
where
    [u8; N]: Address,
{
    let from = &headers.tuple;
    let addresses = Sum::ZERO.replace(&from.src, &to.src).replace(&from.dst, &to.dst);
    if headers.protocol == SCTP {
        rewrite_sctp(packet, headers, to)?;
    } else {
        rewrite_ports(packet, headers, to, addresses)?;
    }
    let hops = forward.then_some(headers.hops.wrapping_sub(1));
    <[u8; N]>::rewrite_header(packet, L3, addresses, &to.src, &to.dst, hops)
}

/// Ports and checksum of TCP and UDP.
#[inline(always)]
fn rewrite_ports<P: Packet + ?Sized, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    to: &Tuple<N>,
    addresses: Sum,
) -> Option<()>
where
    [u8; N]: Address,
{
    let from = &headers.tuple;
    let ports = (from.src_port != to.src_port || from.dst_port != to.dst_port).then(|| {
        Sum::ZERO.replace16(from.src_port, to.src_port).replace16(from.dst_port, to.dst_port)
    });
    let is_tcp = headers.protocol == TCP;
    let change = Change { addresses, ports, optional: !is_tcp, v6: <[u8; N]>::IS_V6 };
    let at = headers.l4 + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
    packet.fix_checksum(at, &change)?;
    if ports.is_some() {
        Ports(packet.window(headers.l4)?).set(to.src_port, to.dst_port);
    }
    Some(())
}

/// Ports and CRC of SCTP. The CRC does not cover the addresses (RFC 9260, section 6.8).
///
/// A CRC of zero stays: the stack leaves it to the device, which computes it later, or the sender
/// asks for none (RFC 9653). A CRC that is zero by chance, once in 2³² packets, cannot be told from
/// these; such a packet is lost where its ports change.
#[inline(always)]
fn rewrite_sctp<P: Packet + ?Sized, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    to: &Tuple<N>,
) -> Option<()> {
    let mut header = Sctp(packet.window(headers.l4)?);
    let change = word(&headers.tuple) ^ word(to);
    let stored = header.checksum();
    if change == 0 {
        return Some(());
    }
    header.set_ports(to.src_port, to.dst_port);
    if stored != 0 {
        header.set_checksum(stored ^ crc32c::shift(change, headers.l4_len.into()));
    }
    Some(())
}

/// Both ports as the number that a CRC takes them for.
#[inline(always)]
const fn word<const N: usize>(tuple: &Tuple<N>) -> u32 {
    let ([s0, s1], [d0, d1]) = (tuple.src_port, tuple.dst_port);
    u32::from_le_bytes([s0, s1, d0, d1])
}

/// Address the frame to the next hop.
#[inline(always)]
pub fn send_by<P: Packet + ?Sized>(packet: &mut P, link: &Link) -> Option<()> {
    Ethernet(packet.window(0)?).set_macs(link.dst_mac, link.src_mac);
    Some(())
}

#[cfg(test)]
mod tests;
