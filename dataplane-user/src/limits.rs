//! What each backend cannot do, side by side: the table in `docs/modes.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    backend::{Limit, Mode},
    ebpf, iptables,
};

/// Node ports on ::1.
pub const IPV6_LOOPBACK: &str = "NodePort on ::1";
/// One endpoint per client and service port, whichever of its frontends the client uses.
pub const AFFINITY_OF_FRONTENDS: &str = "session affinity across the frontends of a service port";

/// What a backend cannot do.
pub fn of(mode: Mode) -> &'static [Limit] {
    match mode {
        Mode::Ebpf => ebpf::LIMITS,
        Mode::Iptables => iptables::LIMITS,
        Mode::Nftables | Mode::Ipvs => &[],
    }
}

/// Why a backend cannot do something that is named here or in its own limits.
pub fn why(mode: Mode, feature: &str) -> Option<&'static str> {
    of(mode).iter().find(|limit| limit.feature == feature).map(|limit| limit.why)
}

/// All limits as a table in Markdown: a row per feature, a column per backend.
pub fn table() -> String {
    let mut rows: BTreeMap<&str, BTreeMap<Mode, &str>> = BTreeMap::new();
    for mode in Mode::ALL {
        for limit in of(mode) {
            rows.entry(limit.feature).or_default().insert(mode, limit.why);
        }
    }
    let mut text = String::from("| |");
    for mode in Mode::ALL {
        let _infallible = write!(text, " {mode} |");
    }
    let _infallible = writeln!(text, "\n| --- |{}", " --- |".repeat(Mode::ALL.len()));
    for (feature, limits) in rows {
        let _infallible = write!(text, "| {feature} |");
        for mode in Mode::ALL {
            let _infallible = write!(text, " {} |", limits.get(&mode).unwrap_or(&"yes"));
        }
        text.push('\n');
    }
    text
}
