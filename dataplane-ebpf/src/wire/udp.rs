//! The UDP header (RFC 768), and the ports that TCP and UDP keep in the same place.

/// Length of the header in bytes.
pub const LEN: usize = 8;
/// Where its checksum stands.
pub const CHECKSUM: usize = 6;

/// View of the source and destination port of TCP or UDP.
#[derive(Debug)]
pub struct Ports<'a>(pub &'a mut [u8; 4]);

impl Ports<'_> {
    /// Both ports as one word, for [`split`].
    #[inline(always)]
    pub const fn both(&self) -> u32 {
        u32::from_le_bytes(*self.0)
    }

    /// Write both ports, with one store: whoever loads both right behind it need not wait.
    #[inline(always)]
    pub fn set(&mut self, src: [u8; 2], dst: [u8; 2]) {
        let both = u32::from(u16::from_le_bytes(src)) | u32::from(u16::from_le_bytes(dst)) << 16;
        *self.0 = both.to_le_bytes();
    }
}

/// Source and destination port in the word of [`Ports::both`].
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "takes the halves of a word apart")]
pub const fn split(both: u32) -> ([u8; 2], [u8; 2]) {
    ((both as u16).to_le_bytes(), ((both >> 16) as u16).to_le_bytes())
}
