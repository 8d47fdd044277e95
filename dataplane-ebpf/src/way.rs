//! How a packet goes on once it is known what it becomes: its next hop, its rewrite, its verdict.

use dataplane_common::{Flow, Link, Reason, Tuple};

use crate::{
    headers::Headers,
    packet::Packet,
    pipeline::{Hop, Verdict},
    rewrite::{self, Address},
    tables::{Route, Tables},
};

/// How a rewritten packet goes on: as plain numbers, which the verifier can be made to forget.
pub(crate) struct Way {
    /// [`Flow::FORWARD`] for a packet that is sent on, and [`Way::NEIGHBOUR`] beside it if its next
    /// hop's MAC is not known.
    pub(crate) kind: u32,
    link: Link,
}

impl Way {
    const NEIGHBOUR: u32 = Flow::<4>::FORWARD << 1;
    pub(crate) const STACK: Self =
        Self { kind: 0, link: Link { ifindex: 0, dst_mac: [0; 6], src_mac: [0; 6] } };

    #[inline(always)]
    pub(crate) fn by(route: Route) -> Self {
        match route {
            Route::Link(link) => Self { kind: Flow::<4>::FORWARD, link },
            Route::Neighbour(ifindex) => Self {
                kind: Flow::<4>::FORWARD | Self::NEIGHBOUR,
                link: Link { ifindex, ..Self::STACK.link },
            },
            Route::None => Self::STACK,
        }
    }

    /// Whether the packet is sent on, and not handed to the stack.
    #[inline(always)]
    pub(crate) const fn forwards(&self) -> bool {
        self.kind & Flow::<4>::FORWARD != 0
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "unpacks what was packed")]
    pub(crate) fn forget<P: Packet + ?Sized>(&mut self, packet: &mut P) {
        let packed = packet.forget(u64::from(self.kind) << 32 | u64::from(self.link.ifindex));
        self.kind = (packed >> 32) as u32;
        self.link.ifindex = packed as u32;
    }
}

/// The flow's next hop: looked up once per tick, and kept with the flow in between.
#[inline(always)]
pub(crate) fn follow_link<T, const N: usize>(
    tables: &mut T,
    headers: &Headers<N>,
    entry: T::Entry,
    to: &Tuple<N>,
    now: u32,
) -> Result<Route, Verdict>
where
    T: Tables<N>,
{
    if headers.hops > 1
        && let Some(link) = tables.link(entry, now)
    {
        let route = Route::Link(link);
        if tables.can_leave_by(&route) {
            return Ok(route);
        }
        return Err(Verdict::Pass(Reason::LeftToTc));
    }
    let route = leave(tables, headers, to)?;
    if let Route::Link(link) = route {
        tables.set_link(entry, link, now);
    }
    Ok(route)
}

/// Where a packet with the ends `to` leaves, or why it cannot.
#[inline(always)]
pub(crate) fn leave<T, const N: usize>(
    tables: &T,
    headers: &Headers<N>,
    to: &Tuple<N>,
) -> Result<Route, Verdict>
where
    T: Tables<N>,
{
    if headers.hops <= 1 {
        return Err(Verdict::Drop(Reason::HopLimit));
    }
    let route = tables.route(&to.src, &to.dst);
    if !tables.can_leave_by(&route) {
        return Err(Verdict::Pass(Reason::LeftToTc));
    }
    match route {
        Route::Link(_) | Route::Neighbour(_) => Ok(route),
        Route::None => Err(Verdict::Drop(Reason::NoRoute)),
    }
}

/// Rewrite the packet and say how it goes on.
#[inline(always)]
pub(crate) fn send<P, const N: usize>(
    packet: &mut P,
    headers: &Headers<N>,
    to: &Tuple<N>,
    way: &Way,
    reason: Reason,
) -> Verdict
where
    P: Packet + ?Sized,
    [u8; N]: Address,
{
    if rewrite::rewrite(packet, headers, to, way.forwards()).is_none() {
        return Verdict::Pass(Reason::Short);
    }
    go(packet, way, reason)
}

/// How a packet that was rewritten goes on.
#[inline(always)]
pub(crate) fn go<P: Packet + ?Sized>(packet: &mut P, way: &Way, reason: Reason) -> Verdict {
    if !way.forwards() {
        return Verdict::Deliver(reason);
    }
    let ifindex = way.link.ifindex;
    if way.kind & Way::NEIGHBOUR != 0 {
        return Verdict::Forward(reason, Hop::Neighbour(ifindex));
    }
    match rewrite::send_by(packet, &way.link) {
        Some(()) => Verdict::Forward(reason, Hop::Link(ifindex)),
        None => Verdict::Drop(Reason::NoRoute),
    }
}
