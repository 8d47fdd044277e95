//! Walks packets through a program's rules as the kernel would, to compare with the meaning of a table.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use super::{
    half::Half,
    names::Chain,
    program::Program,
    rule::{Match, Rule, Table, Target},
};
use crate::{
    backend::{Desired, Mode, Node},
    limits,
    model::{DropCause, Family, Outcome, Packet, PortKey, PortState, Scope},
    simulate::Simulated,
};

/// What happens to the first packet of a flow under these rules.
pub fn simulate(program: &Program, packet: &Packet) -> Outcome {
    let half = program.half(Family::of(packet.destination));
    let (fixed, node) = (&program.fixed, &program.node);
    let is_local = |address: IpAddr| address.is_loopback() || node.addresses.contains(&address);
    let input = match packet.scope {
        Scope::Host => None,
        Scope::Pod => node.pod_links.first().map(String::as_str),
        // No name of a device has more than 15 bytes, so that this is no pod's.
        Scope::Outside => Some("a device of the node"),
    };
    let walk = Walk { half, packet, input, output: None, mask: fixed.mask };
    let is_host = packet.scope == Scope::Host;
    let start = if is_host { &fixed.output } else { &fixed.services };
    let ends = walk.all(Table::Nat, start, State::default());
    if ends.iter().any(|end| matches!(end.verdict, Verdict::Sent(_))) {
        return sent(&ends, |to, marked| {
            // What is delivered here never meets POSTROUTING, but what the host itself sends.
            if is_local(to) && !is_host {
                return false;
            }
            let output = Some(if is_local(to) { "lo" } else { "another device" });
            let walk = Walk { output, ..walk };
            let state = State { marked, translated: true, ..State::default() };
            let ends = walk.all(Table::Nat, &fixed.postrouting, state);
            ends.iter().any(|end| end.verdict == Verdict::Masqueraded)
        });
    }
    let start = match (packet.scope, is_local(packet.destination)) {
        (Scope::Host, _) => &fixed.output,
        (Scope::Pod | Scope::Outside, true) => &fixed.input,
        (Scope::Pod | Scope::Outside, false) => &fixed.forward,
    };
    let marked = ends.iter().any(|end| end.state.marked);
    let state = State { marked, ..State::default() };
    let ends = walk.all(Table::Filter, start, state);
    match ends.first().map(|end| &end.verdict) {
        Some(Verdict::Refused) => Outcome::Refused,
        Some(Verdict::Dropped(cause)) => Outcome::Dropped(*cause),
        Some(Verdict::Accepted | Verdict::Sent(_) | Verdict::Masqueraded) | None => {
            Outcome::NotOurs
        }
    }
}

impl Simulated for Program {
    fn mode(&self) -> Mode {
        Mode::Iptables
    }

    fn set_node(&mut self, node: &Node) {
        self.set_node(node);
    }

    fn compile(&mut self, table: &dyn Desired) {
        self.compile(table);
    }

    fn change(&mut self, key: &PortKey, state: Option<&PortState>) {
        self.change(key, state);
    }

    fn simulate(&self, packet: &Packet) -> Outcome {
        simulate(self, packet)
    }

    fn cannot(&self, packet: &Packet) -> Option<&'static str> {
        let is_loopback = packet.destination.is_ipv6() && packet.destination.is_loopback();
        (packet.scope == Scope::Host && is_loopback).then_some(limits::LOOPBACK6)
    }
}

/// What all draws together say: those whom a draw can give must be those with whom clients stay.
fn sent(ends: &[End], is_replaced: impl Fn(IpAddr, bool) -> bool) -> Outcome {
    let mut endpoints = BTreeMap::new();
    let (mut drawn, mut kept) = (BTreeSet::new(), BTreeSet::new());
    for end in ends {
        let Verdict::Sent(to) = end.verdict else { return Outcome::NotOurs };
        endpoints.insert(to, is_replaced(to.ip(), end.state.marked));
        match (&end.state.checked, &end.state.set) {
            (Some((list, seconds)), Some(set)) if list == set => {
                kept.insert((to, list.clone(), *seconds));
            }
            (None, set) => drop(drawn.insert((to, set.clone()))),
            (Some(_), _) => return Outcome::NotOurs,
        }
    }
    let seconds: BTreeSet<u32> = kept.iter().map(|(_, _, seconds)| *seconds).collect();
    let lists: BTreeSet<_> = kept.into_iter().map(|(to, list, _)| (to, Some(list))).collect();
    let affinity_s = seconds.first().copied().filter(|_| seconds.len() == 1 && lists == drawn);
    Outcome::To { endpoints, affinity_s }
}

/// What a packet has been through.
#[derive(Clone, Debug, Default)]
struct State {
    marked: bool,
    translated: bool,
    /// The list that its source was found in.
    checked: Option<(Chain, u32)>,
    /// The list that its source entered.
    set: Option<Chain>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Sent(SocketAddr),
    Masqueraded,
    Refused,
    Dropped(DropCause),
}

/// One way through the rules.
#[derive(Clone, Debug)]
struct End {
    verdict: Verdict,
    state: State,
}

#[derive(Clone, Copy)]
struct Walk<'a> {
    half: &'a Half,
    packet: &'a Packet,
    input: Option<&'a str>,
    output: Option<&'a str>,
    mask: u32,
}

/// Rules that are still to be looked at: a chain, and the number of the next rule.
type Stack<'a> = Vec<(&'a Chain, usize)>;

impl Walk<'_> {
    /// Every end that a packet can come to: each draw is won, and lost.
    fn all(&self, table: Table, start: &Chain, state: State) -> Vec<End> {
        let mut ends = Vec::new();
        let mut open = vec![(vec![(start, 0)], state)];
        while let Some((stack, state)) = open.pop() {
            self.one(table, stack, state, &mut open, &mut ends);
        }
        ends
    }

    fn one<'s>(
        &'s self,
        table: Table,
        mut stack: Stack<'s>,
        mut state: State,
        open: &mut Vec<(Stack<'s>, State)>,
        ends: &mut Vec<End>,
    ) {
        loop {
            let Some((chain, at)) = stack.last_mut() else {
                ends.push(End { verdict: Verdict::Accepted, state });
                return;
            };
            let chain = *chain;
            let rules = self.half.chains.get(&(table, chain.clone()));
            let Some(rule) = rules.and_then(|rules| rules.get(*at)) else {
                stack.pop();
                continue;
            };
            *at += 1;
            if !self.fits(rule, &state) {
                continue;
            }
            if rule.matches.iter().any(is_draw) {
                open.push((stack.clone(), state.clone()));
            }
            for of in &rule.matches {
                match of {
                    Match::RecentCheck { list, seconds, .. } => {
                        state.checked = Some((list.clone(), *seconds));
                    }
                    Match::RecentSet { list, .. } => state.set = Some(list.clone()),
                    Match::Comment(..)
                    | Match::Ports(..)
                    | Match::Mark { .. }
                    | Match::Random(_)
                    | Match::New
                    | Match::Known
                    | Match::Translated(_)
                    | Match::Strange => {}
                }
            }
            let verdict = match &rule.target {
                Target::Jump(to) => {
                    stack.push((to, 0));
                    continue;
                }
                Target::Goto(to) => {
                    stack.pop();
                    stack.push((to, 0));
                    continue;
                }
                Target::Return => {
                    stack.pop();
                    continue;
                }
                Target::SetMark(mask) => {
                    state.marked |= *mask == self.mask;
                    continue;
                }
                Target::ClearMark(mask) => {
                    state.marked &= *mask != self.mask;
                    continue;
                }
                Target::Accept => Verdict::Accepted,
                Target::Drop if chain.as_str().contains("-FW-") => {
                    Verdict::Dropped(DropCause::SourceNotAllowed)
                }
                Target::Drop => Verdict::Dropped(DropCause::NoLocalEndpoint),
                Target::Reject(_) => Verdict::Refused,
                Target::Dnat(to) => Verdict::Sent(*to),
                Target::Masquerade => Verdict::Masqueraded,
            };
            ends.push(End { verdict, state });
            return;
        }
    }

    fn fits(&self, rule: &Rule, state: &State) -> bool {
        let packet = self.packet;
        let source = rule.source.is_none_or(|net| net.contains(packet.source) != rule.not_source);
        source
            && rule.destination.is_none_or(|net| net.contains(packet.destination))
            && rule.input.as_deref().is_none_or(|device| self.input == Some(device))
            && rule.output.is_none_or(|device| self.output == Some(device))
            && rule.protocol.is_none_or(|protocol| protocol == packet.protocol)
            && rule.matches.iter().all(|of| match of {
                Match::Comment(..)
                | Match::Random(_)
                | Match::RecentCheck { .. }
                | Match::RecentSet { .. }
                | Match::New => true,
                Match::Ports(first, last) => (first..=last).contains(&&packet.port),
                Match::Mark { mask, set } => (state.marked && *mask == self.mask) == *set,
                Match::Known => false,
                Match::Translated(is) => state.translated == *is,
                Match::Strange => !state.translated,
            })
    }
}

/// Whether a packet that fits may still not be meant.
fn is_draw(of: &Match) -> bool {
    matches!(of, Match::Random(_) | Match::RecentCheck { .. })
}
