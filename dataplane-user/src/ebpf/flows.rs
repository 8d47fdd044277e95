//! Expires flows, both directions together, and says which gate bits live flows need.
//!
//! Nobody sweeps `AFFINITY`: the kernel drops what was used least lately when it needs room. Entries
//! of services that are gone may stay until then. They lead nowhere, since the identity of their
//! endpoint is never live again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use dataplane_common::{Flow, FlowKey, SCTP, TCP, names};

use super::{
    gate,
    maps::{MapError, MapWriter},
};

/// The longest time for which a silent flow is kept.
pub const SILENCE_MAX: Duration =
    Duration::from_nanos((timeout_ticks::ESTABLISHED as u64 + 1) << 30);

/// How long a flow may be silent, in ticks of 2³⁰ ns (1.07 s) rounded up.
mod timeout_ticks {
    /// Of TCP and SCTP.
    pub(super) const CLOSED: u32 = 28;
    pub(super) const UNANSWERED: u32 = 56;
    pub(super) const ESTABLISHED: u32 = 80_467;
    pub(super) const UDP_UNANSWERED: u32 = 56;
    pub(super) const UDP_ANSWERED: u32 = 168;
}

/// What a sweep found and did, over both families.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// Entries that stay; a flow has two.
    pub entries: usize,
    /// Entries that were deleted.
    pub expired: usize,
    /// Entries that stay, by state.
    pub states: BTreeMap<&'static str, usize>,
    /// Bits of the gate that flows which stay need.
    pub gate_bits: BTreeSet<u32>,
}

/// The state of a flow and how many ticks it may be silent.
fn state<const N: usize>(protocol: u8, flow: &Flow<N>) -> (&'static str, u32) {
    let answered = flow.flags & Flow::<N>::ANSWERED != 0;
    let [closed, established, unanswered] = match protocol {
        TCP => ["tcp_closed", "tcp_established", "tcp_unanswered"],
        SCTP => ["sctp_closed", "sctp_established", "sctp_unanswered"],
        _ if answered => return ("udp_answered", timeout_ticks::UDP_ANSWERED),
        _ => return ("udp_unanswered", timeout_ticks::UDP_UNANSWERED),
    };
    if Flow::<N>::is_closed(flow.flags) {
        (closed, timeout_ticks::CLOSED)
    } else if answered {
        (established, timeout_ticks::ESTABLISHED)
    } else {
        (unanswered, timeout_ticks::UNANSWERED)
    }
}

/// Both directions of a flow as one: the latest packet and all bits count for both.
fn joined<const N: usize>(flow: &Flow<N>, partner: Option<&Flow<N>>) -> Flow<N> {
    let mut joined = *flow;
    if let Some(partner) = partner {
        // Ticks wrap after 146 years; a plain maximum is right until then.
        joined.seen = joined.seen.max(partner.seen);
        joined.flags |= partner.flags & (Flow::<N>::RESET | Flow::<N>::ANSWERED);
        if partner.flags & Flow::<N>::FIN != 0 {
            joined.flags |= Flow::<N>::PARTNER_FIN;
        }
        if partner.flags & Flow::<N>::PARTNER_FIN != 0 {
            joined.flags |= Flow::<N>::FIN;
        }
    }
    joined
}

/// Deletes the flows that have been silent for too long at tick `now`.
pub fn sweep(maps: &mut impl MapWriter, now: u32) -> Result<Sweep, MapError> {
    let mut sweep = Sweep::default();
    sweep_family::<4>(maps, names::FLOWS4, now, &mut sweep)?;
    sweep_family::<16>(maps, names::FLOWS6, now, &mut sweep)?;
    Ok(sweep)
}

fn sweep_family<const N: usize>(
    maps: &mut impl MapWriter,
    map: &'static str,
    now: u32,
    sweep: &mut Sweep,
) -> Result<(), MapError> {
    let flows: BTreeMap<FlowKey<N>, Flow<N>> =
        maps.entries::<FlowKey<N>, Flow<N>>(map)?.into_iter().collect();
    let mut expired = Vec::new();
    for (key, flow) in &flows {
        let flow = joined(flow, flows.get(&key.partner(&flow.to)));
        let (name, timeout) = state(key.protocol(), &flow);
        if now.saturating_sub(flow.seen) > timeout {
            expired.push(*key);
            continue;
        }
        sweep.entries += 1;
        *sweep.states.entry(name).or_default() += 1;
        if !key.is_reply() {
            sweep.gate_bits.insert(gate::number(&key.tuple().dst));
        }
    }
    if !expired.is_empty() {
        maps.delete(map, &expired)?;
    }
    sweep.expired += expired.len();
    Ok(())
}

#[cfg(test)]
mod tests {
    use dataplane_common::{Link, Tuple, UDP};

    use super::*;
    use crate::ebpf::{Limits, fake::FakeMaps};

    fn flow(maps: &mut FakeMaps, client: u8, protocol: u8, seen: [u32; 2], flags: [u32; 2]) {
        let forward = Tuple {
            src: [10, 0, 0, client],
            dst: [10, 9, 0, 1],
            src_port: [1, 1],
            dst_port: [0, 80],
        };
        let to = Tuple { dst: [10, 0, 1, 1], ..forward };
        let value = |to, at: usize| Flow {
            to,
            endpoint: 1,
            seen: seen[at],
            service: 2,
            flags: flags[at],
            link: Link::default(),
            link_seen: 0,
        };
        let key = FlowKey::forward(forward, protocol);
        let entries = [value(to, 0), value(forward.reversed(), 1)];
        maps.update(names::FLOWS4, &[key, key.partner(&to)], &entries).unwrap();
    }

    fn maps() -> FakeMaps {
        FakeMaps { fail_one_in: 0, ..FakeMaps::new(Limits::default()) }
    }

    #[test]
    fn a_flow_expires_in_both_directions_or_in_none() {
        let mut maps = maps();
        // The forward direction was silent for an hour, but the answers still come.
        flow(&mut maps, 1, UDP, [1000, 4600], [Flow::<4>::ANSWERED; 2]);
        flow(&mut maps, 2, UDP, [1000, 1000], [Flow::<4>::ANSWERED; 2]);
        let sweep = sweep(&mut maps, 4700).unwrap();
        assert_eq!((sweep.entries, sweep.expired), (2, 2));
        assert_eq!(sweep.states, BTreeMap::from([("udp_answered", 2)]));
        assert_eq!(sweep.gate_bits, BTreeSet::from([gate::number(&[10, 9, 0, 1])]));
    }

    #[test]
    fn each_state_has_its_time() {
        let (fin, answered) = (Flow::<4>::FIN, Flow::<4>::ANSWERED);
        let cases = [
            (TCP, [answered | fin, answered | fin], 30),
            (TCP, [Flow::<4>::RESET, 0], 30),
            (TCP, [0, 0], 60),
            (TCP, [answered | fin, answered], 86_400),
            (SCTP, [0, Flow::<4>::RESET], 30),
            (SCTP, [0, 0], 60),
            (SCTP, [answered, 0], 86_400),
            (UDP, [0, 0], 60),
            (UDP, [answered, 0], 180),
        ];
        for (protocol, flags, seconds) in cases {
            let ticks = u32::try_from(seconds * 1_000_000_000u64 / (1 << 30)).unwrap() + 1;
            let mut maps = maps();
            flow(&mut maps, 1, protocol, [10, 10], flags);
            assert_eq!(sweep(&mut maps, 10 + ticks).unwrap().expired, 0, "{seconds} s");
            assert_eq!(sweep(&mut maps, 11 + ticks).unwrap().expired, 2, "{seconds} s");
            assert!(maps.entries::<FlowKey<4>, Flow<4>>(names::FLOWS4).unwrap().is_empty());
        }
    }
}
