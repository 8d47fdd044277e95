//! The UDP header (RFC 768), and the ports that TCP and UDP keep in the same place.

/// Length of the header in bytes.
pub const LEN: usize = 8;
/// Where its checksum stands.
pub const CHECKSUM: usize = 6;

/// View of the source and destination port of TCP or UDP.
#[derive(Debug)]
pub struct Ports<'a>(pub &'a mut [u8; 4]);

impl Ports<'_> {
    /// Write both ports.
    #[inline(always)]
    pub const fn set(&mut self, [a, b]: [u8; 2], [c, d]: [u8; 2]) {
        *self.0 = [a, b, c, d];
    }
}
