//! Packets as TC and XDP give them.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::{bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_pull_data, bpf_xdp_adjust_tail},
    programs::{TcContext, XdpContext},
};
use dataplane_ebpf::{
    checksum::Change,
    offload::{self, Pseudo},
    packet::Packet,
};

/// Bytes that hold every header we read: Ethernet, IP with options, TCP.
const HEADERS_LEN: u32 = 14 + 60 + 20;

/// `gso_size` of an SCTP packet that is cut late (`GSO_BY_FRAGS`).
const CUT_BY_LIST: u32 = 0xffff;

/// A packet pointer from the context.
///
/// Read anew each time, and with its widening in the same instruction: a pointer that is kept in
/// 32 bits and widened later is a mere number to the verifier.
#[inline(always)]
fn load(field: &u32) -> usize {
    // SAFETY: a reference is readable.
    unsafe { core::ptr::from_ref(field).read_volatile() as usize }
}

/// `value`, mixed with a field that the verifier knows nothing about, and separated from it again.
///
/// Two instructions in registers; a store and a load would take as long as a helper.
#[inline(always)]
fn forget(field: &u32, value: u64) -> u64 {
    let spread = |word: usize| word as u64 | (word as u64) << 32;
    value ^ spread(load(field)) ^ spread(load(field))
}

/// A packet in a socket buffer.
pub(super) struct Skb<'a>(pub(super) &'a TcContext);

impl Skb<'_> {
    /// Bring the headers into the linear part, where windows can see them.
    #[inline(always)]
    pub(super) fn pull_headers(&self) {
        self.pull(HEADERS_LEN);
    }

    /// Bring the first `len` bytes into the linear part, or all if there are fewer.
    ///
    /// Packets that the stack has yet to cut into a list of SCTP packets keep their form: what is
    /// pulled out of the list is missing when they are cut, and the kernel ends there (`BUG` in
    /// `skb_segment`, seen on 6.1). Their linear part has all headers but that of the first chunk.
    #[inline(always)]
    pub(super) fn pull(&self, len: u32) {
        // SAFETY: the context is the kernel's own and lives as long as the program runs.
        if unsafe { (*self.0.skb.skb).gso_size } == CUT_BY_LIST {
            return;
        }
        let linear = self.0.data_end().wrapping_sub(self.0.data());
        let wanted = self.0.len().min(len);
        if linear < wanted as usize {
            // SAFETY: the context is the kernel's own; on failure the packet stays as it is and
            // the windows say `None`.
            unsafe { bpf_skb_pull_data(self.0.skb.skb, wanted) };
        }
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let skb = self.0.skb.skb;
        // SAFETY: the context is the kernel's own and lives as long as the program runs.
        let fields = unsafe { &*skb };
        let (data, end) = (load(&fields.data), load(&fields.data_end));
        let start = data + offset;
        if start + N > end {
            return None;
        }
        // SAFETY: `start..start + N` lies inside the packet (checked above), any bytes are a valid
        // `[u8; N]` of alignment 1, and `&mut self` keeps a second window from existing.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        // SAFETY: the context is the kernel's own; no window outlives this call (`&mut self`).
        let changed = unsafe { bpf_skb_change_tail(self.0.skb.skb, len as u32, 0) };
        (changed == 0).then_some(())
    }

    #[inline(always)]
    fn forget(&mut self, value: u64) -> u64 {
        // SAFETY: the context is the kernel's own and lives as long as the program runs.
        let skb = unsafe { &*self.0.skb.skb };
        forget(&skb.len, value)
    }

    #[inline(always)]
    fn fix_checksum(&mut self, offset: usize, change: &Change) -> Option<()> {
        let optional = if change.optional { BPF_F_MARK_MANGLED_0 as u64 } else { 0 };
        offload::fix(self, offset, change, |packet, sum, pseudo| {
            let flags = if pseudo == Pseudo::Yes { BPF_F_PSEUDO_HDR as u64 } else { 0 } | optional;
            let (skb, sum) = (packet.0.skb.skb, sum.fold32().into());
            // SAFETY: the context is the kernel's own; no window outlives this call, since it
            // borrows the packet as a whole.
            let done = unsafe { bpf_l4_csum_replace(skb, offset as u32, 0, sum, flags) };
            (done == 0).then_some(())
        })
    }
}

/// A packet in a driver's buffer.
pub(super) struct Buffer<'a>(pub(super) &'a XdpContext);

impl Packet for Buffer<'_> {
    #[inline(always)]
    fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let buffer = self.0.ctx;
        // SAFETY: the context is the kernel's own and lives as long as the program runs.
        let fields = unsafe { &*buffer };
        let (data, end) = (load(&fields.data), load(&fields.data_end));
        let start = data + offset;
        if start + N > end {
            return None;
        }
        // SAFETY: as for `Skb`.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    #[inline(always)]
    fn forget(&mut self, value: u64) -> u64 {
        // SAFETY: the context is the kernel's own and lives as long as the program runs.
        let buffer = unsafe { &*self.0.ctx };
        forget(&buffer.rx_queue_index, value)
    }

    #[inline(always)]
    fn resize(&mut self, len: usize) -> Option<()> {
        let now = self.0.data_end().wrapping_sub(self.0.data());
        let by = len as i32 - now as i32;
        // SAFETY: the context is the kernel's own; no window outlives this call (`&mut self`).
        let changed = unsafe { bpf_xdp_adjust_tail(self.0.as_ptr().cast(), by) };
        (changed == 0).then_some(())
    }
}
