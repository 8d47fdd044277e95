//! Chains that are not as the program says, in words and by service port.

use super::{FAMILIES, Iptables};
use crate::backend::Drift;

impl Iptables {
    /// How what was read differs from the program: how many chains, and some of them.
    pub(super) fn differences(&self, max: usize) -> (usize, Vec<Drift>) {
        let (mut total, mut some) = (0, Vec::new());
        for family in FAMILIES.into_iter().filter(|family| self.is_used(*family)) {
            let restore = self.difference(family);
            total += restore.chains.len() + restore.hooks.len();
            for ((table, chain), digest) in &restore.chains {
                if some.len() == max {
                    break;
                }
                let state = if digest.is_some() { "is not as it should be" } else { "is too much" };
                // Chains of many services are told by the first of them.
                let rules = format!("-A {chain} ");
                let lines = restore.text.lines().filter(|line| line.starts_with(&rules));
                let chain_line = format!(":{chain} ");
                let mut lines = std::iter::once(chain_line.as_str()).chain(lines);
                let key = lines.find_map(|line| self.program.key_of_line(family, line));
                some.push(Drift {
                    key,
                    what: format!("chain {chain} of table {} {state}", table.name()),
                });
            }
            for (table, chain) in restore.hooks.keys().take(max - some.len()) {
                let what =
                    format!("the rule in {chain} of table {} is missing or moved", table.name());
                some.push(Drift { key: None, what });
            }
        }
        (total, some)
    }
}
