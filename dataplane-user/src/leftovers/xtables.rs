//! Chains of kube-proxy in both families of both variants of iptables.

use std::{collections::BTreeMap, fs};

use super::{
    Act, Error, Leftover, Outcome,
    rules::{is_kube_proxys, removal},
};
use crate::probe::tools::{self, Tools, Variant};

/// How long to wait for whoever holds the lock.
const LOCK_WAIT_S: &str = "10";

pub(super) fn kube_proxy(act: Act, outcome: &mut Outcome) {
    each(outcome, "kube-proxy", |saved, tools| {
        let removal = removal(saved, is_kube_proxys);
        if act == Act::Remove && !removal.script.is_empty() {
            restore(tools, &removal.script)?;
        }
        Ok(removal.chains)
    });
}

/// Looks at the rules of every family and variant; `look` says which chains are whose.
pub(super) fn each(
    outcome: &mut Outcome,
    of: &str,
    look: impl Fn(&str, &Tools) -> Result<Vec<String>, tools::Error>,
) {
    for variant in Variant::ALL {
        for family in ["iptables", "ip6tables"] {
            // Without the programs nobody can have made rules with them.
            let Ok(tools) = variant.tools(family) else { continue };
            if variant == Variant::Legacy && !has_legacy_tables(family) {
                continue;
            }
            let saved = tools::run(&tools.save, &[], "", None);
            match saved.and_then(|saved| look(&saved, &tools)) {
                Ok(chains) => outcome.leftovers.extend(summary(of, family, variant, &chains)),
                Err(source) => {
                    let variant = variant.name();
                    outcome.failed.push(Error::Rules { family, variant, source });
                }
            }
        }
    }
}

fn restore(tools: &Tools, script: &str) -> Result<(), tools::Error> {
    tools::run(&tools.restore, &["--noflush", "-w", LOCK_WAIT_S], script, None).map(drop)
}

/// Asking the legacy programs about a table makes the kernel make it; only those that are there may
/// be asked.
fn has_legacy_tables(family: &str) -> bool {
    let name = if family == "iptables" { "ip_tables_names" } else { "ip6_tables_names" };
    let names = fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    names.is_ok_and(|names| !names.trim().is_empty())
}

/// One line per table: there may be tens of thousands of chains.
fn summary(of: &str, family: &str, variant: Variant, chains: &[String]) -> Vec<Leftover> {
    let mut tables: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (table, chain) in chains.iter().filter_map(|chain| chain.split_once(' ')) {
        tables.entry(table).or_default().push(chain);
    }
    let line = |(table, chains): (&str, Vec<&str>)| {
        let first = chains.first().copied().unwrap_or_default();
        let chains = match chains.len() {
            1 => format!("chain {first}"),
            count => format!("{count} chains, such as {first}"),
        };
        let what = format!("{chains}, in table {table} of {family} ({})", variant.name());
        Leftover { of: of.to_owned(), what }
    };
    tables.into_iter().map(line).collect()
}
