//! How far a packet has come, as the number that one function of a program returns to another.

use dataplane_common::Reason;
use dataplane_ebpf::pipeline::{Hop, Step, Verdict};

/// A [`Step`] in 64 bits: kind, reason, and the device of a packet that is sent on.
#[derive(Clone, Copy)]
pub(super) struct Outcome(pub(super) u64);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The stack goes on with the packet.
    Stack,
    /// It leaves by a device, addressed.
    Link,
    /// It leaves by a device, and the kernel finds the next hop.
    Neighbour,
    /// It goes back.
    Answer,
    /// It ends here.
    Drop,
    /// The second step follows.
    First,
    /// The refusal follows.
    Refuse,
}

impl Outcome {
    #[inline(always)]
    pub(super) const fn of(step: Step) -> Self {
        let (kind, reason, ifindex) = match step {
            Step::Done(Verdict::Pass(reason) | Verdict::Deliver(reason)) => {
                (Kind::Stack, reason, 0)
            }
            Step::Done(Verdict::Forward(reason, Hop::Link(ifindex))) => {
                (Kind::Link, reason, ifindex)
            }
            Step::Done(Verdict::Forward(reason, Hop::Neighbour(ifindex))) => {
                (Kind::Neighbour, reason, ifindex)
            }
            Step::Done(Verdict::Answer(reason)) => (Kind::Answer, reason, 0),
            Step::Done(Verdict::Drop(reason)) => (Kind::Drop, reason, 0),
            Step::First(reason) => (Kind::First, reason, 0),
            Step::Refuse => (Kind::Refuse, Reason::Refused, 0),
        };
        Self((ifindex as u64) << 32 | (reason as u64) << 8 | kind as u64)
    }

    #[inline(always)]
    pub(super) const fn kind(self) -> Kind {
        match self.0 & 0xff {
            0 => Kind::Stack,
            1 => Kind::Link,
            2 => Kind::Neighbour,
            3 => Kind::Answer,
            5 => Kind::First,
            6 => Kind::Refuse,
            _ => Kind::Drop,
        }
    }

    /// Number of the reason.
    #[inline(always)]
    pub(super) const fn reason(self) -> u32 {
        (self.0 >> 8) as u32 & 0xff
    }

    /// Index of the device.
    #[inline(always)]
    pub(super) const fn ifindex(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
