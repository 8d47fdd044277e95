//! ICMP (RFC 792) and ICMPv6 (RFC 4443) errors.

/// Length of an error's header in bytes; the packet it is about follows.
pub const LEN: usize = 8;

/// IANA protocol number of ICMP.
pub const V4: u8 = 1;
/// IANA protocol number of ICMPv6.
pub const V6: u8 = 58;

/// Type and code of "port unreachable" in ICMP.
pub const PORT_UNREACHABLE4: [u8; 2] = [3, 3];
/// Type and code of "port unreachable" in ICMPv6.
pub const PORT_UNREACHABLE6: [u8; 2] = [1, 4];
