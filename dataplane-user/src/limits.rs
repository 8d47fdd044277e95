//! What each backend cannot do, side by side: the table in `docs/modes.md`.

use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    backend::{Limit, Mode},
    ebpf, iptables, ipvs, nftables,
};

/// Node ports on the IPv4 loopback address.
pub const LOOPBACK4: &str = "NodePort on 127.0.0.1";
/// Node ports on the IPv6 loopback address.
pub const LOOPBACK6: &str = "NodePort on ::1";
/// One endpoint per client and service port, whichever of its frontends the client uses.
pub const AFFINITY_OF_FRONTENDS: &str = "session affinity across the frontends of a service port";
/// After which a client without new connections chooses again.
pub const AFFINITY_TIMEOUT: &str = "the timeout of session affinity";
/// Who asks two Services that share an endpoint, from one address and port.
pub const CLIENT_PORT: &str = "one client port with two Services that share an endpoint";

/// What a backend cannot do.
pub fn of(mode: Mode) -> &'static [Limit] {
    match mode {
        Mode::Ebpf => ebpf::LIMITS,
        Mode::Iptables => iptables::LIMITS,
        Mode::Ipvs => ipvs::LIMITS,
        Mode::Nftables => nftables::LIMITS,
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
            let _infallible = write!(text, " {} |", limits.get(&mode).unwrap_or(&""));
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{env, fs, path::Path};

    use super::*;

    const BEGIN: &str = "<!-- limits, from the code: begin -->\n";
    const END: &str = "<!-- limits, from the code: end -->\n";

    #[test]
    fn the_table_in_the_documentation_is_that_of_the_code() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/modes.md");
        let text = fs::read_to_string(&path).unwrap();
        let (head, rest) = text.split_once(BEGIN).unwrap();
        let (said, tail) = rest.split_once(END).unwrap();
        let wanted = table();
        if env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, format!("{head}{BEGIN}{wanted}{END}{tail}")).unwrap();
            return;
        }
        assert_eq!(said, wanted, "UPDATE_DOCS=1 writes the table anew");
    }

    #[test]
    fn no_backend_names_a_feature_twice() {
        for mode in Mode::ALL {
            for limit in of(mode) {
                let same = of(mode).iter().filter(|other| other.feature == limit.feature);
                assert_eq!(same.count(), 1, "{mode}: {}", limit.feature);
                assert!(!limit.why.contains('|') && !limit.feature.contains('|'), "{mode}");
            }
        }
    }
}
