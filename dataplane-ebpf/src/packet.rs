//! Bounded views over packet bytes.

use crate::checksum::{self, Change};

/// Bytes of one packet, from the Ethernet header on. What the kernel and the host do differently.
pub trait Packet {
    /// `N` bytes starting at `offset`, or `None` when the packet is shorter than that.
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]>;

    /// Make the packet `len` bytes long, cutting or adding at its end; `None` when that fails, and
    /// then nothing has changed. Windows asked for before are gone.
    fn resize(&mut self, len: usize) -> Option<()>;

    /// `value`, as a number of which the verifier knows nothing.
    ///
    /// The verifier walks the rest of a program once for each set of constants that it can tell
    /// apart. After a parse that is one walk for each kind of header; with this it is one in all.
    #[inline(always)]
    fn forget(&mut self, value: u64) -> u64 {
        value
    }

    /// Carry a change of addresses and ports over to the TCP or UDP checksum at `offset`.
    ///
    /// Packets whose checksum the device has yet to compute, or has already verified, need the
    /// kernel's help; everything else is plain bytes, which is what this does.
    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, change: &Change) -> Option<()> {
        let stored: &mut [u8; 2] = self.window(offset)?;
        if !change.optional || *stored != [0, 0] {
            *stored = checksum::apply(*stored, change);
        }
        Some(())
    }
}
