//! Packets by which neighbours find each other, as whole Ethernet frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An Ethernet address.
pub(super) type Mac = [u8; 6];

/// The type of ARP frames.
pub(super) const ARP: u16 = 0x0806;
/// The type of IPv6 frames.
pub(super) const IPV6: u16 = 0x86dd;
/// The IPv6 header's number for ICMPv6.
pub(super) const ICMPV6: u8 = 58;
/// ICMPv6: who has this address?
pub(super) const SOLICITATION: u8 = 135;
/// ICMPv6: I have.
const ADVERTISEMENT: u8 = 136;

const EVERYBODY: Mac = [0xff; 6];
/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;
/// Ethernet header, ARP for Ethernet and IPv4.
const ARP_LEN: usize = 14 + 28;
/// Ethernet header, IPv6 header, solicitation without options.
const SOLICITATION_LEN: usize = 14 + 40 + 24;
/// Of a neighbour discovery packet that no router has passed on.
const HOP_LIMIT: u8 = 255;
/// Flags of an advertisement: it answers somebody; it replaces what others know.
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// What a neighbour says or asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Somebody asks who has an address.
    Asks { who: Mac, at: IpAddr, target: IpAddr },
    /// Somebody else says that it has an address.
    Claims { who: Mac, address: IpAddr },
}

/// Reads a frame; nothing of what concerns others.
pub(super) fn read(frame: &[u8]) -> Option<Heard> {
    match u16::from_be_bytes(take(frame, 12)?) {
        ARP => read_arp(frame),
        IPV6 => read_solicitation(frame),
        _ => None,
    }
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn read_arp(frame: &[u8]) -> Option<Heard> {
    // Hardware Ethernet, protocol IPv4, lengths 6 and 4.
    if take(frame, 14)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let operation = u16::from_be_bytes(take(frame, 20)?);
    let who: Mac = take(frame, 22)?;
    let from = Ipv4Addr::from(take::<4>(frame, 28)?);
    let target = Ipv4Addr::from(take::<4>(frame, 38)?);
    if operation == REQUEST && from != target {
        return Some(Heard::Asks { who, at: from.into(), target: target.into() });
    }
    (!from.is_unspecified()).then_some(Heard::Claims { who, address: from.into() })
}

fn read_solicitation(frame: &[u8]) -> Option<Heard> {
    let [next, hops] = take(frame, 20)?;
    let [kind, code] = take(frame, 54)?;
    if (next, hops, kind, code) != (ICMPV6, HOP_LIMIT, SOLICITATION, 0) {
        return None;
    }
    let who: Mac = take(frame, 6)?;
    let from = Ipv6Addr::from(take::<16>(frame, 22)?);
    let target = Ipv6Addr::from(take::<16>(frame, 62)?);
    (frame.len() >= SOLICITATION_LEN && !target.is_multicast()).then_some(Heard::Asks {
        who,
        at: from.into(),
        target: target.into(),
    })
}

/// "I have this address", to one who asked or, without one, to all.
pub(super) fn claim(own: Mac, address: IpAddr, to: Option<(Mac, IpAddr)>) -> Vec<u8> {
    match (address, to) {
        (IpAddr::V4(address), Some((who, IpAddr::V4(at)))) => {
            arp(REPLY, (own, address), who, (who, at))
        }
        // All nodes take a request of this kind, and fewer an answer that they have not asked for.
        (IpAddr::V4(address), _) => arp(REQUEST, (own, address), EVERYBODY, ([0; 6], address)),
        (IpAddr::V6(address), Some((who, IpAddr::V6(at)))) if !at.is_unspecified() => {
            advertisement(own, address, (who, at), SOLICITED | OVERRIDE)
        }
        (IpAddr::V6(address), _) => {
            advertisement(own, address, (ALL_NODES_MAC, ALL_NODES), OVERRIDE)
        }
    }
}

fn arp(operation: u16, sender: (Mac, Ipv4Addr), to: Mac, target: (Mac, Ipv4Addr)) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ARP_LEN);
    frame.extend(to);
    frame.extend(sender.0);
    frame.extend(ARP.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4]);
    frame.extend(operation.to_be_bytes());
    frame.extend(sender.0);
    frame.extend(sender.1.octets());
    frame.extend(target.0);
    frame.extend(target.1.octets());
    frame
}

fn advertisement(own: Mac, address: Ipv6Addr, to: (Mac, Ipv6Addr), flags: u8) -> Vec<u8> {
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    // The option "address of the target", in units of 8 bytes.
    message.extend([2, 1]);
    message.extend(own);
    let sum = checksum(address, to.1, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let mut frame = Vec::new();
    frame.extend(to.0);
    frame.extend(own);
    frame.extend(IPV6.to_be_bytes());
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([ICMPV6, HOP_LIMIT]);
    frame.extend(address.octets());
    frame.extend(to.1.octets());
    frame.extend(message);
    frame
}

/// The checksum of an ICMPv6 message (RFC 4443, 2.3).
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let mut all = Vec::new();
    all.extend(from.octets());
    all.extend(to.octets());
    all.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    all.extend([0, 0, 0, ICMPV6]);
    all.extend(message);
    let words = all.chunks(2).map(|it| u32::from(it[0]) << 8 | u32::from(*it.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// The group at which who has an address listens for solicitations (RFC 4291, 2.7.1).
pub(super) fn group(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_request_is_read_and_its_answer_is_a_claim() {
        let asked = arp(REQUEST, (OTHER, v4("192.0.2.1")), EVERYBODY, ([0; 6], v4("192.0.2.200")));
        assert_eq!(asked.len(), ARP_LEN);
        let asks = Heard::Asks { who: OTHER, at: ip("192.0.2.1"), target: ip("192.0.2.200") };
        assert_eq!(read(&asked), Some(asks));
        let said = claim(OWN, ip("192.0.2.200"), Some((OTHER, ip("192.0.2.1"))));
        assert_eq!(said[..12], [OTHER, OWN].concat());
        assert_eq!(read(&said), Some(Heard::Claims { who: OWN, address: ip("192.0.2.200") }));
        let unasked = claim(OWN, ip("192.0.2.200"), None);
        assert_eq!(unasked[..6], EVERYBODY);
        assert_eq!(read(&unasked), Some(Heard::Claims { who: OWN, address: ip("192.0.2.200") }));
    }

    #[test]
    fn probes_without_an_address_claim_nothing() {
        let probe =
            arp(REPLY, (OTHER, Ipv4Addr::UNSPECIFIED), EVERYBODY, ([0; 6], v4("192.0.2.9")));
        assert_eq!(read(&probe), None);
        assert_eq!(read(&probe[..30]), None);
    }

    #[test]
    fn a_solicitation_is_read_and_an_advertisement_adds_up() {
        let target: Ipv6Addr = "2001:db8::200".parse().expect("an address");
        let from: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.octets());
        let mut asked = [[0x33, 0x33, 0xff, 0, 2, 0], OTHER].concat();
        asked.extend(IPV6.to_be_bytes());
        asked.extend([0x60, 0, 0, 0, 0, 24, ICMPV6, HOP_LIMIT]);
        asked.extend(from.octets());
        asked.extend(group(target).octets());
        asked.extend(message);
        let asks = Heard::Asks { who: OTHER, at: from.into(), target: target.into() };
        assert_eq!(read(&asked), Some(asks));
        let said = claim(OWN, target.into(), Some((OTHER, from.into())));
        // A right checksum makes the sum over everything, itself included, nothing.
        assert_eq!(checksum(target, from, &said[54..]), 0);
        assert_eq!(said[58], SOLICITED | OVERRIDE);
        let unasked = claim(OWN, target.into(), None);
        assert_eq!((&unasked[..6], unasked[58]), (&ALL_NODES_MAC[..], OVERRIDE));
        asked[21] = 64;
        assert_eq!(read(&asked), None);
    }

    #[test]
    fn the_group_of_an_address_has_its_last_bytes() {
        let group = group("2001:db8::1:2:3456:789a".parse().expect("an address"));
        assert_eq!(group, "ff02::1:ff56:789a".parse::<Ipv6Addr>().expect("an address"));
    }
}
