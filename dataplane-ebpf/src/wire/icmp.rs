//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors.

/// Length of an error's header in bytes; the packet it is about follows.
pub const LEN: usize = 8;
/// Where the checksum stands.
pub const CHECKSUM: usize = 2;
/// Bytes of the transport header that every error quotes (RFC 792); most quote more.
pub const QUOTED_LEN: usize = 8;

/// IANA protocol number of ICMP.
pub const V4: u8 = 1;
/// IANA protocol number of ICMPv6.
pub const V6: u8 = 58;

/// Type and code of "port unreachable" in ICMP.
pub const PORT_UNREACHABLE4: [u8; 2] = [3, 3];
/// Type and code of "port unreachable" in ICMPv6.
pub const PORT_UNREACHABLE6: [u8; 2] = [1, 4];

/// Whether an ICMP message of this type is an error about a packet: destination unreachable, with
/// "fragmentation needed" among its codes; time exceeded; parameter problem.
#[inline(always)]
pub const fn is_error4(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// The same for ICMPv6: destination unreachable, packet too big, time exceeded, parameter problem.
#[inline(always)]
pub const fn is_error6(kind: u8) -> bool {
    matches!(kind, 1..=4)
}
