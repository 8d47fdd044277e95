//! The chains of which there is one: jumped to by the kernel's own, or shared by services.

use std::sync::Arc;

use super::{
    names::{Chain, Names},
    port::Place,
    rule::{Match, Reject, Rule, Table, Target},
};
use crate::{
    backend::Node,
    model::{Cidr, Family, Protocol},
};

/// Their names, and the bit that says "masquerade".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) names: Names,
    pub(super) mask: u32,
    /// Sets the bit.
    pub(super) mark: Chain,
    /// Sets the bit of packets that came from pods.
    pub(super) mark_pods: Chain,
    /// Sets the bit of packets that did not come from pods.
    pub(super) mark_outside: Chain,
    /// Frontends by address.
    pub(super) services: Chain,
    /// Frontends on node addresses.
    pub(super) node_ports: Chain,
    pub(super) refuse: Chain,
    pub(super) reject: Chain,
    pub(super) input: Chain,
    pub(super) forward: Chain,
    pub(super) output: Chain,
    pub(super) postrouting: Chain,
}

/// A chain of the kernel's, and which of ours it jumps to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) table: Table,
    pub(super) name: &'static str,
    pub(super) rule: Rule,
}

impl Fixed {
    pub(super) fn new(instance: &str, mask: u32) -> Self {
        let names = Names::of(instance);
        let only = |name| names.only(name);
        Self {
            mask,
            mark: only("MARK-MASQ"),
            mark_pods: only("MARK-PODS"),
            mark_outside: only("MARK-OUTSIDE"),
            services: only("SERVICES"),
            node_ports: only("NODEPORTS"),
            refuse: only("REFUSE"),
            reject: only("REJECT"),
            input: only("INPUT"),
            forward: only("FORWARD"),
            output: only("OUTPUT"),
            postrouting: only("POSTROUTING"),
            names,
        }
    }

    /// What the kernel's own chains need to have.
    pub(super) fn hooks(&self) -> Vec<Hook> {
        let hook = |table, name, chain: &Chain, why: &'static str| {
            let rule = Rule::jump(chain).comment(&Arc::from("hashplane"), why);
            Hook { table, name, rule }
        };
        vec![
            hook(Table::Filter, "INPUT", &self.input, "who is not served"),
            hook(Table::Filter, "FORWARD", &self.forward, "who is not served"),
            hook(Table::Filter, "OUTPUT", &self.output, "who is not served"),
            hook(Table::Nat, "PREROUTING", &self.services, "services"),
            hook(Table::Nat, "OUTPUT", &self.output, "services"),
            hook(Table::Nat, "POSTROUTING", &self.postrouting, "masquerade"),
        ]
    }

    /// The chains whose rules depend on nothing but the node. Those of frontends are not among them.
    pub(super) fn chains(&self, family: Family, node: &Node) -> Vec<(Place, Vec<Rule>)> {
        let loopback = node.loopback && family == Family::V4;
        let is_set = |set| Match::Mark { mask: self.mask, set };
        let set = || Rule::new(Target::SetMark(self.mask));
        let pods = || node.pod_links.iter().map(String::as_str);
        let nat = |chain: &Chain| (Table::Nat, chain.clone());
        let filter = |chain: &Chain| (Table::Filter, chain.clone());
        let mut lo = Rule::new(Target::Return);
        lo.output = Some("lo");
        // New packets of the host have the bit while we look for a frontend: the chains tell them
        // from others by it, and all that find one are masqueraded.
        let mut output = vec![set(), Rule::jump(&self.services)];
        output.extend(loopback.then(|| Rule::jump(&self.node_ports).to(LOOPBACK)));
        output.push(Rule::new(Target::ClearMark(self.mask)));
        vec![
            (nat(&self.mark), vec![set()]),
            (nat(&self.mark_pods), pods().map(|link| set().input(link)).collect()),
            (
                nat(&self.mark_outside),
                pods().map(|link| Rule::new(Target::Return).input(link)).chain([set()]).collect(),
            ),
            (nat(&self.output), output),
            (
                nat(&self.postrouting),
                vec![
                    Rule::new(Target::Return).with(is_set(false)),
                    Rule::new(Target::ClearMark(self.mask)),
                    // Only the host's own endpoints are reached by it.
                    lo,
                    Rule::new(Target::Masquerade),
                ],
            ),
            (filter(&self.reject), rejects(family)),
            (filter(&self.input), self.filter_input(loopback)),
            (
                filter(&self.forward),
                vec![
                    self.refuses(),
                    Rule::new(Target::Accept).with(is_set(true)),
                    Rule::new(Target::Accept).with(Match::Known).with(Match::Translated(true)),
                ],
            ),
            (filter(&self.output), self.filter_output(loopback)),
        ]
    }

    fn refuses(&self) -> Rule {
        Rule::jump(&self.refuse).with(Match::New).with(Match::Translated(false))
    }

    fn filter_input(&self, loopback: bool) -> Vec<Rule> {
        // With route_localnet others could reach what listens on 127.0.0.1 alone (CVE-2020-8558).
        let mut strangers = Rule::new(Target::Drop).from(LOOPBACK).to(LOOPBACK);
        strangers.not_source = true;
        let strangers = strangers.with(Match::Strange);
        loopback.then_some(strangers).into_iter().chain([self.refuses()]).collect()
    }

    fn filter_output(&self, loopback: bool) -> Vec<Rule> {
        let node_ports = || {
            let rule = Rule::jump(&self.node_ports).to(LOOPBACK);
            rule.with(Match::New).with(Match::Translated(false))
        };
        [self.refuses()].into_iter().chain(loopback.then(node_ports)).collect()
    }
}

/// 127.0.0.0/8.
pub(super) const LOOPBACK: Cidr =
    Cidr { address: std::net::IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), prefix_len: 8 };

/// How clients hear that nobody is there.
fn rejects(family: Family) -> Vec<Rule> {
    let unreachable = || Rule::new(Target::Reject(Reject::Unreachable(family)));
    vec![
        Rule::new(Target::Reject(Reject::Reset)).protocol(Protocol::Tcp),
        unreachable().protocol(Protocol::Udp),
        unreachable().protocol(Protocol::Sctp),
    ]
}
