//! Checksums of socket buffers, which a device may have yet to compute or may have verified already.
//!
//! The kernel knows four states of a buffer (`ip_summed` in its `skbuff.h`) and shows none of them to
//! programs. `NONE` and `UNNECESSARY`: the field is as on the wire. `COMPLETE`: as well, and the
//! buffer has the device's sum over the whole packet, which must stay true. `PARTIAL`: the field has
//! the sum of the pseudo header alone, not complemented, and a device does the rest.

use crate::{
    checksum::{self, Change, Sum},
    packet::Packet,
};

/// Carry `change` over to the TCP or UDP checksum at `offset` with one call of the kernel's helper.
///
/// `helper` is `bpf_l4_csum_replace` at this place, by a sum and with or without `PSEUDO_HDR`. A call
/// takes as long as a parse. What it does to the field tells which state the buffer is in, and so
/// what remains can be written as plain bytes.
#[inline(always)]
pub fn fix<P, H>(packet: &mut P, offset: usize, change: &Change, helper: H) -> Option<()>
where
    P: Packet + ?Sized,
    H: Fn(&mut P, Sum, Pseudo) -> Option<()>,
{
    let stored = *packet.window::<2>(offset)?;
    if change.optional && stored == [0, 0] {
        return Some(());
    }
    if change.v6 {
        fix6(packet, offset, change, stored, helper)
    } else {
        fix4(packet, offset, change, stored, helper)
    }
}

/// Whether a sum is of the pseudo header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `PARTIAL` fields change by it, and so does the sum of `COMPLETE` buffers.
    Yes,
    /// `PARTIAL` fields stay.
    No,
}

/// The header checksum makes up for the addresses in the sum of the whole packet, so that sum changes
/// as the field does: the helper's business. The ports are ours.
#[inline(always)]
fn fix4<P, H>(
    packet: &mut P,
    offset: usize,
    change: &Change,
    stored: [u8; 2],
    helper: H,
) -> Option<()>
where
    P: Packet + ?Sized,
    H: Fn(&mut P, Sum, Pseudo) -> Option<()>,
{
    helper(packet, change.addresses, Pseudo::Yes)?;
    let Some(ports) = change.ports else { return Some(()) };
    let addresses = Change { ports: None, ..*change };
    let (whole, fresh) = (checksum::apply(stored, &addresses), checksum::apply(stored, change));
    let field: &mut [u8; 2] = packet.window(offset)?;
    if *field == stored {
        // The sum of the addresses stays, so both states look alike.
        return helper(packet, ports, Pseudo::No);
    }
    if *field == whole {
        *field = fresh;
    }
    Some(())
}

/// The sum of the whole packet stays: what the addresses add, the field takes off. So the helper may
/// only be asked for what it leaves out in `PARTIAL` buffers.
#[inline(always)]
fn fix6<P, H>(
    packet: &mut P,
    offset: usize,
    change: &Change,
    stored: [u8; 2],
    helper: H,
) -> Option<()>
where
    P: Packet + ?Sized,
    H: Fn(&mut P, Sum, Pseudo) -> Option<()>,
{
    let whole = checksum::apply(stored, change);
    // A change that can be seen, whatever it is, since the field is written anew below.
    let probe = if whole == stored { Sum::ZERO.add16([1, 0]) } else { change.total() };
    helper(packet, probe, Pseudo::No)?;
    let field: &mut [u8; 2] = packet.window(offset)?;
    *field = if *field == stored { apply_partial(stored, change) } else { whole };
    Some(())
}

/// The field of a `PARTIAL` buffer after its addresses changed.
#[inline(always)]
const fn apply_partial(stored: [u8; 2], change: &Change) -> [u8; 2] {
    match change.addresses.add16(stored).folded() {
        [0, 0] if change.optional => [0xff, 0xff],
        fresh => fresh,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Where field, addresses (of 16 bytes, or 4 and padding), and ports with payload stand.
    const FIELD: usize = 0;
    const SRC: usize = 2;
    const DST: usize = 18;
    const PORTS: usize = 34;

    /// A buffer's state.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Plain,
        /// With the device's sum over the packet.
        Complete(Sum),
        Partial,
    }

    #[derive(Clone, Debug)]
    struct Buffer {
        bytes: [u8; 42],
        state: State,
    }

    impl Packet for Buffer {
        fn window<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
            self.bytes.get_mut(offset..)?.first_chunk_mut()
        }

        fn resize(&mut self, _: usize) -> Option<()> {
            None
        }
    }

    impl Buffer {
        fn sum<const N: usize>(&self, at: usize) -> Sum {
            let (bytes, _) = self.bytes[at..].as_chunks::<N>();
            Sum::ZERO.add(&bytes[0])
        }

        fn field(&self) -> [u8; 2] {
            [self.bytes[FIELD], self.bytes[FIELD + 1]]
        }

        fn pseudo(&self) -> Sum {
            self.sum::<32>(SRC)
        }

        /// All that the device sums up: with IPv4, addresses and header checksum come to nothing.
        fn whole(&self, v6: bool) -> Sum {
            let sum = self.sum::<8>(PORTS).add16(self.field());
            if v6 { sum.plus(self.pseudo()) } else { sum }
        }
    }

    /// `inet_proto_csum_replace_by_diff` of the kernel, behind `bpf_l4_csum_replace`.
    fn kernel_replace(buffer: &mut Buffer, sum: Sum, pseudo: Pseudo, optional: bool) {
        let stored = buffer.field();
        if optional && stored == [0, 0] {
            return;
        }
        let change = Change { addresses: sum, ports: None, optional: false, v6: false };
        let mut fresh = match (buffer.state, pseudo) {
            (State::Partial, Pseudo::No) => stored,
            (State::Partial, Pseudo::Yes) => sum.add16(stored).folded(),
            (State::Plain | State::Complete(_), _) => checksum::apply(stored, &change),
        };
        if let (State::Complete(device), Pseudo::Yes) = (buffer.state, pseudo) {
            let [a, b] = sum.finish();
            buffer.state = State::Complete(device.add16([a, b]));
        }
        if optional && fresh == [0, 0] {
            fresh = [0xff, 0xff];
        }
        buffer.bytes[..2].copy_from_slice(&fresh);
    }

    /// Two sums of one value: zero has two forms.
    fn same(one: Sum, other: Sum) -> bool {
        let [one, other] = [one, other].map(|sum| match sum.folded() {
            [0xff, 0xff] => [0, 0],
            folded => folded,
        });
        one == other
    }

    /// A buffer whose checksum is right, with IPv4 addresses in 16 bytes each.
    fn buffer(mut bytes: [u8; 42], kind: u8, v6: bool) -> Buffer {
        bytes[..2].fill(0);
        if !v6 {
            bytes[SRC + 4..DST].fill(0);
            bytes[DST + 4..PORTS].fill(0);
        }
        let mut buffer = Buffer { bytes, state: State::Plain };
        let sum = buffer.pseudo();
        let field = if kind == 0 {
            buffer.state = State::Partial;
            sum.folded()
        } else {
            sum.plus(buffer.sum::<8>(PORTS)).finish()
        };
        buffer.bytes[..2].copy_from_slice(&field);
        if kind == 1 {
            buffer.state = State::Complete(buffer.whole(v6));
        }
        buffer
    }

    /// Rewrites addresses and ports as `rewrite` does.
    fn rewritten(before: &Buffer, ends: &[u8; 36], v6: bool, optional: bool) -> Buffer {
        let mut after = before.clone();
        let at = |bytes: &[u8], at: usize| <[u8; 16]>::try_from(&bytes[at..at + 16]).unwrap();
        let word = |bytes: &[u8]| <[u8; 4]>::try_from(&bytes[PORTS..PORTS + 4]).unwrap();
        let (old, mut new) = (before.bytes, *before.bytes.first_chunk::<38>().unwrap());
        for (from, to, len) in [(0, SRC, 16), (16, DST, 16), (32, PORTS, 4)] {
            let len = if v6 { len } else { 4 };
            new[to..to + len].copy_from_slice(&ends[from..from + len]);
        }
        let addresses = Sum::ZERO
            .replace(&at(&old, SRC), &at(&new, SRC))
            .replace(&at(&old, DST), &at(&new, DST));
        let ports = word(&old) != word(&new);
        let ports = ports.then(|| Sum::ZERO.replace32(word(&old), word(&new)));
        let change = Change { addresses, ports, optional, v6 };
        fix(&mut after, FIELD, &change, |buffer, sum, pseudo| {
            kernel_replace(buffer, sum, pseudo, optional);
            Some(())
        })
        .unwrap();
        after.bytes[SRC..PORTS + 4].copy_from_slice(&new[SRC..]);
        after
    }

    proptest! {
        #[test]
        fn every_state_of_a_buffer_stays_true(
            bytes: [u8; 42], mut ends: [u8; 36], kind in 0u8..3, likeness in 0u8..6,
            v6: bool, optional: bool,
        ) {
            let before = buffer(bytes, kind, v6);
            match likeness {
                // The addresses stay, or change places: their sum does not tell the states apart.
                0 => ends[..32].copy_from_slice(&before.bytes[SRC..PORTS]),
                1 => {
                    ends[..16].copy_from_slice(&before.bytes[DST..PORTS]);
                    ends[16..32].copy_from_slice(&before.bytes[SRC..DST]);
                }
                // All that changes adds up to nothing: the low words of source and ports.
                2 => {
                    ends[..32].copy_from_slice(&before.bytes[SRC..PORTS]);
                    ends[..4].copy_from_slice(&before.bytes[PORTS..PORTS + 4]);
                    ends[32..].copy_from_slice(&before.bytes[SRC..SRC + 4]);
                }
                3 => ends[32..].copy_from_slice(&before.bytes[PORTS..PORTS + 4]),
                _ => {}
            }
            let after = rewritten(&before, &ends, v6, optional);
            let all = after.pseudo().plus(after.sum::<8>(PORTS));
            let field = Sum::ZERO.add16(after.field());
            match after.state {
                State::Partial => prop_assert!(same(field, after.pseudo())),
                State::Plain => prop_assert!(same(field.plus(all), Sum::ZERO)),
                State::Complete(device) => {
                    prop_assert!(same(field.plus(all), Sum::ZERO));
                    prop_assert!(same(device, after.whole(v6)));
                }
            }
        }

        #[test]
        fn a_checksum_that_is_not_there_stays_away(
            mut bytes: [u8; 42], ends: [u8; 36], kind in 0u8..2, v6: bool,
        ) {
            bytes[..2].fill(0);
            let state = if kind == 0 { State::Partial } else { State::Plain };
            let after = rewritten(&Buffer { bytes, state }, &ends, v6, true);
            prop_assert_eq!(after.field(), [0, 0]);
        }
    }
}
