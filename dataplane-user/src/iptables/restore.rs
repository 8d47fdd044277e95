//! What `iptables-restore` reads: only the chains that differ from the kernel's, both tables in turn.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    hash::{DefaultHasher, Hasher},
};

use super::{
    fixed::{Fixed, Hook},
    half::Half,
    names::Chain,
    observe::Seen,
    port::Place,
    rule::{Rule, Table},
};

/// What the kernel holds of one family, as far as we know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kernel {
    /// A hash of the rules of each chain.
    pub(super) chains: BTreeMap<Place, u64>,
    /// The rules in the kernel's own chains that lead to ours.
    pub(super) hooks: BTreeMap<(Table, String), Vec<String>>,
}

/// A restore, and what is known once it has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Restore {
    pub(super) text: String,
    /// Chains that are written, and hashes of their rules; chains that are deleted.
    pub(super) chains: Vec<(Place, Option<u64>)>,
    pub(super) hooks: BTreeMap<(Table, String), Vec<String>>,
    /// Rules in it, and in the kernel's chains.
    pub(super) written: usize,
    /// Chains that it deletes.
    pub(super) deleted: usize,
}

impl Kernel {
    /// What was read back.
    pub(super) fn of(seen: &Seen) -> Self {
        let chain = |(place, rules): (&Place, &Vec<String>)| (place.clone(), digest(rules.iter()));
        Self { chains: seen.chains.iter().map(chain).collect(), hooks: seen.hooks.clone() }
    }

    /// Whether there is nothing of ours.
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.hooks.is_empty()
    }

    /// The restore has succeeded.
    pub(super) fn took(&mut self, restore: Restore) {
        for (place, digest) in restore.chains {
            match digest {
                Some(digest) => drop(self.chains.insert(place, digest)),
                None => drop(self.chains.remove(&place)),
            }
        }
        self.hooks.extend(restore.hooks);
        self.hooks.retain(|_, rules| !rules.is_empty());
    }

    /// What differs from what was read back, chains and hooks; from now on that is what is known.
    pub(super) fn correct(&mut self, seen: &Seen) -> (BTreeSet<Place>, usize) {
        let now = Self::of(seen);
        let places = self.chains.keys().chain(now.chains.keys());
        let differs = |place: &&Place| self.chains.get(place) != now.chains.get(place);
        let places: BTreeSet<Place> = places.filter(differs).cloned().collect();
        let hooks: BTreeSet<_> = self.hooks.keys().chain(now.hooks.keys()).collect();
        let hooks = hooks.into_iter().filter(|of| self.hooks.get(of) != now.hooks.get(of)).count();
        *self = now;
        (places, hooks)
    }
}

/// What makes the kernel hold the chains at `places`, and what leads to them.
pub(super) fn restore(
    half: &Half,
    fixed: &Fixed,
    kernel: &Kernel,
    places: &BTreeSet<Place>,
) -> Restore {
    let mut restore = Restore::default();
    let mut order = Table::ALL;
    if kernel.is_empty() {
        // Another mode may serve, and tracks translated packets as if they were for this host: who is
        // refused must not be known before who is sent on.
        order.reverse();
    }
    for table in order {
        let mut section = Section::default();
        let hooks = fixed.hooks().into_iter().filter(|of| of.table == table);
        let entrances: BTreeSet<Chain> = hooks.filter_map(|of| of.rule.leads_to()).collect();
        for place in places.iter().filter(|(of, _)| *of == table) {
            let rules = half.chains.get(place).map(|rules| lines(rules));
            let wanted = rules.as_ref().map(|rules| digest(rules.iter()));
            if wanted == kernel.chains.get(place).copied() {
                continue;
            }
            section.chain(place, rules.as_deref(), entrances.contains(&place.1));
            restore.written += rules.as_ref().map_or(0, Vec::len);
            restore.deleted += usize::from(rules.is_none());
            restore.chains.push((place.clone(), wanted));
        }
        for Hook { name, rule, .. } in fixed.hooks().into_iter().filter(|of| of.table == table) {
            let at = (table, name.to_owned());
            let (seen, wanted) = (kernel.hooks.get(&at), vec![rule.to_string()]);
            if seen != Some(&wanted) {
                section.hook(name, seen, &wanted);
                restore.written += 1;
                restore.hooks.insert(at, wanted);
            }
        }
        section.end(table, kernel, &mut restore.text);
    }
    restore
}

/// What removes everything of ours.
pub(super) fn removal(kernel: &Kernel) -> Restore {
    let mut restore = Restore::default();
    for table in Table::ALL {
        let mut section = Section::default();
        for place in kernel.chains.keys().filter(|(of, _)| *of == table) {
            section.chain(place, None, false);
            restore.deleted += 1;
            restore.chains.push((place.clone(), None));
        }
        for ((_, name), seen) in kernel.hooks.iter().filter(|((of, _), _)| *of == table) {
            section.hook(name, Some(seen), &[]);
            restore.hooks.insert((table, name.clone()), Vec::new());
        }
        section.end(table, kernel, &mut restore.text);
    }
    restore
}

/// Everything of one family, in the words of `iptables-save`.
pub(super) fn whole(half: &Half, fixed: &Fixed) -> String {
    let places = half.chains.keys().cloned().collect();
    restore(half, fixed, &Kernel::default(), &places).text
}

/// From so many chains on a restore lists the table first.
const LISTED_FROM: usize = 1_000;
/// See [`Section::end`].
pub(super) const LIST: &str = "-S";

/// The lines of one table.
#[derive(Default)]
struct Section {
    /// Chains that rules in the kernel's chains lead to.
    entrances: String,
    hooks: String,
    chains: String,
    rules: String,
    deletes: String,
    /// How many chains it is about.
    count: usize,
}

impl Section {
    /// A chain is emptied, or made, by its name alone.
    fn chain(&mut self, (_, chain): &Place, rules: Option<&[String]>, is_entrance: bool) {
        self.count += 1;
        let lines = if is_entrance { &mut self.entrances } else { &mut self.chains };
        write(lines, format_args!(":{chain} - [0:0]"));
        for rule in rules.into_iter().flatten() {
            write(&mut self.rules, format_args!("-A {chain} {rule}"));
        }
        if rules.is_none() {
            write(&mut self.deletes, format_args!("-X {chain}"));
        }
    }

    fn hook(&mut self, name: &str, seen: Option<&Vec<String>>, wanted: &[String]) {
        for rule in seen.into_iter().flatten() {
            write(&mut self.hooks, format_args!("-D {name} {rule}"));
        }
        for rule in wanted {
            write(&mut self.hooks, format_args!("-I {name} {rule}"));
        }
    }

    /// The table as a whole; it is one transaction, whatever comes first.
    ///
    /// The nft variant notes every chain that a line names in a list, which it searches from its front:
    /// with 60,000 chains it needs minutes. A command that names no chain makes it read all of them and
    /// stop noting, so that the time grows with the number of lines alone; listing is the only such
    /// command that changes nothing. What comes before it are the rules in chains of the kernel, which
    /// it would keep from being made, and what they lead to. Where many chains are there already,
    /// reading them costs more than it saves.
    fn end(&self, table: Table, kernel: &Kernel, text: &mut String) {
        let Self { entrances, hooks, chains, rules, deletes, count } = self;
        let there = || kernel.chains.keys().filter(|(of, _)| *of == table).count();
        let is_listed = *count >= LISTED_FROM && *count > there();
        let list = if is_listed { format!("{LIST}\n") } else { String::new() };
        if *count > 0 || !hooks.is_empty() {
            let name = table.name();
            write(
                text,
                format_args!("*{name}\n{entrances}{hooks}{list}{chains}{rules}{deletes}COMMIT"),
            );
        }
    }
}

fn write(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _: std::fmt::Result = writeln!(text, "{line}");
}

/// Rules as they are printed.
pub(super) fn lines(rules: &[Rule]) -> Vec<String> {
    rules.iter().map(Rule::to_string).collect()
}

fn digest(rules: impl Iterator<Item = impl AsRef<str>>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for rule in rules {
        hasher.write(rule.as_ref().as_bytes());
        hasher.write_u8(b'\n');
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{backend::Node, iptables::Program, model::Family};

    #[test]
    fn the_first_restore_sends_on_before_it_refuses_and_later_ones_after() {
        let mut program = Program::default();
        program.set_node(&Node { loopback: true, ..Node::default() });
        let half = program.half(Family::V4);
        let places: BTreeSet<Place> = half.chains.keys().cloned().collect();
        let order = |kernel: &Kernel| {
            let text = restore(half, &program.fixed, kernel, &places).text;
            let at = |table: &str| text.find(table).unwrap_or_else(|| panic!("{text}"));
            at("*nat\n").cmp(&at("*filter\n"))
        };
        assert!(order(&Kernel::default()).is_lt());
        let hooks = BTreeMap::from([((Table::Nat, "OUTPUT".to_owned()), vec!["other".to_owned()])]);
        let kernel = Kernel { hooks, ..Kernel::default() };
        assert!(order(&kernel).is_gt());
    }
}
