//! What of a printed rule set is kube-proxy's, and the input for `iptables-restore` that removes it.

use std::{collections::BTreeSet, fmt::Write as _};

/// Chains of the kubelet: two tell which variant the node uses, one keeps martians away. They stay.
const KUBELET: [&str; 3] = ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY", "KUBE-FIREWALL"];

/// What there is to remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Removal {
    /// Input for `iptables-restore --noflush`; empty if there is nothing.
    pub(super) script: String,
    /// What it removes: `table CHAIN`, one per chain.
    pub(super) chains: Vec<String>,
}

/// Finds the chains for which `goes` says so, and everything that jumps there.
pub(super) fn removal(saved: &str, goes: impl Fn(&str) -> bool) -> Removal {
    let mut removal = Removal::default();
    let mut table = Table::default();
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = Table { name, ..Table::default() };
        } else if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split(' ').next().unwrap_or_default();
            if goes(name) {
                table.chains.insert(name);
            }
        } else if let Some(rule) = line.strip_prefix("-A ") {
            table.rules.push(rule);
        } else if line == "COMMIT" {
            table.write(&mut removal);
        }
    }
    removal
}

/// Whether kube-proxy owns a chain of this name.
pub(super) fn is_kube_proxys(chain: &str) -> bool {
    chain.starts_with("KUBE-") && !KUBELET.contains(&chain)
}

#[derive(Default)]
struct Table<'a> {
    name: &'a str,
    /// Those that go.
    chains: BTreeSet<&'a str>,
    /// All of them, without `-A `.
    rules: Vec<&'a str>,
}

impl Table<'_> {
    /// Jumps first: a chain that something jumps to cannot be deleted.
    fn write(&self, removal: &mut Removal) {
        if self.chains.is_empty() {
            return;
        }
        let script = &mut removal.script;
        let _infallible = writeln!(script, "*{}", self.name);
        for chain in &self.chains {
            // Names of chains that are there already are emptied.
            let _infallible = writeln!(script, ":{chain} - [0:0]");
        }
        for rule in &self.rules {
            let chain = rule.split(' ').next().unwrap_or_default();
            let jumps = target(rule).is_some_and(|target| self.chains.contains(target));
            if jumps && !self.chains.contains(chain) {
                let _infallible = writeln!(script, "-D {rule}");
            }
        }
        for chain in &self.chains {
            let _infallible = writeln!(script, "-X {chain}");
            removal.chains.push(format!("{} {chain}", self.name));
        }
        script.push_str("COMMIT\n");
    }
}

/// Where a rule jumps to; what a comment says is no jump.
fn target(rule: &str) -> Option<&str> {
    let mut words = words(rule);
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

/// The words of a rule; one in quotes is one word, quotes and all.
fn words(rule: &str) -> impl Iterator<Item = &str> {
    let mut rest = rule;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        if rest.is_empty() {
            return None;
        }
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.find(|c: char| {
            if escaped {
                escaped = false;
                return false;
            }
            match c {
                '\\' => escaped = true,
                '"' => quoted = !quoted,
                _ => {}
            }
            c == ' ' && !quoted
        });
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        Some(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"# a remark
*mangle
:PREROUTING ACCEPT [0:0]
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:PREROUTING ACCEPT [0:0]
:CNI-OUT - [0:0]
:KUBE-SEP-ABC - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes \"portals\" -j CNI-OUT" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "not -j KUBE-SERVICES" -j CNI-OUT
-A CNI-OUT -s 10.0.0.0/8 -g KUBE-SERVICES
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -j KUBE-SEP-ABC
COMMIT
*filter
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
COMMIT
"#;

    #[test]
    fn jumps_go_first_then_the_chains_and_the_kubelets_stay() {
        let removal = removal(SAVED, is_kube_proxys);
        let expected = r#"*mangle
:KUBE-PROXY-CANARY - [0:0]
-X KUBE-PROXY-CANARY
COMMIT
*nat
:KUBE-SEP-ABC - [0:0]
:KUBE-SERVICES - [0:0]
-D PREROUTING -m comment --comment "kubernetes \"portals\" -j CNI-OUT" -j KUBE-SERVICES
-D CNI-OUT -s 10.0.0.0/8 -g KUBE-SERVICES
-X KUBE-SEP-ABC
-X KUBE-SERVICES
COMMIT
"#;
        assert_eq!(removal.script, expected);
        assert_eq!(
            removal.chains,
            ["mangle KUBE-PROXY-CANARY", "nat KUBE-SEP-ABC", "nat KUBE-SERVICES"]
        );
    }

    #[test]
    fn where_nothing_is_ours_nothing_is_written() {
        assert_eq!(removal(SAVED, |_| false), Removal::default());
        assert_eq!(removal("", is_kube_proxys), Removal::default());
    }
}
