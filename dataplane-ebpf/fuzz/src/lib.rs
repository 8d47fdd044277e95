//! What the packet library promises about any bytes at all; each function is a fuzz target.
//!
//! `cargo xtask fuzz` runs them with an engine behind, `tests/replay.rs` runs them on inputs that
//! once broke something.
#![forbid(unsafe_code)]

mod bytes;
mod frames;
mod world;

use dataplane_common::{Flow, Live, Reason, SCTP, TCP, UDP, mapped};
use dataplane_ebpf::{
    Scope, Verdict, answer as refusal, egress,
    headers::{self, Headers, L3},
    host::{Family, Frame},
    ingress,
    sockets::{self as hooks, Decision, Name},
};

use crate::bytes::Bytes;

/// A fuzz target: takes any bytes, and panics if a promise does not hold for them.
pub type Target = fn(&[u8]);

/// Name and function of every target.
pub const TARGETS: [(&str, Target); 6] = [
    ("headers4", headers4),
    ("headers6", headers6),
    ("answer", answer),
    ("pipeline", pipeline),
    ("errors", errors),
    ("sockets", sockets),
];

/// Packets that one input sends one after the other, so that flows begin, go on and end.
const PACKETS_MAX: usize = 16;

/// The IPv4 parser reads and leaves the bytes alone, and what it finds is inside the packet.
pub fn headers4(data: &[u8]) {
    let mut frame = Frame(data.to_vec());
    let parsed = headers::parse4(&mut frame);
    assert_eq!(frame.0, data, "a parser must not write");
    if let Ok(headers) = parsed {
        assert_inside(&headers, data, 20..=60);
    }
}

/// The IPv6 parser reads and leaves the bytes alone, and what it finds is inside the packet.
pub fn headers6(data: &[u8]) {
    let mut frame = Frame(data.to_vec());
    let parsed = headers::parse6(&mut frame);
    assert_eq!(frame.0, data, "a parser must not write");
    if let Ok(headers) = parsed {
        assert_inside(&headers, data, 40..=usize::MAX);
    }
}

fn assert_inside<const N: usize>(
    headers: &Headers<N>,
    data: &[u8],
    ip_len: std::ops::RangeInclusive<usize>,
) {
    let l4_len = match headers.protocol {
        TCP => 20,
        UDP => 8,
        SCTP => 12,
        other => unreachable!("parsed protocol {other}"),
    };
    assert!(ip_len.contains(&(headers.l4 - L3)), "header of {} bytes", headers.l4 - L3);
    assert!(headers.l4 + l4_len <= data.len(), "the transport header ends outside");
    assert!(
        usize::from(headers.l4_len) >= l4_len,
        "the transport header is longer than the packet"
    );
    assert_eq!(headers.dst_port().to_be_bytes(), headers.tuple.dst_port);
}

/// A refusal is a whole packet with right checksums, or there is none and nothing was sent.
pub fn answer(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(kind) = bytes.take() else { return };
    let before = frames::frame(kind, &mut bytes);
    let mut frame = Frame(before.clone());
    let mut tables = world::tables(0);
    let verdict = match headers::family(&mut frame) {
        Ok(headers::Family::V4) => refusal::refuse4(&mut frame, &mut tables),
        Ok(headers::Family::V6) => refusal::refuse6(&mut frame, &mut tables),
        Err(_) => return,
    };
    assert_kept(&before, &frame.0, verdict);
}

/// Packets in both directions: untouched, or rewritten whole with checksums as right as before.
pub fn pipeline(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(what) = bytes.take() else { return };
    let mut tables = world::tables(what);
    let mut last: Option<Vec<u8>> = None;
    for _ in 0..PACKETS_MAX {
        let Some(kind) = bytes.take() else { return };
        let before = match &last {
            // Now and then the other end answers what it was sent.
            Some(last) if kind & 0x80 != 0 => frames::reversed(last),
            Some(_) | None => frames::frame(kind, &mut bytes),
        };
        let mut frame = Frame(before.clone());
        let leaves = kind & 0x40 != 0;
        let scope = if kind & 0x20 == 0 { Scope::Inside } else { Scope::Outside };
        let verdict = if leaves {
            egress(&mut frame, &mut tables)
        } else {
            ingress(&mut frame, &mut tables, scope)
        };
        assert_kept(&before, &frame.0, verdict);
        assert_one_view(&tables.v4);
        assert_one_view(&tables.v6);
        tables.now = tables.now.wrapping_add(u32::from(kind & 1));
        tables.now_ns += u64::from(kind & 1) << 30;
        last = Some(frame.0);
    }
}

/// An ICMP error about a packet that was translated is about the packet that was sent, or untouched.
pub fn errors(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(what) = bytes.take() else { return };
    let mut tables = world::tables(what);
    tables.transmits_only_by = None;
    tables.now = 1;
    for _ in 0..PACKETS_MAX {
        let Some(kind) = bytes.take() else { return };
        let sent = frames::frame(kind, &mut bytes);
        let mut frame = Frame(sent.clone());
        let verdict = ingress(&mut frame, &mut tables, Scope::Outside);
        if !matches!(verdict, Verdict::Deliver(_) | Verdict::Forward(..)) {
            continue;
        }
        let before = frames::error(&frame.0, &mut bytes);
        let is_whole = frames::quotes(&before, &frame.0);
        let mut error = Frame(before.clone());
        let leaves = kind & 0x40 != 0;
        let verdict = if leaves {
            egress(&mut error, &mut tables)
        } else {
            ingress(&mut error, &mut tables, Scope::Outside)
        };
        assert_kept(&before, &error.0, verdict);
        if verdict.reason() == Reason::IcmpError && is_whole {
            assert!(
                frames::quotes(&error.0, &sent),
                "{sent:02x?}\n{before:02x?}\n{:02x?}",
                error.0
            );
        }
    }
}

/// Every flow knows the one view that its endpoint was chosen in.
fn assert_one_view<const N: usize>(family: &Family<N>) {
    for flow in family.flows.values() {
        let views = Flow::<N>::views(flow.flags);
        assert!(views == Live::CLUSTER || views == Live::LOCAL, "{flow:?}");
    }
}

fn assert_kept(before: &[u8], after: &[u8], verdict: Verdict) {
    match verdict {
        Verdict::Pass(_) => assert_eq!(after, before, "passed, but not as it was: {verdict:?}"),
        Verdict::Deliver(_) | Verdict::Forward(..) => {
            assert_eq!(after.len(), before.len(), "rewritten to another length");
            if frames::checksums_are_right(before) {
                assert!(frames::checksums_are_right(after), "{before:02x?}\n{after:02x?}");
            }
        }
        Verdict::Answer(_) => {
            assert!(frames::checksums_are_right(after), "{before:02x?}\n{after:02x?}");
            assert_eq!(after[..6], before[6..12], "an answer goes back where it came from");
        }
        Verdict::Drop(_) => {}
    }
}

/// A socket goes to an endpoint, and is shown the frontend that it asked for.
pub fn sockets(data: &[u8]) {
    let mut bytes = Bytes(data);
    let Some(what) = bytes.take() else { return };
    let mut tables = world::tables(what);
    for _ in 0..PACKETS_MAX {
        let Some(kind) = bytes.take() else { return };
        let name = world::name(kind, &mut bytes);
        let protocol = if kind & 0x80 == 0 { TCP } else { UDP };
        tables.netns_cookie = u64::from(kind & 1);
        tables.random = tables.random.wrapping_mul(0x9e37_79b9).wrapping_add(u32::from(kind));
        let decision = match kind & 0x40 {
            0 => hooks::connect(&mut tables, &name, protocol),
            _ => hooks::sendmsg(&mut tables, &name),
        };
        let shown_as = if kind & 0x40 == 0 { protocol } else { UDP };
        tables.now_ns += 1 << 28;
        if tables.netns_cookie != 1 && name.addr[..13] == mapped(world::LOOPBACK4)[..13] {
            let kept = matches!(decision, Decision::Keep(_));
            assert!(kept, "a pod's own loopback address: {decision:?}");
        }
        match decision {
            Decision::Keep(_) | Decision::Refuse(_) => {}
            Decision::Replace(endpoint, _) => {
                assert_ne!(endpoint, Name { addr: [0; 16], port: [0; 2] });
                let shown = hooks::unmask(&tables, &endpoint, shown_as);
                assert_eq!(shown, Decision::Replace(name, shown.reason()), "{decision:?}");
            }
        }
    }
}
