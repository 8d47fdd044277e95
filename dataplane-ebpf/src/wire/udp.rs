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
    pub fn set(&mut self, src: [u8; 2], dst: [u8; 2]) {
        super::set_field(self.0, 0, &src);
        super::set_field(self.0, 2, &dst);
    }
}
