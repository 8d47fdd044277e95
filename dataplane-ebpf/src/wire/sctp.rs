//! The SCTP common header and the type of its first chunk (RFC 9260, section 3).

use super::{field, set_field, tcp};

/// Length of the common header in bytes.
pub const LEN: usize = 12;
/// Where its checksum stands.
pub const CHECKSUM: usize = 8;
/// Length of a chunk's header in bytes.
pub const CHUNK_LEN: usize = 4;
/// Bytes of a packet that an ICMP error has to quote: Linux compares the initiate tag of an INIT
/// (RFC 9260, section 10, ICMP8), and ignores errors that end before it.
pub const QUOTE_LEN: usize = LEN + CHUNK_LEN + 4;

/// Open an association.
pub const INIT: u8 = 1;
/// The association is refused or gone.
pub const ABORT: u8 = 6;
/// The association has ended in good order.
pub const SHUTDOWN_COMPLETE: u8 = 14;

/// View of the common header.
#[derive(Debug)]
pub struct Sctp<'a>(pub &'a mut [u8; LEN]);

impl Sctp<'_> {
    /// The checksum, as a number: it travels with its lowest byte first (RFC 9260, appendix A).
    #[inline(always)]
    pub fn checksum(&self) -> u32 {
        u32::from_le_bytes(field(self.0, CHECKSUM))
    }

    /// Write the checksum.
    #[inline(always)]
    pub fn set_checksum(&mut self, checksum: u32) {
        set_field(self.0, CHECKSUM, &checksum.to_le_bytes());
    }

    /// Write both ports.
    #[inline(always)]
    pub fn set_ports(&mut self, src: [u8; 2], dst: [u8; 2]) {
        set_field(self.0, 0, &src);
        set_field(self.0, 2, &dst);
    }
}

/// What a packet's first chunk says about its association, as the TCP flag of the same meaning; 0
/// for all chunks that neither begin nor end one.
///
/// INIT and SHUTDOWN COMPLETE are always alone in their packet (RFC 9260, section 6.10). An ABORT may
/// stand behind other chunks: then the association just falls silent here.
#[inline(always)]
pub const fn as_tcp_flags(chunk: u8) -> u8 {
    match chunk {
        INIT => tcp::SYN,
        ABORT | SHUTDOWN_COMPLETE => tcp::RST,
        _ => 0,
    }
}
